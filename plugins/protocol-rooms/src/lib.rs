//! A plugin for rooms named `protocol:chain`, such as `uniswap-v3:ethereum`. It decides which names exist and
//! which form is canonical, and limits the number of rooms by tier.

mod config;

pub use config::{Config, RoomLimits};
use std::time::Duration;
use switchyard_sdk::metrics::{Counter, Metric};
use switchyard_sdk::{Grant, Limits, Plugin, Reject, Room, RoomVerdict, Subscribe, Subscription};

const ROOMS_REFUSED: Counter = Counter::new(0, "rooms_refused");

/// The plugin. The README describes its configuration.
pub struct ProtocolRooms {
    config: Config,
}

impl Plugin for ProtocolRooms {
    type Config = Config;
    const METRICS: &'static [Metric] = &[ROOMS_REFUSED.metric()];

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { config: config.checked()? })
    }
}

impl Room for ProtocolRooms {
    fn room(&self, name: &str) -> Result<RoomVerdict, Reject> {
        let spelling = name.to_ascii_lowercase();
        let reject = |reason: String| {
            ROOMS_REFUSED.add(1);
            Reject::invalid(format!("room '{name}': {reason}"))
        };
        let Some((protocol, chain)) = spelling.split_once(':').filter(|(_, chain)| !chain.contains(':'))
        else {
            let (protocol, chain) = (&self.config.protocols[0], &self.config.chains[0]);
            return Err(reject(format!("expected protocol:chain, e.g. {protocol}:{chain}")));
        };
        for (part, kind, known) in
            [(protocol, "protocol", &self.config.protocols), (chain, "chain", &self.config.chains)]
        {
            if known.binary_search_by(|one| one.as_str().cmp(part)).is_err() {
                return Err(reject(format!(
                    "unknown {kind} '{part}'; expected one of {}",
                    join_first(known)
                )));
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
                "room '{}' does not accept filters; subscribe to the rooms that you want, without a filter",
                subscription.room
            )));
        }
        let tier = subscription.who.tier.as_str();
        let (limits, counts) = (self.config.room_limits(tier), subscription.counts);
        let tier = if tier.is_empty() { "default" } else { tier };
        check_limit(limits.per_connection, counts.of_connection, "a connection", tier)?;
        check_limit(
            limits.per_principal,
            counts.of_principal,
            "all connections of a principal together",
            tier,
        )?;
        // The host enforces the limit as well.
        Ok(Grant::default().with_limits(Limits { rooms: limits.per_connection, ..Limits::default() }))
    }
}

/// Rejects a subscription to another room beyond the limit. `who` has already joined `count` rooms.
fn check_limit(max: Option<u32>, count: u32, who: &str, tier: &str) -> Result<(), Reject> {
    match max {
        Some(max) if count >= max => Err(Reject::limit(format!(
            "tier '{tier}' allows {who} at most {max} protocol rooms, and {count} are joined; unsubscribe from one first"
        ))),
        _ => Ok(()),
    }
}

/// The maximum number of names in a reason: enough to find a misspelling, too few to fill a client's screen.
const MAX_LISTED_NAMES: usize = 12;

/// The first names, separated by commas, and the number of the others.
fn join_first(names: &[String]) -> String {
    let shown = names[..names.len().min(MAX_LISTED_NAMES)].join(", ");
    match names.len().saturating_sub(MAX_LISTED_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

switchyard_sdk::export!(ProtocolRooms: room, subscribe);
