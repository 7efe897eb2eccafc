//! A feed of order books and trades, as dYdX's: books are cut to a depth, and a subscriber hears the markets and
//! the sizes that it asks for.

mod book;
mod config;
mod decimal;
mod filter;
mod quote;

use book::Book;
pub use config::Config;
pub use filter::Filter;
use quote::Quote;
use switchyard_sdk::metrics::{Counter, Metric};
use switchyard_sdk::{Deliver, Message, Plan, Plugin, Publish, Reject, Verdict};

const LEVELS_CUT: Counter = Counter::new(0, "levels_cut");
const BOOKS_REFUSED: Counter = Counter::new(1, "books_refused");

/// The event whose data is a book; the others are passed on as they are.
const BOOK: &str = "orderbook";

/// The plugin; see the README for its config and its filter.
pub struct Orderbook {
    config: Config,
}

impl Plugin for Orderbook {
    type Config = Config;
    const METRICS: &'static [Metric] = &[LEVELS_CUT.metric(), BOOKS_REFUSED.metric()];

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { config: config.checked()? })
    }
}

impl Publish for Orderbook {
    fn publish(&self, _who: &str, message: Message<'_>) -> Result<Verdict, Reject> {
        if message.event != BOOK {
            return Ok(Verdict::Pass);
        }
        let book = Book::read(message).inspect_err(|_| BOOKS_REFUSED.add(1))?;
        match book.cut(self.config.max_depth, message)? {
            None => Ok(Verdict::Pass),
            Some((data, levels)) => {
                LEVELS_CUT.add(levels);
                Ok(Verdict::Replace(data))
            }
        }
    }
}

impl Deliver for Orderbook {
    type Filter = Filter;
    type Parsed<'a> = Quote;

    fn parse<'a>(&self, message: Message<'a>) -> Option<Quote> {
        Quote::read(message)
    }

    fn matches(&self, filter: &Filter, quote: &Quote) -> bool {
        filter.passes(quote)
    }

    fn normalize(&self, filter: Filter) -> Result<Filter, String> {
        filter.normalized()
    }

    fn plan(&self, filter: &Filter) -> Plan {
        filter.plan()
    }
}

// Filters are granted as asked, which `deliver` does by itself: canonical, and refused early when they are wrong.
switchyard_sdk::export!(Orderbook: publish, deliver);
