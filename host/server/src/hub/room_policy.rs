//! What holds in a room: how much history is kept, whether senders are named, how much may be published, and who
//! may see the members. Which plugin governs a room, and what a key may do there, is decided elsewhere.

use crate::limits::{ByteRate, Rate};
use serde::{Deserialize, Deserializer, Serialize};
use std::time::Duration;
use switchyard_process::unit;
use switchyard_store::{HistoryConfig, RoomTable, grant::GrantPattern};

/// Maximum number of `[[room]]` entries.
pub(crate) const MAX_ROOM_ENTRIES: usize = 1000;

/// `members`: which clients may ask for the members of a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MembersAccess {
    /// Members whose key may subscribe to the room.
    #[default]
    Subscribe,
    /// Members whose key has the scope `admin`, too.
    Admin,
    /// Nobody.
    None,
}

impl MembersAccess {
    /// As it is written in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Admin => "admin",
            Self::None => "none",
        }
    }
}

/// `[[room]]`: what holds in the rooms that match, where it differs from `[rooms]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoomConfig {
    /// The rooms.
    #[serde(rename = "match")]
    pub rooms: GrantPattern,
    /// How much history is kept.
    #[serde(default)]
    pub history: HistoryOverrides,
    /// Whether deliveries name the principal that published the message.
    pub sender: Option<bool>,
    /// How many messages all publishers together may publish to each room.
    pub publishes: Option<Rate>,
    /// How many bytes of data all publishers together may publish to each room.
    pub bytes: Option<ByteRate>,
    /// Who may ask for the members.
    pub members: Option<MembersAccess>,
}

/// `room.history`
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistoryOverrides {
    /// How many messages to hold.
    pub messages: Option<usize>,
    /// How long to hold a message.
    #[serde(deserialize_with = "optional_duration")]
    pub age: Option<Duration>,
    /// How many bytes to hold.
    #[serde(deserialize_with = "optional_size")]
    pub bytes: Option<usize>,
}

fn optional_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    unit::duration(from).map(Some)
}

fn optional_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    unit::size(from).map(Some)
}

/// What holds in a room.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct RoomPolicy {
    pub history: HistoryConfig,
    pub sender: bool,
    /// `None`: as much as anybody likes. So is `bytes`.
    pub publishes: Option<Rate>,
    pub bytes: Option<ByteRate>,
    pub members: MembersAccess,
}

impl RoomPolicy {
    /// The policy of the rooms of an entry, if this one holds in all others.
    pub(crate) fn with(self, entry: &RoomConfig) -> Self {
        let HistoryOverrides { messages, age, bytes } = entry.history;
        Self {
            history: HistoryConfig {
                messages: messages.unwrap_or(self.history.messages),
                age: age.unwrap_or(self.history.age),
                bytes: bytes.unwrap_or(self.history.bytes),
            },
            sender: entry.sender.unwrap_or(self.sender),
            publishes: entry.publishes.or(self.publishes),
            bytes: entry.bytes.or(self.bytes),
            members: entry.members.unwrap_or(self.members),
        }
    }

    /// The policies of all rooms: this one, where no entry matches.
    pub(crate) fn table(self, entries: &[RoomConfig]) -> RoomTable<Self> {
        RoomTable::new(self, entries.iter().map(|entry| (entry.rooms.clone(), self.with(entry))).collect())
    }
}

/// The policy of a room, as operators see it. Durations, sizes and rates are written as in the configuration.
#[derive(Debug, PartialEq, Serialize)]
pub struct RoomPolicyView {
    /// The pattern of the `[[room]]` entry that matches; `null` if only `[rooms]` holds.
    #[serde(rename = "match")]
    pub entry: Option<String>,
    /// How much history is kept.
    pub history: HistoryView,
    /// Whether deliveries name their sender.
    pub sender: bool,
    /// How many messages may be published; `null`: any number.
    pub publishes: Option<String>,
    /// How many bytes may be published; `null`: any number.
    pub bytes: Option<String>,
    /// Who may ask for the members.
    pub members: MembersAccess,
}

/// How much history of a room is kept.
#[derive(Debug, PartialEq, Serialize)]
pub struct HistoryView {
    /// How many messages.
    pub messages: usize,
    /// How old a message may be.
    pub age: String,
    /// How many bytes.
    pub bytes: String,
}

impl RoomPolicyView {
    /// The policy of a room, which must have a valid name.
    pub(crate) fn of(table: &RoomTable<RoomPolicy>, room: &str) -> Self {
        let RoomPolicy { history, sender, publishes, bytes, members } = *table.get(room);
        Self {
            entry: table.find(room).map(|(pattern, _)| pattern.to_string()),
            history: HistoryView {
                messages: history.messages,
                age: humantime::format_duration(history.age).to_string(),
                bytes: unit::show_size(history.bytes),
            },
            sender,
            publishes: publishes.map(show_rate),
            bytes: bytes.map(show_byte_rate),
            members,
        }
    }
}

/// A rate as it is written in a configuration.
pub(super) fn show_rate(rate: Rate) -> String {
    format!("{}/{}", rate.times, period(rate))
}

pub(super) fn show_byte_rate(ByteRate(rate): ByteRate) -> String {
    format!("{}/{}", unit::show_size(rate.times as usize), period(rate))
}

fn period(rate: Rate) -> &'static str {
    if rate.period > Duration::from_secs(1) { "m" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> RoomConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_an_entry_leaves_out_is_inherited() {
        let all = RoomPolicy { publishes: Some(Rate::per_second(5)), sender: true, ..RoomPolicy::default() };
        let entries = [
            entry("match = 'a:*'\nhistory = { age = '1m' }\nsender = false"),
            entry("match = '@*'\nmembers = 'none'\npublishes = '20/m'\nbytes = '1MiB/s'"),
        ];
        let table = all.table(&entries);
        let policy = |room| *table.get(room);
        let HistoryConfig { messages, bytes, .. } = all.history;
        let history = HistoryConfig { messages, age: Duration::from_secs(60), bytes };
        assert_eq!(policy("a:b"), RoomPolicy { history, sender: false, ..all });
        assert_eq!(policy("b"), all);
        let inbox = policy("@acme");
        assert_eq!((inbox.members, inbox.sender, inbox.history), (MembersAccess::None, true, all.history));
    }

    #[test]
    fn a_view_shows_what_could_be_written() {
        let table = RoomPolicy::default().table(&[entry(
            "match = 'a:*'\nhistory = { messages = 7, age = '90s', bytes = '1536KiB' }\nsender = true\n\
             publishes = '20/m'\nbytes = '1MiB/s'\nmembers = 'admin'",
        )]);
        let view = |room| serde_json::to_value(RoomPolicyView::of(&table, room)).unwrap();
        assert_eq!(
            view("a:b"),
            serde_json::json!({
                "match": "a:*",
                "history": {"messages": 7, "age": "1m 30s", "bytes": "1536KiB"},
                "sender": true, "publishes": "20/m", "bytes": "1MiB/s", "members": "admin",
            })
        );
        assert_eq!(
            view("b"),
            serde_json::json!({
                "match": null,
                "history": {"messages": 1000, "age": "10m", "bytes": "16MiB"},
                "sender": false, "publishes": null, "bytes": null, "members": "subscribe",
            })
        );
    }
}
