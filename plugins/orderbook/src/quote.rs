//! What of a message the filters look at.

use crate::BOOK;
use crate::book::Book;
use crate::decimal::Decimal;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use switchyard_sdk::Message;

/// A market and the largest size that is told of it. A filter looks at one, the other or both, so that one that is
/// missing or odd hides nothing from who asks for the other.
#[derive(Debug)]
pub struct Quote {
    /// In lower case, as in a normalized filter.
    pub(crate) market: String,
    /// `None` for an event that has no size.
    pub(crate) largest: Option<Decimal>,
}

/// A trade, or any other event of the feed: what it does not say is absent, and so is what is of another kind.
#[derive(Default)]
struct Trade {
    market: Option<String>,
    size: Option<Decimal>,
}

impl Quote {
    /// `None` for a book that is none.
    pub(crate) fn read(message: Message<'_>) -> Option<Self> {
        if message.event == BOOK {
            let largest = Book::read(message).ok()?.largest().cloned();
            return Some(Self { market: market_of(message.room), largest });
        }
        let trade = message.read::<Trade>().unwrap_or_default();
        // A room such as `trades` is of all markets, so the event itself is asked first.
        let market =
            trade.market.map_or_else(|| market_of(message.room), |market| market.to_ascii_lowercase());
        Some(Self { market, largest: trade.size })
    }
}

impl<'de> Deserialize<'de> for Trade {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Trade;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event: an object")
            }

            /// Of a name that comes twice the last counts, as it does for the client that reads the message.
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
        deserializer.deserialize_map(Fields)
    }
}

/// Borrowed unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// `eth-usd` for `dydx:eth-usd`.
fn market_of(room: &str) -> String {
    room.rsplit(':').next().unwrap_or(room).to_ascii_lowercase()
}
