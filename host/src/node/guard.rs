//! A configuration that takes all keys away, or more than half of them, is more likely a file that was cut off than what an operator wants.
//! Only a second SIGHUP carries it out.

use crate::key::{Digest, KeyConfig};
use std::collections::HashSet;

/// What made the node read its configuration again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Hangup,
    /// A file has changed, which may have happened to it without anybody's will.
    Files,
}

#[derive(Default)]
pub struct Guard {
    /// The text that an operator asked for by SIGHUP and that is to be asked for once more.
    asked: Option<[u8; 32]>,
}

impl Guard {
    /// Whether these keys may take the place of those before. The error says what would be lost and how to go on.
    pub fn admit(
        &mut self,
        before: &[KeyConfig],
        after: &[KeyConfig],
        text: [u8; 32],
        cause: Cause,
    ) -> Result<(), String> {
        let digests = |keys: &[KeyConfig]| keys.iter().map(|key| key.digest).collect::<HashSet<Digest>>();
        let (before, after) = (digests(before), digests(after));
        let (all, lost) = (before.len(), before.difference(&after).count());
        let is_asked = self.asked.take().is_some_and(|asked| asked == text);
        let is_much = lost > 0 && (lost == all || 2 * lost > all);
        if !is_much || (is_asked && cause == Cause::Hangup) {
            return Ok(());
        }
        // What was asked for stays asked for while the file says the same.
        let is_asked = is_asked || cause == Cause::Hangup;
        self.asked = is_asked.then_some(text);
        let next = match is_asked {
            true => "send SIGHUP once more to carry it out",
            false => "if that is meant, send SIGHUP twice",
        };
        Err(format!("it would take away {lost} of {all} keys: {next}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Cause::*, *};
    use crate::key::PrincipalName;

    fn keys(names: &str) -> Vec<KeyConfig> {
        let key = |name: char| KeyConfig {
            digest: Digest::of(&name.to_string()),
            principal: PrincipalName("acme".into()),
            tier: None,
            scopes: vec![],
            expires: None,
        };
        names.chars().map(key).collect()
    }

    #[test]
    fn few_keys_go_at_once_and_many_do_not() {
        for (before, after, goes) in [
            ("", "", true),
            ("", "ab", true),
            ("a", "a", true),
            ("a", "", false),
            ("a", "b", false),
            ("ab", "a", true),
            ("ab", "", false),
            ("abc", "ab", true),
            ("abc", "a", false),
            ("abcd", "abx", true),
            ("abcd", "axyz", false),
            ("aab", "b", true),
        ] {
            let admitted = Guard::default().admit(&keys(before), &keys(after), [0; 32], Hangup);
            assert_eq!(admitted.is_ok(), goes, "{before} {after}: {admitted:?}");
        }
    }

    #[test]
    fn only_a_second_hangup_for_the_same_text_carries_it_out() {
        // Each step: the text, what made it be read, and whether it is carried out.
        let story = |steps: &[(u8, Cause, bool)]| {
            let mut guard = Guard::default();
            for (n, (text, cause, goes)) in steps.iter().enumerate() {
                let admitted = guard.admit(&keys("abc"), &[], [*text; 32], *cause);
                assert_eq!(admitted.is_ok(), *goes, "step {n} of {steps:?}: {admitted:?}");
            }
        };
        story(&[(1, Hangup, false), (1, Hangup, true), (1, Hangup, false)]);
        story(&[(1, Files, false), (1, Files, false), (1, Hangup, false), (1, Hangup, true)]);
        story(&[(1, Hangup, false), (1, Files, false), (1, Hangup, true)]);
        story(&[(1, Hangup, false), (2, Hangup, false), (1, Hangup, false), (1, Hangup, true)]);
        story(&[(1, Hangup, false), (2, Files, false), (1, Files, false), (1, Hangup, false)]);
    }

    #[test]
    fn a_good_text_between_two_hangups_makes_the_next_one_the_first() {
        let mut guard = Guard::default();
        assert!(guard.admit(&keys("ab"), &[], [1; 32], Hangup).is_err());
        assert!(guard.admit(&keys("ab"), &keys("abc"), [2; 32], Files).is_ok());
        let error = guard.admit(&keys("abc"), &[], [1; 32], Hangup).unwrap_err();
        assert_eq!(error, "it would take away 3 of 3 keys: send SIGHUP once more to carry it out");
        let error = Guard::default().admit(&keys("abc"), &keys("a"), [1; 32], Files).unwrap_err();
        assert_eq!(error, "it would take away 2 of 3 keys: if that is meant, send SIGHUP twice");
    }
}
