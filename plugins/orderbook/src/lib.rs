//! A plugin for a feed of order books and trades in the format of dYdX. It cuts books to a maximum depth, and
//! filters by market and size.

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
use switchyard_sdk::{Deliver, Message, Plan, Plugin, Publication, Publish, Reject, Verdict};

const LEVELS_CUT: Counter = Counter::new(0, "levels_cut");
const BOOKS_REFUSED: Counter = Counter::new(1, "books_refused");

/// The event whose data is a book. All other events pass unchanged.
const BOOK_EVENT: &str = "orderbook";

/// The plugin. The README describes its configuration and its filter.
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
    fn publish(&self, publication: &Publication<'_>) -> Result<Verdict, Reject> {
        let message = publication.message;
        if message.event != BOOK_EVENT {
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

// There is no `subscribe`: with `deliver`, the SDK grants filters as asked, in canonical form, and rejects
// invalid ones early.
switchyard_sdk::export!(Orderbook: publish, deliver);
