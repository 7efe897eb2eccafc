//! `[[room]]` entries: the policies that they make together with `[rooms]`, their checks, and the warning about
//! entries that never count. What a policy means is in the hub.

use super::{
    Config, RoomsConfig,
    check::{CheckError, MAX_HISTORY_MESSAGES, MILLISECOND, Written, YEAR},
    location::Location,
};
use crate::hub::{HistoryOverrides, MAX_ROOM_ENTRIES, RoomPolicy, RoomPolicyView};
use std::collections::HashSet;
use switchyard_plugin::PluginConfig;
use switchyard_protocol::room::{RoomName, any_governs};
use switchyard_store::{RoomTable, grant::GrantPattern};

impl RoomsConfig {
    /// What holds in rooms that no entry matches.
    fn policy(&self) -> RoomPolicy {
        let Self { ungoverned: _, history, sender, publishes, bytes, members } = *self;
        RoomPolicy { history, sender, publishes, bytes, members }
    }
}

impl Config {
    /// What holds in which rooms.
    pub(crate) fn room_policies(&self) -> RoomTable<RoomPolicy> {
        self.rooms.policy().table(&self.room_entries)
    }

    /// What holds in each of these rooms, in this order, by the names that they have here: a plugin may give a room
    /// another name.
    pub fn view_rooms<'a>(&self, rooms: impl IntoIterator<Item = &'a RoomName>) -> Vec<RoomPolicyView> {
        let table = self.room_policies();
        rooms.into_iter().map(|room| RoomPolicyView::of(&table, room)).collect()
    }

    /// The plugin of this configuration that governs a room.
    pub fn governor(&self, room: &RoomName) -> Option<&PluginConfig> {
        self.plugins.iter().find(|plugin| any_governs(&plugin.rooms, room))
    }

    pub(super) fn check_room_entries(&self, written: &Written, errors: &mut Vec<CheckError>) {
        let count = self.room_entries.len();
        if count > MAX_ROOM_ENTRIES {
            let message = format!(
                "room: there are {count} [[room]] entries; at most {MAX_ROOM_ENTRIES} are allowed, and a pattern such as \
                 'dydx:*' covers many rooms"
            );
            errors.push(CheckError::new(Location::Entry("room", MAX_ROOM_ENTRIES, "match"), message));
        }
        let mut seen = HashSet::new();
        for (n, entry) in self.room_entries.iter().enumerate() {
            let pattern = entry.rooms.to_string();
            // Patterns of rooms match in either case, and principals do not.
            let is_new = seen.insert(match &entry.rooms {
                GrantPattern::Rooms(_) => pattern.to_ascii_lowercase(),
                GrantPattern::Inboxes | GrantPattern::Inbox(_) => pattern.clone(),
            });
            if !is_new {
                let message =
                    format!("room.match: there are two [[room]] entries for '{pattern}'; remove one of them");
                errors.push(CheckError::new(Location::Entry("room", n, "match"), message));
            }
            let HistoryOverrides { messages, age, .. } = entry.history;
            let outside = |key: &str, bounds: &str, shown: String| {
                let given = written(&format!("room.{n}.history.{key}")).unwrap_or(shown);
                let message = format!("room.history.{key} must be between {bounds}, got {given}");
                CheckError::new(Location::Entry("room", n, "history"), message)
            };
            if let Some(age) = age.filter(|age| !(MILLISECOND..=YEAR).contains(age)) {
                let shown = humantime::format_duration(age).to_string();
                errors.push(outside("age", "1ms and 1year", shown));
            }
            if let Some(messages) = messages.filter(|messages| *messages > MAX_HISTORY_MESSAGES) {
                let bounds = format!("0 and {MAX_HISTORY_MESSAGES}");
                errors.push(outside("messages", &bounds, messages.to_string()));
            }
        }
    }

    /// One warning for each entry all of whose rooms an entry before it matches.
    pub(super) fn hidden_room_entries(&self) -> Vec<String> {
        let patterns: Vec<_> = self.room_entries.iter().map(|entry| &entry.rooms).collect();
        let hidden = patterns.iter().enumerate().filter_map(|(n, pattern)| {
            let wide = patterns[..n].iter().find(|wide| wide.covers(pattern))?;
            Some(format!(
                "room.match: the [[room]] entry for '{pattern}' never counts, because '{wide}' before it matches all its \
                 rooms; move it before that one"
            ))
        });
        hidden.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("s.toml"), &vec![]).map_err(|error| error.to_string())
    }

    fn entry(pattern: &str) -> String {
        format!("[[room]]\nmatch = \"{pattern}\"\n")
    }

    #[test]
    fn an_entry_that_never_counts_is_a_warning() {
        let text: String = ["dydx:*", "@*", "DYDX:eth-*", "@acme", "dydx:**", "a"].map(entry).concat();
        let expected = |pattern: &str, wide: &str| {
            format!(
                "room.match: the [[room]] entry for '{pattern}' never counts, because '{wide}' before it matches all its \
                 rooms; move it before that one"
            )
        };
        let warnings = parse(&text).unwrap().warnings(None);
        assert_eq!(warnings, [expected("DYDX:eth-*", "dydx:*"), expected("@acme", "@*")]);
    }

    #[test]
    fn there_is_a_maximum_of_entries() {
        let text = |count: usize| (0..count).map(|n| entry(&format!("a{n}"))).collect::<String>();
        assert_eq!(parse(&text(MAX_ROOM_ENTRIES)).unwrap().room_entries.len(), MAX_ROOM_ENTRIES);
        let error = parse(&text(MAX_ROOM_ENTRIES + 1)).unwrap_err();
        assert!(
            error.starts_with("s.toml:2002: room: there are 1001 [[room]] entries; at most 1000"),
            "{error}"
        );
    }

    #[test]
    fn a_room_has_the_policy_of_the_entry_and_the_plugin_that_match_it_first() {
        let plugin = "[[plugin]]\nname = \"p\"\nfile = \"p\"\nrooms = [\"a:*\"]\n";
        let text = format!("[rooms]\nsender = true\n{}members = \"none\"\n{plugin}", entry("a:*"));
        let config = parse(&text).unwrap();
        let rooms = ["a:b", "b", "*"].map(|name| RoomName::parse(name).unwrap());
        let views = config.view_rooms(&rooms);
        let shown: Vec<_> = views.iter().map(|view| (view.entry.as_deref(), view.sender)).collect();
        assert_eq!(shown, [(Some("a:*"), true), (None, true), (None, true)]);
        let governors: Vec<_> =
            rooms.iter().map(|room| config.governor(room).map(PluginConfig::name)).collect();
        assert_eq!(governors, [Some("p"), None, None]);
    }
}
