//! A well-behaved plugin with every hook, for benchmarks. Its versions differ in one byte of the file,
//! `stamp=A` or `stamp=B`. They also differ in every verdict on a message, so a verdict shows which version
//! gave it.

use serde::{Deserialize, Serialize};
use std::hint::black_box;
use switchyard_sdk::{
    Connect, Deliver, Grant, Limits, Message, Plugin, Publication, Publish, Reject, Request, Room,
    RoomVerdict, Subscribe, Subscription, Verdict,
};

/// A benchmark replaces this in the bytes of the file.
static STAMP: [u8; 7] = *b"stamp=A";

/// A filter: the member's group.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    g: u64,
}

/// A message. If it names a group in `to`, it goes to that group. Otherwise it goes to every second group,
/// and the stamp decides which ones.
#[derive(Deserialize)]
pub struct Event {
    n: u64,
    to: Option<u64>,
}

/// The plugin.
pub struct Stamp {
    stamp: u64,
}

impl Plugin for Stamp {
    type Config = switchyard_sdk::NoConfig;

    fn new(_: Self::Config) -> Result<Self, String> {
        // Otherwise the compiler would inline the letter that it sees, instead of reading the one in the
        // file.
        Ok(Self { stamp: black_box(&STAMP)[6].into() })
    }
}

impl Connect for Stamp {
    fn connect(&self, request: &Request) -> Result<Limits, Reject> {
        match request.principal.id.is_empty() {
            true => Err(Reject::denied("a principal without id may not connect")),
            false => Ok(Limits::default()),
        }
    }
}

impl Room for Stamp {
    fn room(&self, name: &str) -> Result<RoomVerdict, Reject> {
        // Not cached, so that the host calls this every time and the benchmark can measure it.
        Ok(RoomVerdict::canonical(name, name.to_ascii_lowercase()))
    }
}

impl Subscribe for Stamp {
    fn subscribe(&self, subscription: &Subscription<'_>) -> Result<Grant, Reject> {
        match subscription.filter_as::<Filter>()? {
            Some(_) => Ok(Grant::default()),
            None => Err(Reject::invalid("a filter is required: {\"g\": group}")),
        }
    }
}

impl Publish for Stamp {
    fn publish(&self, publication: &Publication<'_>) -> Result<Verdict, Reject> {
        publication.message.json::<Event>().map(|_| Verdict::Pass)
    }
}

impl Deliver for Stamp {
    type Filter = Filter;
    type Parsed<'a> = Event;

    fn parse<'a>(&self, message: Message<'a>) -> Option<Event> {
        message.read()
    }

    fn matches(&self, filter: &Filter, event: &Event) -> bool {
        match event.to {
            Some(group) => filter.g == group,
            None => (filter.g + event.n + self.stamp).is_multiple_of(2),
        }
    }
}

switchyard_sdk::export!(Stamp: connect, room, subscribe, publish, deliver);
