//! What no value of a configuration shows alone: what does not go together, and what cannot be meant.

use super::{Config, Place};
use std::{
    collections::{HashMap, HashSet},
    fmt::Display,
    sync::Arc,
    time::Duration,
};
use switchyard_protocol::room::is_valid_principal;
use switchyard_store::key::Digest;

type Wrong = (Place, String);

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);
/// As durations are written and shown.
const YEAR: Duration = Duration::from_secs(31_557_600);
const INSTANT: Duration = Duration::from_millis(1);

/// A value that must be within bounds.
struct Bounded<T> {
    section: &'static str,
    /// Where it is written, and what it is called behind the section.
    key: &'static str,
    name: &'static str,
    value: T,
    bounds: [T; 2],
}

impl<T: PartialOrd + Copy> Bounded<T> {
    fn check<D: Display>(&self, shown: impl Fn(T) -> D) -> Result<(), Wrong> {
        let Self { section, key, name, value, bounds: [least, most] } = self;
        if value >= least && value <= most {
            return Ok(());
        }
        let [value, least, most] = [*value, *least, *most].map(shown);
        let message = format!("{section}.{name} is {value}, but must be {least} to {most}");
        Err((Place::Key(section, key), message))
    }
}

fn shown_size(bytes: usize) -> String {
    let unit = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = unit.into_iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    unit.map_or(format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

impl Config {
    /// What no part can see alone, with the place in the text.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        self.check_bounds()?;
        self.check_keys()?;
        self.check_plugins()?;
        if self.signatures.require && self.signatures.keys.is_empty() {
            let message = "signatures.require is true, but signatures.keys has none, so that no plugin could be loaded: add what `switchyard plugin keygen` prints";
            return Err((Place::Key("signatures", "require"), message.to_owned()));
        }
        let outbox = self.session.outbox;
        if outbox < 4 * self.session.message {
            let message = "session.outbox must be at least four times session.message, or replays do not fit";
            return Err((Place::Key("session", "outbox"), message.to_owned()));
        }
        if self.session.message >= self.server.frame {
            let message = "server.frame must be larger than session.message, which it carries";
            return Err((Place::Key("server", "frame"), message.to_owned()));
        }
        let listen = (self.server.listen, self.admin.listen);
        if listen.0.port() != 0 && listen.0 == listen.1 {
            let message = format!("admin.listen is {}, which is server.listen: they are two", listen.1);
            return Err((Place::Key("admin", "listen"), message));
        }
        Ok(())
    }

    fn check_bounds(&self) -> Result<(), Wrong> {
        let session = &self.session;
        let time = |section, key, name, value, bounds| Bounded { section, key, name, value, bounds };
        for bounded in [
            time("session", "ttl", "ttl", session.ttl, [INSTANT, YEAR]),
            time("session", "authenticate", "authenticate", session.authenticate, [INSTANT, DAY]),
            time("session", "heartbeat", "heartbeat.interval", session.heartbeat.interval, [INSTANT, DAY]),
            time("session", "heartbeat", "heartbeat.timeout", session.heartbeat.timeout, [INSTANT, DAY]),
            time("server", "drain_delay", "drain_delay", self.server.drain_delay, [Duration::ZERO, HOUR]),
            time("rooms", "history", "history.age", self.rooms.history.age, [INSTANT, YEAR]),
        ] {
            bounded.check(humantime::format_duration)?;
        }
        let size = |section, key, value, bounds| Bounded { section, key, name: key, value, bounds };
        for bounded in [
            size("session", "message", session.message, [1, 16 << 20]),
            size("session", "outbox", session.outbox, [1, 1 << 30]),
            size("server", "frame", self.server.frame, [1, 64 << 20]),
        ] {
            bounded.check(shown_size)?;
        }
        let (value, bounds) = (self.rooms.history.messages, [0, 10_000_000]);
        let messages = Bounded { section: "rooms", key: "history", name: "history.messages", value, bounds };
        messages.check(|count| count)?;
        Ok(())
    }

    fn check_keys(&self) -> Result<(), Wrong> {
        let mut holders: HashMap<Digest, Arc<str>> = HashMap::new();
        for (n, key) in self.keys.iter().enumerate() {
            if let Some(tier) = key.tier.as_ref().filter(|tier| !self.tiers.contains_key(tier.get_ref())) {
                let name = tier.get_ref();
                let message = format!("tier '{name}' is not configured; add [tier.{name}]");
                return Err((Place::Span(tier.span()), message));
            }
            let principal = &key.principal.0;
            if let Some(other) =
                holders.insert(key.digest, principal.clone()).filter(|other| other != principal)
            {
                let message = format!(
                    "key.digest: '{other}' has the key with this digest already; a key is of one principal, so '{principal}' \
                     needs another"
                );
                return Err((Place::Entry("key", n, "digest"), message));
            }
        }
        Ok(())
    }

    fn check_plugins(&self) -> Result<(), Wrong> {
        let mut names = HashSet::new();
        for plugin in &self.plugins {
            let name = plugin.name();
            let wrong = |message| Err((Place::Span(plugin.name.span()), message));
            if !is_valid_principal(name) {
                return wrong(format!("'{name}' is no plugin's name: 1 to 64 of A-Z a-z 0-9 . _ -"));
            }
            if !names.insert(name) {
                return wrong(format!("there are two plugins '{name}'; names are given once"));
            }
            let (budget, minute) = (&plugin.budget, Duration::from_secs(60));
            if budget.call < INSTANT || budget.call > minute {
                let call = humantime::format_duration(budget.call);
                return wrong(format!("plugin '{name}': budget.call is {call}, but must be 1ms to 1m"));
            }
            if budget.memory < 64 << 10 {
                let memory = shown_size(budget.memory);
                return wrong(format!(
                    "plugin '{name}': budget.memory is {memory}, but must be 64KiB to 4GiB"
                ));
            }
            if budget.calls == 0 {
                return wrong(format!("plugin '{name}': budget.calls is 0, but must be at least 1"));
            }
        }
        Ok(())
    }
}
