//! What a configuration takes away from what a node holds to that nobody takes away by an ordinary change.

use crate::{config::Config, node::access::Configured};
use std::collections::{BTreeSet, HashMap, HashSet};
use switchyard_plugin::{PluginConfig, Trust};
use switchyard_store::key::{Digest, KeyConfig};

/// What a node holds to, as far as a configuration that was cut off would change it.
pub(crate) struct Held<'a> {
    pub configured: Configured,
    pub trust: &'a Trust,
    pub plugins: &'a [PluginConfig],
}

impl<'a> Held<'a> {
    pub(crate) fn of(config: &'a Config) -> Self {
        Self { configured: Configured::of(config), trust: &config.signatures, plugins: &config.plugins }
    }

    /// Each completes "it would …". `stored` are the keys of the store; what has ended by `now`, in Unix milliseconds, is lost already.
    pub(crate) fn losses(&self, after: &Self, stored: &[KeyConfig], now: u64) -> Vec<String> {
        let mut losses = vec![];
        losses.extend(self.lost_keys(after, stored, now));
        losses.extend(self.lost_stored_keys(after, stored, now));
        losses.extend(self.lost_ends(after));
        losses.extend(self.lost_trust(after));
        losses.extend(self.lost_pins(after));
        losses
    }

    /// All keys of the configuration, or more than half of them.
    fn lost_keys(&self, after: &Self, stored: &[KeyConfig], now: u64) -> Option<String> {
        let good = digests(self.configured.keys.iter(), now);
        let stay = after.good(stored, now);
        let (all, lost) = (good.len(), good.difference(&stay).count());
        (lost > 0 && (lost == all || 2 * lost > all)).then(|| format!("take away {lost} of {all} keys"))
    }

    /// Any key of the store: those are revoked there, not by a configuration that has their tier no more.
    fn lost_stored_keys(&self, after: &Self, stored: &[KeyConfig], now: u64) -> Option<String> {
        let stay = after.good(stored, now);
        let good = || stored.iter().filter(|key| self.configured.has_tier_of(key));
        let lost: Vec<_> = good().filter(|key| is_good(key, now) && !stay.contains(&key.digest)).collect();
        if lost.is_empty() {
            return None;
        }
        let (all, lost_keys) = (digests(good(), now).len(), digests(lost.iter().copied(), now).len());
        let tiers: BTreeSet<_> = lost.iter().filter_map(|key| key.tier.as_ref()).collect();
        let tiers: Vec<_> = tiers.iter().map(|tier| format!("'{}'", tier.get_ref())).collect();
        Some(format!(
            "take away {lost_keys} of {all} keys in the store, since it lacks the tier {}",
            tiers.join(", ")
        ))
    }

    /// Keys that would be good for ever, and are not now.
    fn lost_ends(&self, after: &Self) -> Option<String> {
        let (before, after) = (endless(&self.configured.keys), endless(&after.configured.keys));
        let lost = after.iter().filter(|(key, is_endless)| **is_endless && before.get(key) == Some(&false));
        match lost.count() {
            0 => None,
            1 => Some("let 1 key that expires be good for ever".to_owned()),
            lost => Some(format!("let {lost} keys that expire be good for ever")),
        }
    }

    fn lost_trust(&self, after: &Self) -> Option<String> {
        let (before, after) = (self.trust, after.trust);
        let unrequired = before.require && !after.require;
        let lost = (!before.keys.is_empty() && after.keys.is_empty()).then_some(before.keys.len());
        match (unrequired, lost) {
            (true, Some(lost)) => Some(format!("trust none of {lost} signers, and require no signatures")),
            (true, None) => Some("require no signatures any more".to_owned()),
            (false, Some(lost)) => Some(format!("trust none of {lost} signers")),
            (false, None) => None,
        }
    }

    /// Plugins that stay and would be of any content.
    fn lost_pins(&self, after: &Self) -> Option<String> {
        let pinned = |plugins: &[PluginConfig], is_pinned: bool| -> BTreeSet<String> {
            let chosen = plugins.iter().filter(|plugin| plugin.sha256.is_some() == is_pinned);
            chosen.map(|plugin| format!("'{}'", plugin.name())).collect()
        };
        let (before, after) = (pinned(self.plugins, true), pinned(after.plugins, false));
        let lost: Vec<_> = before.intersection(&after).cloned().collect();
        (!lost.is_empty()).then(|| format!("no longer pin the SHA-256 of plugin {}", lost.join(", ")))
    }

    fn good(&self, stored: &[KeyConfig], now: u64) -> HashSet<Digest> {
        let stored = stored.iter().filter(|key| self.configured.has_tier_of(key));
        digests(self.configured.keys.iter().chain(stored), now)
    }
}

fn is_good(key: &KeyConfig, now: u64) -> bool {
    key.expires.is_none_or(|end| now < end.0)
}

fn digests<'a>(keys: impl Iterator<Item = &'a KeyConfig>, now: u64) -> HashSet<Digest> {
    keys.filter(|key| is_good(key, now)).map(|key| key.digest).collect()
}

