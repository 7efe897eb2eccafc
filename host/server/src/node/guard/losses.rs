//! What a new configuration would remove that no ordinary change removes: keys, expiries, signatures, pinned
//! digests, issuers, all policies of rooms, all plugins, and the only plugin of a room that is open without one. Does
//! not decide what to do about it.

use crate::{config::Config, hub::Ungoverned, node::key_enforcer::ConfiguredKeys, token::IssuerConfig};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};
use switchyard_plugin::{PluginConfig, Trust};
use switchyard_store::key::{Digest, KeyConfig};

/// The settings of a configuration that a truncated file would lose.
pub(crate) struct ProtectedSettings<'a> {
    pub configured: ConfiguredKeys,
    pub trust: &'a Trust,
    pub plugins: &'a [PluginConfig],
    /// How many `[[room]]` entries there are.
    pub room_entries: usize,
    /// Whether rooms without a plugin are open on any node.
    pub opens_ungoverned: bool,
}

impl<'a> ProtectedSettings<'a> {
    /// Those of a node that is alone.
    pub(crate) fn of(config: &'a Config) -> Self {
        Self {
            configured: ConfiguredKeys::of(config),
            trust: &config.signatures,
            plugins: &config.plugins,
            room_entries: config.room_entries.len(),
            opens_ungoverned: config.rooms.ungoverned == Ungoverned::Open,
        }
    }

    /// What is lost with the settings `after`. Each text completes "it would …". `stored` are the keys in the
    /// store. Keys that have expired at `now`, in Unix milliseconds, do not count.
    pub(crate) fn losses(&self, after: &Self, stored: &[KeyConfig], now: u64) -> Vec<String> {
        let mut losses = vec![];
        losses.extend(self.lost_keys(after, stored, now));
        losses.extend(self.lost_stored_keys(after, stored, now));
        losses.extend(self.lost_expiries(after));
        losses.extend(self.lost_issuers(after));
        losses.extend(self.lost_trust(after));
        losses.extend(self.lost_pins(after));
        losses.extend(self.lost_room_entries(after));
        losses.extend(self.lost_plugins(after).or_else(|| self.opened_rooms(after)));
        losses
    }

    /// All keys of the configuration, or more than half of them.
    fn lost_keys(&self, after: &Self, stored: &[KeyConfig], now: u64) -> Option<String> {
        let before = valid_digests(self.configured.keys.iter(), now);
        let remaining = after.valid_keys(stored, now);
        let (all, lost) = (before.len(), before.difference(&remaining).count());
        let is_loss = lost > 0 && (lost == all || 2 * lost > all);
        is_loss.then(|| format!("remove {}", count_keys(lost, all)))
    }

    /// Any key in the store: such keys are revoked in the store, not by removing their tier from the
    /// configuration.
    fn lost_stored_keys(&self, after: &Self, stored: &[KeyConfig], now: u64) -> Option<String> {
        let remaining = after.valid_keys(stored, now);
        let before = || stored.iter().filter(|key| self.configured.has_tier_of(key));
        let lost: Vec<_> =
            before().filter(|key| is_valid(key, now) && !remaining.contains(&key.digest)).collect();
        if lost.is_empty() {
            return None;
        }
        let all = valid_digests(before(), now).len();
        let lost_keys = valid_digests(lost.iter().copied(), now).len();
        let tiers: BTreeSet<_> = lost.iter().filter_map(|key| key.tier.as_ref()).collect();
        let tiers: Vec<_> = tiers.iter().map(|tier| format!("'{}'", tier.get_ref())).collect();
        Some(format!(
            "revoke {} in the store, because it lacks the {} {}",
            count_keys(lost_keys, all),
            if tiers.len() == 1 { "tier" } else { "tiers" },
            tiers.join(" and ")
        ))
    }

    /// The expiry of any key.
    fn lost_expiries(&self, after: &Self) -> Option<String> {
        let (before, after) = (never_expire(&self.configured.keys), never_expire(&after.configured.keys));
        let lost =
            after.iter().filter(|(key, never_expires)| **never_expires && before.get(key) == Some(&false));
        match lost.count() {
            0 => None,
            1 => Some("remove the expiry of 1 key".to_owned()),
            lost => Some(format!("remove the expiry of {lost} keys")),
        }
    }

