//! The plugin's configuration.

use crate::rooms;
use serde::Deserialize;

/// What a rule can count by, beside fields of the message.
pub(crate) const PRINCIPAL: &str = "principal";
pub(crate) const KEY: &str = "key";
pub(crate) const ROOM: &str = "room";

/// The plugin's configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The rules. A message must satisfy all that apply to it.
    pub rules: Vec<Rule>,
}

/// How often messages may be published.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A pattern of the rooms that it applies to; all rooms of the plugin if absent.
    pub rooms: Option<String>,
    /// The events that it applies to; all if empty.
    #[serde(default)]
    pub events: Vec<String>,
    /// What has a bucket of its own: each combination of `principal`, `key`, `room`, and fields of the data
    /// as JSON pointers, such as `/wallet`.
    pub by: Vec<String>,
    /// How many messages may come at once.
    pub burst: u32,
    /// How many messages may come in a minute.
    pub per_minute: u32,
    /// What happens to a message beyond the limit.
    #[serde(default)]
    pub action: Action,
    /// What the publisher is told then, before the time to wait.
    pub message: Option<String>,
    /// Whether values of fields that differ in case count as one, as for the addresses of wallets.
    #[serde(default)]
    pub ignore_case: bool,
    /// Distinguishes rules with the same `rooms` and `by`. Their buckets have this name.
    pub name: Option<String>,
}

/// What happens to a message beyond the limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The publisher gets an error.
    #[default]
    Reject,
    /// The publisher is told that it was published, and nobody receives it.
    Discard,
}

impl Config {
    /// Validates the configuration.
    ///
    /// # Errors
    /// Which field of which rule is wrong, and what would be right.
    pub(crate) fn checked(self) -> Result<Self, String> {
        if self.rules.is_empty() {
            return Err("config.rules must have at least one entry".to_owned());
        }
        for (n, rule) in self.rules.iter().enumerate() {
            rule.check().map_err(|error| format!("config.rules[{n}].{error}"))?;
            if let Some(other) = self.rules[..n].iter().position(|other| other.identity() == rule.identity())
            {
                return Err(format!(
                    "config.rules[{n}] has the same rooms and by as rules[{other}], so they would count together; \
                     give it a name of its own"
                ));
            }
        }
        Ok(self)
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        if let Some(pattern) = self.rooms.as_ref().filter(|pattern| !rooms::is_pattern(pattern)) {
            return Err(format!(
                "rooms: invalid pattern '{pattern}'; expected a room name in which '*' ends a part or '**' ends the pattern"
            ));
        }
        if self.by.is_empty() {
            return Err("by must have at least one entry, e.g. \"principal\" or \"/wallet\"".to_owned());
        }
        let is_known = |part: &str| [PRINCIPAL, KEY, ROOM].contains(&part) || part.starts_with('/');
        if let Some(part) = self.by.iter().find(|part| !is_known(part)) {
            return Err(format!(
                "by: invalid entry '{part}'; expected principal, key, room or a JSON pointer such as /wallet"
            ));
        }
        for (field, number) in [("burst", self.burst), ("per_minute", self.per_minute)] {
            if number == 0 {
                return Err(format!("{field} must be at least 1, got 0"));
            }
        }
        Ok(())
    }

    pub(crate) fn reads_data(&self) -> bool {
        self.by.iter().any(|part| part.starts_with('/'))
    }

    /// The beginning of the keys of its buckets. It does not depend on the other rules, so that adding one
    /// resets nothing, nor on the rate.
    pub(crate) fn identity(&self) -> String {
        match &self.name {
            Some(name) => format!("name {name}"),
            None => format!("{} {}", self.rooms.as_deref().unwrap_or("**"), self.by.join(" ")),
        }
    }
}
