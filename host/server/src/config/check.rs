//! Checks that need more than one value: bounds, names that refer to each other, and settings that exclude
//! each other. The type of a single value checks itself when it is parsed.

use super::{Config, location::Location};
use crate::{key::DEFAULT_TIER, token::IssuerConfig};
use std::{
    collections::{HashMap, HashSet},
    fmt::Display,
    sync::Arc,
    time::Duration,
};
use switchyard_plugin::PluginConfig;
use switchyard_process::unit::show_size;
use switchyard_protocol::room::is_valid_word;
use switchyard_store::key::Digest;

/// Why a configuration is invalid, and where.
pub(super) struct CheckError {
    pub location: Location,
    /// Names the key, its value and what would be valid.
    pub message: String,
}

impl CheckError {
    pub(super) fn new(location: Location, message: impl Into<String>) -> Self {
        Self { location, message: message.into() }
    }
}

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// A year as `humantime` counts and prints it: 365.25 days.
pub(super) const YEAR: Duration = Duration::from_secs(31_557_600);
/// The smallest `budget.memory`: one page of Wasm memory.
const MIN_PLUGIN_MEMORY_BYTES: usize = 64 << 10;
/// The largest `budget.instances`: each instance for rooms has a thread.
const MAX_ROOM_INSTANCES: usize = 64;
/// The length of a SHA-256 in hexadecimal.
const DIGEST_LENGTH: usize = 64;
/// The largest number of messages in the history of a room.
pub(super) const MAX_HISTORY_MESSAGES: usize = 10_000_000;
/// The smallest ratio of `session.outbox` to `session.message`.
const MIN_MESSAGES_IN_OUTBOX: usize = 4;

/// Returns a string as it was written in the configuration, by the full name of its key, such as
/// `session.ttl`. In a list, a number is the name: `plugin.0.budget.call`. `None` for a value that is not a
/// string, or a default.
pub(super) type Written<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Looks up what [`Written`] returns.
pub(super) fn find_written(table: &toml::Table, name: &str) -> Option<String> {
    let mut names = name.split('.');
    let first = table.get(names.next()?)?;
    let found = names.try_fold(first, |value, name| match value {
        toml::Value::Array(list) => list.get(name.parse::<usize>().ok()?),
        value => value.get(name),
    })?;
    found.as_str().map(str::to_owned)
}

/// A value with a minimum and a maximum.
struct Bounded<T> {
    section: &'static str,
    /// The key of the section, on whose line the error is reported.
    key: &'static str,
    /// The key with the keys of its inline table, such as `heartbeat.interval`.
    path: &'static str,
    value: T,
    bounds: [T; 2],
}

impl<T: PartialOrd + Copy> Bounded<T> {
    fn check<D: Display>(&self, written: &Written, show: impl Fn(T) -> D) -> Result<(), CheckError> {
        let Self { section, key, path, value, bounds: [min, max] } = self;
        if value >= min && value <= max {
            return Ok(());
        }
        let [shown, min, max] = [*value, *min, *max].map(show);
        let value = written(&format!("{section}.{path}")).unwrap_or_else(|| shown.to_string());
        let message = format!("{section}.{path} must be between {min} and {max}, got {value}");
        Err(CheckError::new(Location::Key(section, key), message))
    }
}

impl Config {
    /// Reports the first error.
    pub(super) fn check(&self, written: &Written) -> Result<(), CheckError> {
        self.find_errors(written).into_iter().next().map_or(Ok(()), Err)
    }

    /// All errors.
    pub(super) fn find_errors(&self, written: &Written) -> Vec<CheckError> {
        let mut errors = vec![];
        self.check_bounds(written, &mut errors);
        self.check_keys(&mut errors);
        self.check_issuers(&mut errors);
        self.check_plugins(written, &mut errors);
        self.check_room_entries(written, &mut errors);
        errors.extend(self.check_folder().err());
        errors.extend(self.check_signatures().err());
        errors.extend(self.check_sizes().err());
        errors.extend(self.check_addresses().err());
        errors.extend(self.check_proxies().err());
        errors
    }

    fn check_folder(&self) -> Result<(), CheckError> {
        if self.cache.folder.as_ref().is_some_and(|folder| folder.as_os_str().is_empty()) {
            let message =
                "cache.folder is empty; name a directory, or remove the key to keep no compiled plugins";
            return Err(CheckError::new(Location::Key("cache", "folder"), message));
        }
        Ok(())
    }

