//! A plugin that misbehaves on demand, for tests of the host. A test requests a `Mode` in one of four
//! places:
//!
//! - the configuration, for every call of a hook: `{"publish": "loop", "matches": "short", "init": "panic"}`.
//!   The hooks are `init`, `connect`, `room`, `subscribe`, `publish`, `compile`, `release`, `matches`
//! - the last part of the room's name, for one room: `bad:room.panic`, `bad:subscribe.nonsense`,
//!   `bad:publish.loop`, `bad:matches.short`
//! - the data of a message, for that message: `{"do": "panic"}` in `publish`, and with `"in": "matches"` in
//!   `matches`
//! - a filter, for its member: `{"do": "panic", "in": "subscribe" | "compile" | "matches"}`
//!
//! Everything else works: all rooms are valid, everybody may do everything, and every filter is evaluated and
//! passes.

mod misdeed;

use misdeed::Mode;
use serde::Deserialize;
use std::collections::BTreeMap;
use switchyard_sdk::internal::{Exports, FilterTable, Hook};
use switchyard_sdk::metrics::{Counter, Metric};
use switchyard_sdk::{
    Grant, Limits, Message, Plan, Plugin, Publication, Reject, Request, RoomVerdict, Scope, Subscription,
    Verdict,
};

/// Counts calls of all hooks, so that a test can see whether the host called the plugin at all.
const CALLS: Counter = Counter::new(0, "calls");

/// The plugin, with the configured mode of each hook.
pub struct Hostile(BTreeMap<String, Mode>);

/// The limits that [`Mode::Limit`] grants.
const GRANTED_LIMITS: Limits = Limits { rooms: None, publishes_per_second: Some(2), message_bytes: Some(30) };

/// A mode requested in data or in a filter. JSON of any other shape requests nothing.
#[derive(Default, Deserialize)]
struct Instruction {
    #[serde(rename = "do")]
    mode: Option<Mode>,
    #[serde(rename = "in")]
    hook: Option<String>,
}

impl Hostile {
    /// The mode requested for `hook`, if any. Performs it at once if it does not depend on the hook. An
    /// instruction in `json` that names no hook is for `default_hook`.
    fn mode(&self, hook: &str, room: &str, json: &[u8], default_hook: &str) -> Option<Mode> {
        CALLS.add(1);
        let by_json = || {
            let instruction: Instruction = serde_json::from_slice(json).ok()?;
            (instruction.hook.as_deref().unwrap_or(default_hook) == hook)
                .then_some(instruction.mode)
                .flatten()
        };
        let by_room = || {
            let (name, mode) = room.rsplit(':').next()?.split_once('.')?;
            (name == hook).then(|| Mode::try_from(mode.to_owned()).ok()).flatten()
        };
        let mode = by_json().or_else(by_room).or_else(|| self.0.get(hook).copied())?;
        mode.perform();
        Some(mode)
    }
}

impl Plugin for Hostile {
    type Config = BTreeMap<String, Mode>;
    const METRICS: &'static [Metric] = &[CALLS.metric()];

    fn new(config: Self::Config) -> Result<Self, String> {
        let hostile = Self(config);
        match hostile.mode("init", "", b"", "") {
            Some(Mode::Refuse) => Err("the config requests an error".to_owned()),
            Some(Mode::Huge) => Err(misdeed::huge()),
            _ => Ok(hostile),
        }
    }
}

// Implemented by hand instead of with `export!`, because the SDK's own filter table cannot return invalid
// answers.
impl Exports for Hostile {
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const LISTED: &'static [Hook] =
        &[Hook::Connect, Hook::Room, Hook::Subscribe, Hook::Publish, Hook::Deliver];

    fn on_connect(&self, request: &Request) -> Result<Limits, Reject> {
        match self.mode("connect", &request.principal.id, b"", "") {
            Some(Mode::Refuse) => Err(Reject::denied("refused as asked")),
            Some(Mode::Huge) => Err(with_huge_reason(Reject::denied(""))),
            // Higher than any host allows, which must not raise anything.
            Some(Mode::Nonsense) => Ok(Limits {
                rooms: Some(u32::MAX),
                publishes_per_second: Some(u32::MAX),
                message_bytes: Some(u32::MAX),
            }),
            Some(Mode::Limit) => Ok(GRANTED_LIMITS),
            _ => Ok(Limits::default()),
        }
    }