/// Of each key, whether it is good for ever.
fn endless(keys: &[KeyConfig]) -> HashMap<Digest, bool> {
    let mut endless = HashMap::new();
    keys.iter().for_each(|key| *endless.entry(key.digest).or_default() |= key.expires.is_none());
    endless
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const NOW: u64 = 1_800_000_000_000;
    /// Before and after that.
    const PAST: &str = "expires = 2020-01-01T00:00:00Z";
    const FUTURE: &str = "expires = 2099-01-01T00:00:00Z";

    fn key(name: &str, more: &str) -> String {
        let digest = Digest::of(name);
        format!("[[key]]\ndigest = \"{digest}\"\nprincipal = \"acme\"\nscopes = []\n{more}\n")
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
        Held::of(&before).losses(&Held::of(&after), &stored, NOW).join(" and ")
    }

    #[test]
    fn few_keys_go_at_once_and_many_do_not() {
        for (before, after, loss) in [
            ("", "", ""),
            ("", "ab", ""),
            ("a", "a", ""),
            ("a", "", "take away 1 of 1 keys"),
            ("a", "b", "take away 1 of 1 keys"),
            ("ab", "a", ""),
            ("ab", "", "take away 2 of 2 keys"),
            ("abc", "ab", ""),
            ("abc", "a", "take away 2 of 3 keys"),
            ("abcd", "abx", ""),
            ("abcd", "axyz", "take away 3 of 4 keys"),
            ("aab", "b", ""),
        ] {
            assert_eq!(losses(&keys(before), &keys(after), ""), loss, "{before} {after}");
        }
        assert_eq!(losses(&keys("ab"), "", &keys("ab")), "", "they are in the store now");
        assert_eq!(losses(&keys("ab"), "", &keys("cdefgh")), "take away 2 of 2 keys");
    }

    #[test]
    fn keys_that_have_expired_count_for_nothing() {
        let old = ["x", "y", "z"].map(|name| key(name, PAST)).concat();
        assert_eq!(losses(&format!("{}{old}", keys("ab")), &old, ""), "take away 2 of 2 keys");
        assert_eq!(losses(&format!("{}{old}", keys("ab")), &keys("ab"), ""), "");
        assert_eq!(losses(&keys("a"), &key("a", PAST), ""), "take away 1 of 1 keys", "it is revoked so");
    }

    #[test]
    fn a_tier_goes_at_once_only_where_no_good_key_of_the_store_has_it() {
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
                "take away 1 of 2 keys in the store, since it lacks the tier 'gold'",
            ),
            (
                "[tier.gold]\n[tier.iron]",
                "",
                "take away 2 of 3 keys in the store, since it lacks the tier 'gold', 'iron'",
            ),
            ("", "[tier.gold]", ""),
            ("[tier.none]", "", ""),
        ] {
            assert_eq!(losses(before, after, &stored), loss, "{before} / {after}");
        }
        assert_eq!(losses("[tier.iron]", "", &key("e", &format!("tier = \"iron\"\n{PAST}"))), "");
        // A key without a tier is of this one, and stays; one that names it does not.
        let loss = "take away 1 of 2 keys in the store, since it lacks the tier 'default'";
        let stored = key("a", "tier = \"default\"") + &key("b", "");
        assert_eq!(losses("[tier.default]", "", &stored), loss);
        let configured = key("a", "");
        assert_eq!(losses("[tier.gold]", &configured, &key("a", "tier = \"gold\"")), "", "it stays good");
    }

    #[test]
    fn an_end_goes_only_by_a_second_hangup() {
        let loss = "let 1 key that expires be good for ever";
        assert_eq!(losses(&key("a", FUTURE), &key("a", ""), ""), loss);
        assert_eq!(losses(&key("a", PAST), &key("a", ""), ""), loss, "it would come back");
        assert_eq!(losses(&key("a", PAST), &key("a", FUTURE), ""), "");
        assert_eq!(losses(&key("a", ""), &key("a", FUTURE), ""), "");
        assert_eq!(losses(&keys("a"), &(keys("a") + &key("b", "")), ""), "");
        let (two, both) = (key("a", FUTURE) + &key("b", FUTURE), keys("ab"));
        assert_eq!(losses(&two, &both, ""), "let 2 keys that expire be good for ever");
        assert_eq!(losses(&two, &(key("a", FUTURE) + &both), ""), "let 2 keys that expire be good for ever");
    }

    #[test]
    fn trust_is_weakened_only_by_a_second_hangup() {
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
            (&both, &trust(&[1, 2], false), "require no signatures any more"),
            (&trust(&[1, 2], false), "", "trust none of 2 signers"),
            (&both, "", "trust none of 2 signers, and require no signatures"),
        ] {
            assert_eq!(losses(before, after, ""), loss, "{before} / {after}");
        }
        let plugin = |more: &str| format!("[[plugin]]\nname = \"p\"\nfile = \"p\"\nrooms = [\"p\"]\n{more}");
        let pinned = plugin("sha256 = \"00\"");
        assert_eq!(losses(&pinned, &plugin(""), ""), "no longer pin the SHA-256 of plugin 'p'");
        assert_eq!(losses(&pinned, &plugin("sha256 = \"01\""), ""), "");
        assert_eq!(losses(&pinned, "", ""), "", "that takes a restart");
    }
}
