//! A plugin with the hook `deliver` alone, which panics when a message says so. Nothing needs to be asked of
//! it before a message is stored, until it is quarantined.

use serde::{Deserialize, Serialize};
use switchyard_sdk::{Deliver, Message, NoConfig, Plugin};

/// Passes everything, and is another filter for each number.
#[derive(Serialize, Deserialize)]
pub struct Filter {
    n: u32,
}

#[derive(Deserialize)]
pub struct Event {
    #[serde(default)]
    panic: bool,
}

pub struct Fragile;

impl Plugin for Fragile {
    type Config = NoConfig;

    fn new(_: Self::Config) -> Result<Self, String> {
        Ok(Self)
    }
}

impl Deliver for Fragile {
    type Filter = Filter;
    type Parsed<'a> = Event;

    fn parse<'a>(&self, message: Message<'a>) -> Option<Event> {
        message.read()
    }

    fn matches(&self, _: &Filter, event: &Event) -> bool {
        assert!(!event.panic, "told to panic");
        true
    }
}

switchyard_sdk::export!(Fragile: deliver);
