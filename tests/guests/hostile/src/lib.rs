//! A plugin that misbehaves on demand, for tests of the host. Four ways to ask for a [`Mode`]:
//!
//! - config, for every call of a hook: `{"publish": "loop", "matches": "short", "init": "panic"}`; the hooks are
//!   `init`, `connect`, `room`, `subscribe`, `publish`, `compile`, `release`, `matches`
//! - the room's last part, for one room: `bad:room.panic`, `bad:subscribe.nonsense`, `bad:publish.loop`, `bad:matches.short`
//! - a message's data, for one message: `{"do": "panic"}` in `publish`, `{"do": "panic", "in": "matches"}` in `matches`
//! - a filter, for its subscriber: `{"do": "panic", "in": "subscribe" | "compile" | "matches"}`
//!
//! Whatever is not asked for works: rooms are good, everybody may do everything, every filter asks and passes.

mod misdeed;

use misdeed::Mode;
use serde::Deserialize;
use std::collections::BTreeMap;
use switchyard_sdk::internal::{Exports, FilterTable, Hook};
use switchyard_sdk::metrics::{Counter, Metric};
use switchyard_sdk::{
    Grant, Limits, Message, Plan, Plugin, Reject, Request, RoomVerdict, Scope, Subscription, Verdict,
};

/// Calls of any hook, so that a test sees whether the guest was asked at all.
const CALLS: Counter = Counter::new(0, "calls");

/// The hook, and what it does wrong.
pub struct Hostile(BTreeMap<String, Mode>);

/// Of [`Mode::Limit`].
const LIMITS: Limits = Limits { rooms: None, publishes_per_second: Some(2), message_bytes: Some(30) };

/// How data and filters ask. Data of another shape asks for nothing.
#[derive(Default, Deserialize)]
struct Wish {
    #[serde(rename = "do")]
    mode: Option<Mode>,
    #[serde(rename = "in")]
    hook: Option<String>,
}

impl Hostile {
    /// What `hook` shall do wrong, if anything, and does at once what answers nothing.
    fn mode(&self, hook: &str, room: &str, wish: &[u8], default_hook: &str) -> Option<Mode> {
        CALLS.add(1);
        let by_data = || {
            let wish: Wish = serde_json::from_slice(wish).ok()?;
            (wish.hook.as_deref().unwrap_or(default_hook) == hook).then_some(wish.mode).flatten()
        };
        let by_room = || {
            let (of, mode) = room.rsplit(':').next()?.split_once('.')?;
            (of == hook).then(|| Mode::try_from(mode.to_owned()).ok()).flatten()
        };
        let mode = by_data().or_else(by_room).or_else(|| self.0.get(hook).copied())?;
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
            Some(Mode::Refuse) => Err("the config asked for a refusal".to_owned()),
            Some(Mode::Huge) => Err(misdeed::huge()),
            _ => Ok(hostile),
        }
    }
}

// Written by hand where others use `export!`, because the SDK's own table of filters cannot answer wrongly.
impl Exports for Hostile {
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const LISTED: &'static [Hook] =
        &[Hook::Connect, Hook::Room, Hook::Subscribe, Hook::Publish, Hook::Deliver];

    fn on_connect(&self, request: &Request) -> Result<Limits, Reject> {
        match self.mode("connect", &request.principal.id, b"", "") {
            Some(Mode::Refuse) => Err(Reject::denied("refused as asked")),
            Some(Mode::Huge) => Err(long(Reject::denied(""))),
            // Wider than any host allows, which must not widen anything.
            Some(Mode::Nonsense) => Ok(Limits {
                rooms: Some(u32::MAX),
                publishes_per_second: Some(u32::MAX),
                message_bytes: Some(u32::MAX),
            }),
            Some(Mode::Limit) => Ok(LIMITS),
            _ => Ok(Limits::default()),
        }
    }

    fn on_room(&self, name: &str) -> Result<RoomVerdict, Reject> {
        let canonical = match self.mode("room", name, b"", "") {
            Some(Mode::Refuse) => return Err(Reject::invalid("refused as asked")),
            Some(Mode::Huge) => misdeed::huge(),
            Some(Mode::Nonsense) => "*: not a room\n".to_owned(),
            // A good name, but another one each time, and governed by nobody here.
            Some(Mode::Other) => "elsewhere".to_owned(),
            _ => return Ok(RoomVerdict::default()),
        };
        Ok(RoomVerdict { canonical: Some(canonical), ..RoomVerdict::default() })
    }

    fn on_subscribe(&self, asked: &Subscription<'_>) -> Result<Grant, Reject> {
        let wish = asked.filter.unwrap_or_default().as_bytes();
        let filter = match self.mode("subscribe", asked.room, wish, "compile") {
            Some(Mode::Refuse) => return Err(Reject::denied("refused as asked")),
            Some(Mode::Nonsense) => "no filter {".to_owned(),
            Some(Mode::Huge) => misdeed::huge(),
            Some(Mode::Limit) => return Ok(Grant { limits: Some(LIMITS), ..Grant::default() }),
            _ => return Ok(Grant::default()),
        };
        Ok(Grant { scope: Scope::Filter(filter), limits: None })
    }

    fn on_publish(&self, _: &str, message: Message<'_>) -> Result<Verdict, Reject> {
        Ok(match self.mode("publish", message.room, message.data, "publish") {
            Some(Mode::Refuse) => return Err(Reject::denied("refused as asked")),
            Some(Mode::Nonsense) => Verdict::Replace(b"{\"not\": json".to_vec()),
            // Not even text.
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

/// The text of each filter that still has something to do in `matches`.
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
            Some(Mode::Huge) => vec![u64::MAX; misdeed::HUGE / 8],
            Some(Mode::Refuse) => vec![0; words],
            _ => vec![u64::MAX; words],
        }
    }
}

/// A reason longer than the SDK would make one.
fn long(reject: Reject) -> Reject {
    Reject { reason: misdeed::huge(), ..reject }
}

switchyard_sdk::__component!(Hostile);
