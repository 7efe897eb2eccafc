//! A plugin for the rooms `liquidations:CHAIN:PROTOCOL`: who may enter, what an event is, who receives which, and
//! how often a wallet may appear. It masks wallets before messages are stored. Its versions differ in the four
//! bytes behind `mask=` in the file, so a message shows which version let it through.

use serde::{Deserialize, Serialize};
use std::{borrow::Cow, hint::black_box, time::Duration};
use switchyard_sdk::metrics::{Counter, Metric};
use switchyard_sdk::state::{self, Rate};
use switchyard_sdk::{
    Deliver, Grant, Limits, Message, Plugin, Publication, Publish, Reject, Room, RoomVerdict, Scope,
    Subscribe, Subscription, Verdict,
};

/// What stands for the hidden digits of a wallet. A test replaces this in the bytes of the file.
static MASK: [u8; 9] = *b"mask=****";

const PRO_PROTOCOL: &str = "aave-v3";
const PRO_TIER: &str = "pro";
const ROOMS_PER_CONNECTION: u32 = 20;
/// The digits of a wallet, without `0x`.
const WALLET_DIGITS: usize = 40;

/// Messages that came too soon after another one of the same wallet.
const SUPPRESSED: Counter = Counter::new(0, "liquidations_suppressed");

/// The plugin's configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Config {
    /// How many digits of a wallet stay visible at each end.
    visible_digits: usize,
    /// Of each wallet, one message passes in this many milliseconds.
    wallet_window_ms: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { visible_digits: 4, wallet_window_ms: 10_000 }
    }
}

/// A filter: what must be true of an event.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    min_usd: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    assets: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health_below: Option<f64>,
}

/// The data of a message.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event<'a> {
    /// The publisher's number for it.
    id: u64,
    #[serde(borrow)]
    wallet: Cow<'a, str>,
    #[serde(borrow)]
    asset: Cow<'a, str>,
    usd: f64,
    health: f64,
}

/// The plugin.
pub struct Liquidations(Config);

impl Plugin for Liquidations {
    type Config = Config;
    const METRICS: &'static [Metric] = &[SUPPRESSED.metric()];

    fn new(config: Config) -> Result<Self, String> {
        match config.visible_digits {
            0..=8 => Ok(Self(config)),
            given => Err(format!("config.visibleDigits must be at most 8, got {given}")),
        }
    }
}

impl Room for Liquidations {
    fn room(&self, name: &str) -> Result<RoomVerdict, Reject> {
        // In lower case, so that nobody enters a room for `pro` under another name.
        let canonical = name.to_ascii_lowercase();
        match canonical.split(':').collect::<Vec<_>>()[..] {
            ["liquidations", _, _] => {
                Ok(RoomVerdict::canonical(name, canonical).cached(Duration::from_secs(60)))
            }
            _ => Err(Reject::invalid("expected liquidations:CHAIN:PROTOCOL, e.g. liquidations:base:aave-v3")),
        }
    }
}

impl Subscribe for Liquidations {
    fn subscribe(&self, subscription: &Subscription<'_>) -> Result<Grant, Reject> {
        let protocol = subscription.room.rsplit(':').next();
        if protocol == Some(PRO_PROTOCOL) && subscription.who.tier != PRO_TIER {
            return Err(Reject::denied(format!("rooms of {PRO_PROTOCOL} need the tier '{PRO_TIER}'")));
        }
        // Even without a filter of its own, a member must not receive wallets that were stored unmasked.
        let scope = match subscription.filter {
            Some(_) => Scope::Asked,
            None => Scope::Filter("{}".to_owned()),
        };
        let limits = Limits { rooms: Some(ROOMS_PER_CONNECTION), ..Limits::default() };
        Ok(Grant { scope, limits: Some(limits) })
    }
}

impl Publish for Liquidations {
    fn publish(&self, publication: &Publication<'_>) -> Result<Verdict, Reject> {
        let mut event: Event = publication.message.json()?;
        let Some(digits) = digits(&event.wallet) else {
            return Err(Reject::invalid("data.wallet must be 0x and 40 hexadecimal digits"));
        };
        if event.usd < 0.0 || event.health < 0.0 {
            return Err(Reject::invalid("data.usd and data.health must be at least 0"));
        }
        let digits = digits.to_ascii_lowercase();
        if !self.takes(&digits, publication) {
            SUPPRESSED.add(1);
            return Ok(Verdict::Discard);
        }
        // Otherwise the compiler would inline the bytes that it sees, instead of reading those in the file.
        let mask = String::from_utf8_lossy(&black_box(&MASK)[5..]);
        let visible = self.0.visible_digits;
        let (start, end) = (&digits[..visible], &digits[WALLET_DIGITS - visible..]);
        event.wallet = format!("0x{start}{mask}{end}").into();
        Verdict::replace(&event)
    }
}

impl Liquidations {
    /// Whether the wallet may appear now. A repetition of its last message may, because its publisher may not know
    /// that it was stored, and the host may not either.
    fn takes(&self, wallet: &str, publication: &Publication<'_>) -> bool {
        let (key, window) = (format!("wallet:{wallet}"), self.0.wallet_window_ms);
        let rate = Rate { burst: window, per_minute: 60_000 };
        let message = publication
            .idempotency_key
            .map(|key| format!("{} {} {key}", publication.who.id, publication.message.room));
        if state::take(&key, window, rate).is_ok() {
            let until = Some(Duration::from_millis(window.into()));
            // If there is no room for it, a repetition is suppressed.
            state::set(&key, message.unwrap_or_default().as_bytes(), until).ok();
            return true;
        }
        message.is_some_and(|message| state::get(&key).as_deref() == Some(message.as_bytes()))
    }
}

/// The digits of a whole wallet.
fn digits(wallet: &str) -> Option<&str> {
    let digits = wallet.strip_prefix("0x")?;
    let is_whole = digits.len() == WALLET_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_whole.then_some(digits)
}

impl Deliver for Liquidations {
    type Filter = Filter;
    type Parsed<'a> = Event<'a>;

    fn parse<'a>(&self, message: Message<'a>) -> Option<Event<'a>> {
        // What was stored before the plugin was there passes no filter.
        message.read().filter(|event: &Event| digits(&event.wallet).is_none())
    }

    fn matches(&self, filter: &Filter, event: &Event) -> bool {
        filter.min_usd.is_none_or(|min| event.usd >= min)
            && filter.health_below.is_none_or(|limit| event.health < limit)
            && (filter.assets.is_empty() || filter.assets.iter().any(|asset| *asset == event.asset))
    }

    fn normalize(&self, mut filter: Filter) -> Result<Filter, String> {
        filter.assets.sort();
        filter.assets.dedup();
        Ok(filter)
    }
}

switchyard_sdk::export!(Liquidations: room, subscribe, publish, deliver);