    /// All issuers of user tokens, or the rooms of any issuer that stays.
    fn lost_issuers(&self, after: &Self) -> Option<String> {
        let (before, after) = (&self.configured.issuers, &after.configured.issuers);
        match &before[..] {
            [_, ..] if !after.is_empty() => {}
            [] => return None,
            [issuer] => return Some(format!("remove the only issuer, '{}'", issuer.name)),
            issuers => return Some(format!("remove all {} issuers", issuers.len())),
        }
        let is_widened = |name: &str| {
            let has_rooms = |issuers: &[Arc<IssuerConfig>], has: bool| {
                issuers.iter().any(|issuer| issuer.name == name && issuer.rooms.is_some() == has)
            };
            has_rooms(before, true) && has_rooms(after, false)
        };
        let widened = before.iter().find(|issuer| is_widened(&issuer.name))?;
        Some(format!("remove the rooms of issuer '{}'", widened.name))
    }

    /// The requirement of signatures, or all trusted keys.
    fn lost_trust(&self, after: &Self) -> Option<String> {
        let (before, after) = (self.trust, after.trust);
        let is_weakened = before.require && !after.require;
        let lost = (!before.keys.is_empty() && after.keys.is_empty()).then_some(before.keys.len());
        let removed = lost.map(|lost| match lost {
            1 => "remove the only key of signatures.keys".to_owned(),
            lost => format!("remove all {lost} keys of signatures.keys"),
        });
        let weakened = is_weakened.then(|| "turn off signatures.require".to_owned());
        let losses: Vec<_> = removed.into_iter().chain(weakened).collect();
        (!losses.is_empty()).then(|| losses.join(" and "))
    }

    /// The pinned digest of any plugin that stays.
    fn lost_pins(&self, after: &Self) -> Option<String> {
        let pinned = |plugins: &[PluginConfig], is_pinned: bool| -> BTreeSet<String> {
            let chosen = plugins.iter().filter(|plugin| plugin.sha256.is_some() == is_pinned);
            chosen.map(|plugin| format!("'{}'", plugin.name())).collect()
        };
        let (before, after) = (pinned(self.plugins, true), pinned(after.plugins, false));
        let lost: Vec<_> = before.intersection(&after).cloned().collect();
        let plugins = if lost.len() == 1 { "plugin" } else { "plugins" };
        (!lost.is_empty()).then(|| format!("remove the sha256 of {plugins} {}", lost.join(" and ")))
    }

    /// All policies of rooms: histories would shrink for good, and members be shown.
    fn lost_room_entries(&self, after: &Self) -> Option<String> {
        match (self.room_entries, after.room_entries) {
            (1, 0) => Some("remove the only [[room]] entry".to_owned()),
            (2.., 0) => Some(format!("remove all {} [[room]] entries", self.room_entries)),
            _ => None,
        }
    }

    /// All plugins.
    fn lost_plugins(&self, after: &Self) -> Option<String> {
        match self.plugins {
            [_, ..] if !after.plugins.is_empty() => None,
            [] => None,
            [plugin] => Some(format!("remove the only plugin, '{}'", plugin.name())),
            plugins => Some(format!("remove all {} plugins", plugins.len())),
        }
    }

    /// The patterns of rooms that would have no plugin any more, if such rooms are open. Whether they are takes
    /// effect only after a restart, so the running configuration decides.
    fn opened_rooms(&self, after: &Self) -> Option<String> {
        if !self.opens_ungoverned {
            return None;
        }
        let governing = || after.plugins.iter().flat_map(|plugin| &plugin.rooms);
        let patterns = self.plugins.iter().flat_map(|plugin| &plugin.rooms);
        let opened = patterns.filter(|pattern| !governing().any(|other| other.covers(pattern)));
        let opened: Vec<_> = opened.map(|pattern| format!("'{pattern}'")).collect();
        (!opened.is_empty()).then(|| {
            let opened = opened.join(" and ");
            format!("open {opened} to everybody, because rooms.ungoverned is open and no plugin governs them")
        })
    }

    fn valid_keys(&self, stored: &[KeyConfig], now: u64) -> HashSet<Digest> {
        let stored = stored.iter().filter(|key| self.configured.has_tier_of(key));
        valid_digests(self.configured.keys.iter().chain(stored), now)
    }
}

/// The number of lost keys, such as "2 of 3 keys".
fn count_keys(lost: usize, all: usize) -> String {
    match all {
        1 => "the only key".to_owned(),
        all if lost == all => format!("all {all} keys"),
        all => format!("{lost} of {all} keys"),
    }
}

fn is_valid(key: &KeyConfig, now: u64) -> bool {
    key.expires.is_none_or(|time| now < time.0)
}

fn valid_digests<'a>(keys: impl Iterator<Item = &'a KeyConfig>, now: u64) -> HashSet<Digest> {
    keys.filter(|key| is_valid(key, now)).map(|key| key.digest).collect()
}

