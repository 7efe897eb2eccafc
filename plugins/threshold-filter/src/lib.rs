//! Rooms of events with a size, such as `tvl_changes`: a subscriber hears what is large enough, on its chains
//! and of its protocols.

mod event;
mod filter;

use event::Event;
pub use event::Fields;
pub use filter::Filter;
use serde::Deserialize;
use switchyard_sdk::{Deliver, Message, Plan, Plugin};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Under which names the events carry what the filter speaks of.
    pub fields: Fields,
}

/// The plugin; see the README for its config and its filter.
pub struct ThresholdFilter {
    fields: Fields,
}

impl Plugin for ThresholdFilter {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { fields: config.fields.checked()? })
    }
}

impl Deliver for ThresholdFilter {
    type Filter = Filter;
    type Parsed<'a> = Event;

    fn parse<'a>(&self, message: Message<'a>) -> Option<Event> {
        self.fields.read(message.data)
    }

    fn matches(&self, filter: &Filter, event: &Event) -> bool {
        filter.passes(event)
    }

    fn normalize(&self, filter: Filter) -> Result<Filter, String> {
        filter.normalized()
    }

    fn plan(&self, filter: &Filter) -> Plan {
        filter.plan()
    }
}

// Filters are granted as asked, which `deliver` does by itself: canonical, and refused early when they are wrong.
switchyard_sdk::export!(ThresholdFilter: deliver);
