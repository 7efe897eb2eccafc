//! The parts of a message that filters look at.

use crate::BOOK_EVENT;
use crate::book::Book;
use crate::decimal::Decimal;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use switchyard_sdk::Message;

/// A message's market and its largest size. A filter may look at only one of them, so a missing or invalid
/// one does not affect filters on the other.
#[derive(Debug)]
pub struct Quote {
    /// In lower case, as in a normalized filter.
    pub(crate) market: String,
    /// `None` if the message has no valid size.
    pub(crate) largest_size: Option<Decimal>,
}

/// A trade, or any other event of the feed. Missing fields and fields of another type are `None`.
#[derive(Default)]
struct Trade {
    market: Option<String>,
    size: Option<Decimal>,
}

impl Quote {
    /// Reads a message; `None` for a malformed book.
    pub(crate) fn read(message: Message<'_>) -> Option<Self> {
        if message.event == BOOK_EVENT {
            let largest_size = Book::read(message).ok()?.largest_size().cloned();
            return Some(Self { market: market_of(message.room), largest_size });
        }
        let trade = message.read::<Trade>().unwrap_or_default();
        // A room such as `trades` has all markets, so the event's own market comes first.
        let market =
            trade.market.map_or_else(|| market_of(message.room), |market| market.to_ascii_lowercase());
        Some(Self { market, largest_size: trade.size })
    }
}

impl<'de> Deserialize<'de> for Trade {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TradeVisitor;
        impl<'de> Visitor<'de> for TradeVisitor {
            type Value = Trade;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event, which is an object")
            }

            /// The last value of a repeated field counts, as in the JSON parsers of clients.
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Trade, A::Error> {
                let mut trade = Trade::default();
                while let Some(Text(name)) = map.next_key()? {
                    match &*name {
                        "market" => {
                            let value: &RawValue = map.next_value()?;
                            trade.market = serde_json::from_slice(value.get().as_bytes()).ok();
                        }
                        "size" => trade.size = Decimal::of(map.next_value()?),
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(trade)
            }
        }
        deserializer.deserialize_map(TradeVisitor)
    }
}

/// A string that is borrowed unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The last part of a room's name, in lower case: `eth-usd` for `dydx:eth-usd`.
fn market_of(room: &str) -> String {
    room.rsplit(':').next().unwrap_or(room).to_ascii_lowercase()
}