/// Whether each key never expires.
fn never_expire(keys: &[KeyConfig]) -> HashMap<Digest, bool> {
    keys.iter().map(|key| (key.digest, key.expires.is_none())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// In 2027.
    const NOW: u64 = 1_800_000_000_000;
    const PAST: &str = "expires = 2020-01-01T00:00:00Z";
    const FUTURE: &str = "expires = 2099-01-01T00:00:00Z";

    fn key(name: &str, more: &str) -> String {
        let digest = Digest::of(name);
        format!("[[key]]\ndigest = \"{digest}\"\nprincipal = \"acme\"\nscopes = [\"publish\"]\n{more}\n")
    }

    fn keys(names: &str) -> String {
        names.chars().map(|name| key(&name.to_string(), "")).collect()
    }

    fn config(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(Some(Path::new(&file)), &vec![]).unwrap()
    }

    fn losses(before: &str, after: &str, stored: &str) -> String {
        let tiers = "[tier.gold]\n[tier.iron]\n[tier.unknown]\n[tier.default]\n";
        let (before, after) = (config(before), config(after));
        let stored = config(&format!("{stored}{tiers}")).keys;
        ProtectedSettings::of(&before).losses(&ProtectedSettings::of(&after), &stored, NOW).join(" and ")
    }

    #[test]
    fn losing_more_than_half_of_the_keys_is_a_loss() {
        for (before, after, loss) in [
            ("", "", ""),
            ("", "ab", ""),
            ("a", "a", ""),
            ("a", "", "remove the only key"),
            ("a", "b", "remove the only key"),
            ("ab", "a", ""),
            ("ab", "", "remove all 2 keys"),
            ("abc", "ab", ""),
            ("abc", "a", "remove 2 of 3 keys"),
            ("abcd", "abx", ""),
            ("abcd", "axyz", "remove 3 of 4 keys"),
        ] {
            assert_eq!(losses(&keys(before), &keys(after), ""), loss, "{before} {after}");
        }
        assert_eq!(losses(&keys("ab"), "", &keys("ab")), "", "they are in the store");
        assert_eq!(losses(&keys("ab"), "", &keys("cdefgh")), "remove all 2 keys");
    }

    #[test]
    fn losing_all_policies_of_rooms_is_a_loss() {
        let entries =
            |names: &str| names.chars().map(|name| format!("[[room]]\nmatch = \"{name}\"\n")).collect();
        let lost = |before: &str, after: &str| {
            let [before, after]: [String; 2] = [entries(before), entries(after)];
            losses(&before, &after, "")
        };
        assert_eq!([lost("", "a"), lost("ab", "b"), lost("a", "b")], ["", "", ""]);
        assert_eq!(lost("a", ""), "remove the only [[room]] entry");
        assert_eq!(lost("abc", ""), "remove all 3 [[room]] entries");
    }

    #[test]
    fn expired_keys_do_not_count() {
        let old = ["x", "y", "z"].map(|name| key(name, PAST)).concat();
        assert_eq!(losses(&format!("{}{old}", keys("ab")), &old, ""), "remove all 2 keys");
        assert_eq!(losses(&format!("{}{old}", keys("ab")), &keys("ab"), ""), "");
        assert_eq!(
            losses(&keys("a"), &key("a", PAST), ""),
            "remove the only key",
            "an expiry in the past revokes it"
        );
    }

    #[test]
    fn removing_a_tier_of_a_valid_key_in_the_store_is_a_loss() {
        let stored = [
            key("a", "tier = \"gold\""),
            key("b", "tier = \"iron\""),
            key("c", ""),
            key("d", "tier = \"unknown\""),
            key("e", &format!("tier = \"iron\"\n{PAST}")),
        ]
        .concat();
        for (before, after, loss) in [
            ("[tier.gold]\n[tier.iron]", "[tier.gold]\n[tier.iron]", ""),
            ("[tier.gold]\n[tier.iron]", "[tier.iron]\n[tier.gold]\nrooms = 1", ""),
            (
                "[tier.gold]",
                "[tier.iron]",
                "revoke 1 of 2 keys in the store, because it lacks the tier 'gold'",
            ),
            (
                "[tier.gold]\n[tier.iron]",
                "",
                "revoke 2 of 3 keys in the store, because it lacks the tiers 'gold' and 'iron'",
            ),
            ("", "[tier.gold]", ""),
            ("[tier.none]", "", ""),
        ] {
            assert_eq!(losses(before, after, &stored), loss, "{before} / {after}");
        }
        assert_eq!(losses("[tier.iron]", "", &key("e", &format!("tier = \"iron\"\n{PAST}"))), "");
        // A key that names no tier uses the defaults of this one and stays valid; a key that names it does
        // not.
        let loss = "revoke 1 of 2 keys in the store, because it lacks the tier 'default'";
        let stored = key("a", "tier = \"default\"") + &key("b", "");
        assert_eq!(losses("[tier.default]", "", &stored), loss);
        let configured = key("a", "");
        assert_eq!(losses("[tier.gold]", &configured, &key("a", "tier = \"gold\"")), "", "it stays valid");
    }

    #[test]
    fn removing_an_expiry_is_a_loss() {
        let loss = "remove the expiry of 1 key";
        assert_eq!(losses(&key("a", FUTURE), &key("a", ""), ""), loss);
        assert_eq!(losses(&key("a", PAST), &key("a", ""), ""), loss, "it would be valid again");
        assert_eq!(losses(&key("a", PAST), &key("a", FUTURE), ""), "");
        assert_eq!(losses(&key("a", ""), &key("a", FUTURE), ""), "");
        assert_eq!(losses(&keys("a"), &(keys("a") + &key("b", "")), ""), "");
        let (two, both) = (key("a", FUTURE) + &key("b", FUTURE), keys("ab"));
        assert_eq!(losses(&two, &both, ""), "remove the expiry of 2 keys");
    }

    #[test]
    fn removing_signature_keys_or_pinned_digests_is_a_loss() {
        let signer = |byte: u8| {
            use base64::{Engine as _, prelude::BASE64_STANDARD};
            format!("\"ed25519:{}\"", BASE64_STANDARD.encode([byte; 32]))
        };
        let trust = |keys: &[u8], require: bool| {
            let keys: Vec<_> = keys.iter().map(|byte| signer(*byte)).collect();
            format!("[signatures]\nkeys = [{}]\nrequire = {require}\n", keys.join(", "))
        };
        let (both, first) = (trust(&[1, 2], true), trust(&[1], true));
        for (before, after, loss) in [
            (&*both, &*first, ""),
            (&first, &both, ""),
            ("", &both, ""),
            (&first, &trust(&[2], true), ""),
            (&both, &trust(&[1, 2], false), "turn off signatures.require"),
            (&trust(&[1, 2], false), "", "remove all 2 keys of signatures.keys"),
            (&both, "", "remove all 2 keys of signatures.keys and turn off signatures.require"),
        ] {
            assert_eq!(losses(before, after, ""), loss, "{before} / {after}");
        }
        let plugin = |more: &str| format!("[[plugin]]\nname = \"p\"\nfile = \"p\"\nrooms = [\"p\"]\n{more}");
        let pinned = plugin(&format!("sha256 = \"{}\"", "0".repeat(64)));
        assert_eq!(losses(&pinned, &plugin(""), ""), "remove the sha256 of plugin 'p'");
        assert_eq!(losses(&pinned, &plugin(&format!("sha256 = \"{}\"", "1".repeat(64))), ""), "");
        assert_eq!(losses(&pinned, "", ""), "remove the only plugin, 'p'");
    }

    #[test]
    fn removing_all_plugins_is_a_loss_and_so_is_opening_rooms() {
        let plugin = |name: &str, rooms: &str| {
            format!("[[plugin]]\nname = \"{name}\"\nfile = \"p\"\nrooms = [{rooms}]\n")
        };
        let closed = |text: &str| format!("{text}[rooms]\nungoverned = \"closed\"\n");
        let both = plugin("a", "\"a:*\", \"x\"") + &plugin("b", "\"b:**\"");
        let open = |rooms| {
            format!("open {rooms} to everybody, because rooms.ungoverned is open and no plugin governs them")
        };
        for (after, loss) in [
            (both.clone(), String::new()),
            (plugin("b", "\"b:**\"") + &plugin("a", "\"a:*\", \"x\""), String::new()),
            (plugin("c", "\"a:**\", \"b:**\", \"x*\""), String::new()),
            (plugin("a", "\"a:*\"") + &plugin("b", "\"b:**\""), open("'x'")),
            (plugin("a", "\"a:*\", \"x\"") + &plugin("b", "\"b:*\""), open("'b:**'")),
            (plugin("b", "\"b:**\""), open("'a:*' and 'x'")),
            (String::new(), "remove all 2 plugins".to_owned()),
        ] {
            assert_eq!(losses(&both, &after, ""), loss, "{after}");
        }
        assert_eq!(losses(&closed(&both), &closed(&plugin("b", "\"b:**\"")), ""), "");
        assert_eq!(losses(&closed(&both), &closed(""), ""), "remove all 2 plugins");
    }
}