    fn check_signatures(&self) -> Result<(), CheckError> {
        if self.signatures.require && self.signatures.keys.is_empty() {
            let message = "signatures.require is true, but signatures.keys is empty, so no plugin could be loaded; add the \
                           public key that `switchyard plugin keygen` prints";
            return Err(CheckError::new(Location::Key("signatures", "require"), message));
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), CheckError> {
        let (message, outbox, frame) = (self.session.message, self.session.outbox, self.server.frame);
        if outbox < MIN_MESSAGES_IN_OUTBOX * message {
            let message = format!(
                "session.outbox must be at least four times session.message ({}), got {}: replays would not fit",
                show_size(message),
                show_size(outbox)
            );
            return Err(CheckError::new(Location::Key("session", "outbox"), message));
        }
        if message >= frame {
            let message = format!(
                "server.frame must be larger than session.message ({}), got {}",
                show_size(message),
                show_size(frame)
            );
            return Err(CheckError::new(Location::Key("server", "frame"), message));
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), CheckError> {
        let (clients, operators) = (self.server.listen, self.admin.listen);
        if clients.port() != 0 && clients == operators {
            let message = format!("admin.listen must differ from server.listen, got {operators} for both");
            return Err(CheckError::new(Location::Key("admin", "listen"), message));
        }
        Ok(())
    }

    fn check_proxies(&self) -> Result<(), CheckError> {
        if self.limits.header.is_some() && self.limits.trusted.is_empty() {
            let message = "limits.header is set, but limits.trusted is empty, so no proxy would be believed; list the \
                           addresses of the proxies, such as trusted = [\"10.0.0.0/8\"], or remove limits.header";
            return Err(CheckError::new(Location::Key("limits", "header"), message));
        }
        Ok(())
    }

    fn check_bounds(&self, written: &Written, errors: &mut Vec<CheckError>) {
        let session = &self.session;
        let time = |section, key, path, value, bounds| Bounded { section, key, path, value, bounds };
        for bounded in [
            time("session", "ttl", "ttl", session.ttl, [MILLISECOND, YEAR]),
            time("session", "authenticate", "authenticate", session.authenticate, [MILLISECOND, DAY]),
            time(
                "session",
                "heartbeat",
                "heartbeat.interval",
                session.heartbeat.interval,
                [MILLISECOND, DAY],
            ),
            time("session", "heartbeat", "heartbeat.timeout", session.heartbeat.timeout, [MILLISECOND, DAY]),
            time("server", "drain_delay", "drain_delay", self.server.drain_delay, [Duration::ZERO, HOUR]),
            time("rooms", "history", "history.age", self.rooms.history.age, [MILLISECOND, YEAR]),
        ] {
            errors.extend(bounded.check(written, humantime::format_duration).err());
        }
        let size = |section, key, value, bounds| Bounded { section, key, path: key, value, bounds };
        for bounded in [
            size("session", "message", session.message, [1, 16 << 20]),
            size("session", "outbox", session.outbox, [1, 1 << 30]),
            size("server", "frame", self.server.frame, [1, 64 << 20]),
        ] {
            errors.extend(bounded.check(written, show_size).err());
        }
        let (value, bounds) = (self.rooms.history.messages, [0, MAX_HISTORY_MESSAGES]);
        let messages = Bounded { section: "rooms", key: "history", path: "history.messages", value, bounds };
        errors.extend(messages.check(written, |count| count).err());
    }

    fn check_keys(&self, errors: &mut Vec<CheckError>) {
        let mut owners: HashMap<Digest, Arc<str>> = HashMap::new();
        let mut ids = HashSet::new();
        for (n, key) in self.keys.iter().enumerate() {
            let id = key.id();
            if !ids.insert(id.clone()) && !owners.contains_key(&key.digest) {
                let message = format!("key.id: '{id}' is the id of another key, too; choose another one");
                errors.push(CheckError::new(Location::Entry("key", n, "id"), message));
            }
            if let Some(tier) = key.tier.as_ref().filter(|tier| !self.tiers.contains_key(tier.get_ref())) {
                let name = tier.get_ref();
                let message =
                    format!("key.tier: tier '{name}' is not configured; add a section [tier.{name}]");
                errors.push(CheckError::new(Location::Span(tier.span()), message));
            }
            let principal = &key.principal.0;
            if let Some(owner) = owners.insert(key.digest, principal.clone()) {
                let message = match owner == *principal {
                    true => format!(
                        "key.digest: this key of principal '{owner}' is listed twice; remove one of the two [[key]] sections"
                    ),
                    false => format!(
                        "key.digest: this key already belongs to principal '{owner}'; generate another one for '{principal}'"
                    ),
                };
                errors.push(CheckError::new(Location::Entry("key", n, "digest"), message));
            }
        }
    }

    fn check_issuers(&self, errors: &mut Vec<CheckError>) {
        let mut seen: Vec<&IssuerConfig> = vec![];
        for (n, issuer) in self.issuers.iter().enumerate() {
            let mut error =
                |key, message| errors.push(CheckError::new(Location::Entry("issuer", n, key), message));
            let name = &issuer.name;
            if let Some((key, message)) = issuer.find_error() {
                error(key, message);
            }
            if let Some(tier) = issuer.all_tiers().find(|tier| !self.has_tier(tier)) {
                let key = if issuer.tiers.contains(tier) { "tiers" } else { "tier" };
                error(
                    key,
                    format!("issuer.{key}: tier '{tier}' is not configured; add a section [tier.{tier}]"),
                );
            }
            for other in &seen {
                if other.name == *name {
                    error("name", format!("issuer.name: there are two issuers named '{name}'"));
                }
                if other.issuer == issuer.issuer {
                    let message =
                        format!("issuer.issuer: issuers '{}' and '{name}' have the same 'iss'", other.name);
                    error("issuer", message);
                }
            }
            // Otherwise the users of one issuer could be those of another.
            let overlaps = |other: &&&IssuerConfig| {
                other.prefix.starts_with(&issuer.prefix) || issuer.prefix.starts_with(&other.prefix)
            };
            if let Some(other) = seen.iter().find(overlaps) {
                let message = format!(
                    "issuer.prefix: with several issuers, each needs a prefix that no other begins with; '{}' and '{}' of \
                     '{}' and '{name}' overlap",
                    other.prefix, issuer.prefix, other.name
                );
                error("prefix", message);
            }
            seen.push(issuer);
        }
    }

    /// Whether a tier exists. The default one always does.
    fn has_tier(&self, name: &str) -> bool {
        name == DEFAULT_TIER || self.tiers.contains_key(name)
    }

    fn check_plugins(&self, written: &Written, errors: &mut Vec<CheckError>) {
        let mut names = HashSet::new();
        for (n, plugin) in self.plugins.iter().enumerate() {
            let name = plugin.name();
            errors.extend(check_plugin(n, plugin, names.insert(name), written).err());
        }
    }
}

/// Checks the `n`th plugin.
fn check_plugin(
    n: usize,
    plugin: &PluginConfig,
    is_unique: bool,
    written: &Written,
) -> Result<(), CheckError> {
    let name = plugin.name();
    let error = |message| Err(CheckError::new(Location::Span(plugin.name.span()), message));
    if !is_valid_word(name) {
        return error(format!(
            "plugin.name: invalid name '{name}'; expected 1 to 64 characters of A-Z a-z 0-9 . _ -"
        ));
    }
    if !is_unique {
        return error(format!("plugin.name: there are two plugins named '{name}'; give each its own name"));
    }
    let is_digest =
        |text: &str| text.len() == DIGEST_LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if let Some(sha256) = plugin.sha256.as_ref().filter(|sha256| !is_digest(sha256)) {
        let message =
            format!("plugin.sha256: invalid digest '{sha256}'; expected {DIGEST_LENGTH} hexadecimal digits");
        return Err(CheckError::new(Location::Entry("plugin", n, "sha256"), message));
    }
    let budget = &plugin.budget;
    let written = |key: &str| written(&format!("plugin.{n}.budget.{key}"));
    if budget.call < MILLISECOND || budget.call > MINUTE {
        let call = written("call").unwrap_or_else(|| humantime::format_duration(budget.call).to_string());
        return error(format!("plugin '{name}': budget.call must be between 1ms and 1m, got {call}"));
    }
    if budget.memory < MIN_PLUGIN_MEMORY_BYTES {
        let memory = written("memory").unwrap_or_else(|| show_size(budget.memory));
        return error(format!("plugin '{name}': budget.memory must be between 64KiB and 4GiB, got {memory}"));
    }
    if budget.calls == 0 {
        return error(format!("plugin '{name}': budget.calls must be at least 1, got 0"));
    }
    if budget.instances == 0 || budget.instances > MAX_ROOM_INSTANCES {
        return error(format!(
            "plugin '{name}': budget.instances must be between 1 and {MAX_ROOM_INSTANCES}, got {}",
            budget.instances
        ));
    }
    Ok(())
}
