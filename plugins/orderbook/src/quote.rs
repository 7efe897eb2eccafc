//! What of a message the filters look at.

use crate::BOOK;
use crate::book::Book;
use crate::decimal::Decimal;
use serde::Deserialize;
use switchyard_sdk::Message;

/// A market and the largest size that is told of it.
#[derive(Debug)]
pub struct Quote {
    /// In lower case, as in a normalized filter.
    pub(crate) market: String,
    /// `None` for an event that has no size.
    pub(crate) largest: Option<f64>,
}

/// A trade, or any other event of the feed: what it does not say is absent.
#[derive(Default, Deserialize)]
struct Trade {
    market: Option<String>,
    size: Option<Decimal>,
}

impl Quote {
    /// `None` for a book that is none.
    pub(crate) fn read(message: Message<'_>) -> Option<Self> {
        if message.event == BOOK {
            let largest = Book::read(message).ok()?.largest();
            return Some(Self { market: market_of(message.room), largest });
        }
        let trade = message.read::<Trade>().unwrap_or_default();
        // A room such as `trades` is of all markets, so the event itself is asked first.
        let market =
            trade.market.map_or_else(|| market_of(message.room), |market| market.to_ascii_lowercase());
        Some(Self { market, largest: trade.size.map(|size| size.0) })
    }
}

/// `eth-usd` for `dydx:eth-usd`.
fn market_of(room: &str) -> String {
    room.rsplit(':').next().unwrap_or(room).to_ascii_lowercase()
}
