//! A plugin for rooms of events with numbers, such as `tvl_changes`. It filters by the size of a change, by
//! value, by chain and by protocol.

mod event;
mod filter;

use event::Event;
pub use event::Fields;
pub use filter::Filter;
use serde::Deserialize;
use switchyard_sdk::{Deliver, Message, Plan, Plugin};

/// The plugin's configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The names of the fields in events.
    pub fields: Fields,
}

/// The plugin. The README describes its configuration and its filter.
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

// There is no `subscribe`: with `deliver`, the SDK grants filters as asked, in canonical form, and rejects
// invalid ones early.
switchyard_sdk::export!(ThresholdFilter: deliver);
