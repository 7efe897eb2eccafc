//! Rooms named `protocol:chain`, such as `uniswap-v3:ethereum`: which names exist, their one spelling, and how
//! many of them a tier may hold.

mod config;

pub use config::{Config, Rooms};
use std::time::Duration;
use switchyard_sdk::metrics::{Counter, Metric};
use switchyard_sdk::{Grant, Limits, Plugin, Reject, Room, RoomVerdict, Subscribe, Subscription};

const REFUSED: Counter = Counter::new(0, "rooms_refused");

/// The plugin; see the README for its config.
pub struct ProtocolRooms {
    config: Config,
}

impl Plugin for ProtocolRooms {
    type Config = Config;
    const METRICS: &'static [Metric] = &[REFUSED.metric()];

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { config: config.checked()? })
    }
}

impl Room for ProtocolRooms {
    fn room(&self, name: &str) -> Result<RoomVerdict, Reject> {
        let spelling = name.to_ascii_lowercase();
        let wrong = |reason: String| {
            REFUSED.add(1);
            Reject::invalid(format!("room '{name}': {reason}"))
        };
        let Some((protocol, chain)) = spelling.split_once(':').filter(|(_, chain)| !chain.contains(':'))
        else {
            let (protocol, chain) = (&self.config.protocols[0], &self.config.chains[0]);
            return Err(wrong(format!("a name here is protocol:chain, such as {protocol}:{chain}")));
        };
        for (part, kind, known) in
            [(protocol, "protocol", &self.config.protocols), (chain, "chain", &self.config.chains)]
        {
            if known.binary_search_by(|one| one.as_str().cmp(part)).is_err() {
                return Err(wrong(format!("{kind} '{part}' is unknown; known are {}", listed(known))));
            }
        }
        Ok(RoomVerdict::canonical(name, spelling)
            .cached(Duration::from_secs(self.config.cache_seconds.into())))
    }
}

impl Subscribe for ProtocolRooms {
    fn subscribe(&self, subscription: &Subscription<'_>) -> Result<Grant, Reject> {
        if subscription.filter.is_some() {
            return Err(Reject::invalid(format!(
                "room '{}' takes no filter: subscribe to the protocols and chains that you want, without one",
                subscription.room
            )));
        }
        let tier = subscription.who.tier.as_str();
        let allowed = self.config.rooms(tier);
        let (tier, counts) = (if tier.is_empty() { "no tier" } else { tier }, subscription.counts);
        within(allowed.per_connection, counts.of_connection, "a connection", tier)?;
        within(allowed.per_principal, counts.of_principal, "all connections of a principal", tier)?;
        // The host is told as well: it counts where two subscriptions at once could both see room for one more.
        Ok(Grant::default().with_limits(Limits { rooms: allowed.per_connection, ..Limits::default() }))
    }
}

fn within(most: Option<u32>, held: u32, holder: &str, tier: &str) -> Result<(), Reject> {
    match most {
        Some(most) if held >= most => Err(Reject::limit(format!(
            "with {tier}, {holder} may hold {most} protocol rooms and {held} are held: unsubscribe one first"
        ))),
        _ => Ok(()),
    }
}

/// How many names a reason shows: enough to find a misspelling, too few to fill a client's screen.
const SHOWN: usize = 12;

fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

switchyard_sdk::export!(ProtocolRooms: room, subscribe);