    fn on_room(&self, name: &str) -> Result<RoomVerdict, Reject> {
        let canonical = match self.mode("room", name, b"", "") {
            Some(Mode::Refuse) => return Err(Reject::invalid("refused as asked")),
            Some(Mode::Huge) => misdeed::huge(),
            Some(Mode::Nonsense) => "*: not a room\n".to_owned(),
            // A valid name, but not one that this plugin governs.
            Some(Mode::Other) => "elsewhere".to_owned(),
            _ => return Ok(RoomVerdict::default()),
        };
        Ok(RoomVerdict { canonical: Some(canonical), ..RoomVerdict::default() })
    }

    fn on_subscribe(&self, subscription: &Subscription<'_>) -> Result<Grant, Reject> {
        let json = subscription.filter.unwrap_or_default().as_bytes();
        let filter = match self.mode("subscribe", subscription.room, json, "compile") {
            Some(Mode::Refuse) => return Err(Reject::denied("refused as asked")),
            Some(Mode::Nonsense) => "not a filter {".to_owned(),
            Some(Mode::Huge) => misdeed::huge(),
            Some(Mode::Limit) => return Ok(Grant { limits: Some(GRANTED_LIMITS), ..Grant::default() }),
            _ => return Ok(Grant::default()),
        };
        Ok(Grant { scope: Scope::Filter(filter), limits: None })
    }

    fn on_publish(&self, publication: &Publication<'_>) -> Result<Verdict, Reject> {
        let message = publication.message;
        Ok(match self.mode("publish", message.room, message.data, "publish") {
            Some(Mode::Refuse) => return Err(Reject::denied("refused as asked")),
            Some(Mode::Nonsense) => Verdict::Replace(b"{\"not\": json".to_vec()),
            // Not even UTF-8.
            Some(Mode::Other) => Verdict::Replace(vec![b'"', 0xff, b'"']),
            Some(Mode::Huge) => Verdict::Replace(format!("\"{}\"", misdeed::huge()).into_bytes()),
            Some(Mode::Short) => Verdict::Replace(Vec::new()),
            _ => Verdict::Pass,
        })
    }

    fn filters() -> Box<dyn FilterTable<Self>> {
        Box::new(Filters::default())
    }
}

/// The text of each filter, because `matches` looks for instructions in it.
#[derive(Default)]
struct Filters(BTreeMap<u32, Vec<u8>>);

impl FilterTable<Hostile> for Filters {
    fn canonical(&self, _: &Hostile, filter: &str) -> Result<String, Reject> {
        Ok(filter.to_owned())
    }

    fn compile(&mut self, hostile: &Hostile, id: u32, filter: &str) -> Result<Plan, String> {
        match hostile.mode("compile", "", filter.as_bytes(), "compile") {
            Some(Mode::Refuse) => Err("refused as asked".to_owned()),
            Some(Mode::Huge) => Err(misdeed::huge()),
            _ => {
                self.0.insert(id, filter.as_bytes().to_vec());
                Ok(Plan::Ask)
            }
        }
    }

    fn release(&mut self, hostile: &Hostile, ids: &[u32]) {
        hostile.mode("release", "", b"", "");
        for id in ids {
            self.0.remove(id);
        }
    }

    fn matches(&self, hostile: &Hostile, message: Message<'_>, ids: &[u32]) -> Vec<u64> {
        let words = ids.len().div_ceil(64);
        let mut mode = hostile.mode("matches", message.room, message.data, "publish");
        for filter in ids.iter().filter_map(|id| self.0.get(id)) {
            mode = mode.or_else(|| hostile.mode("matches", "", filter, "compile"));
        }
        match mode {
            Some(Mode::Short) => Vec::new(),
            Some(Mode::Nonsense) => vec![u64::MAX; words + 3],
            Some(Mode::Huge) => vec![u64::MAX; misdeed::HUGE_BYTES / 8],
            Some(Mode::Refuse) => vec![0; words],
            _ => vec![u64::MAX; words],
        }
    }
}

/// A reject with a reason longer than the SDK would allow.
fn with_huge_reason(reject: Reject) -> Reject {
    Reject { reason: misdeed::huge(), ..reject }
}

switchyard_sdk::__component!(Hostile);
