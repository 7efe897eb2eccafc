//! A configuration that takes away what nobody takes away by an ordinary change, such as all keys, is more likely a file that was cut off
//! than what an operator wants. Only a second SIGHUP carries it out.

mod losses;

pub(super) use losses::Held;

/// What made the node read its configuration again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Hangup,
    /// A file has changed, which may have happened to it without anybody's will.
    Files,
    /// It could not be read a while ago.
    Again,
}

#[derive(Default)]
pub(super) struct Guard {
    /// The text that an operator asked for by SIGHUP and that is to be asked for once more.
    asked: Option<[u8; 32]>,
}

impl Guard {
    /// Whether what has these losses may be taken. The error says what would be lost and how to go on.
    pub(super) fn admit(&mut self, losses: &[String], text: [u8; 32], cause: Cause) -> Result<(), String> {
        let is_asked = self.asked.take().is_some_and(|asked| asked == text);
        if losses.is_empty() || (is_asked && cause == Cause::Hangup) {
            return Ok(());
        }
        // What was asked for stays asked for while the file says the same.
        let is_asked = is_asked || cause == Cause::Hangup;
        self.asked = is_asked.then_some(text);
        let next = match is_asked {
            true => "send SIGHUP once more to carry it out",
            false => "if that is meant, send SIGHUP twice",
        };
        Err(format!("it would {}: {next}", losses.join(" and ")))
    }
}

#[cfg(test)]
mod tests {
    use super::{Cause::*, *};

    fn much() -> Vec<String> {
        vec!["take away 3 of 3 keys".to_owned()]
    }

    #[test]
    fn only_a_second_hangup_for_the_same_text_carries_it_out() {
        // Each step: the text, what made it be read, and whether it is carried out.
        let story = |steps: &[(u8, Cause, bool)]| {
            let mut guard = Guard::default();
            for (n, (text, cause, goes)) in steps.iter().enumerate() {
                let admitted = guard.admit(&much(), [*text; 32], *cause);
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
        assert!(guard.admit(&much(), [1; 32], Hangup).is_err());
        assert!(guard.admit(&[], [2; 32], Files).is_ok());
        let error = guard.admit(&much(), [1; 32], Hangup).unwrap_err();
        assert_eq!(error, "it would take away 3 of 3 keys: send SIGHUP once more to carry it out");
        let losses = [much(), vec!["trust none of 2 signers".to_owned()]].concat();
        let error = Guard::default().admit(&losses, [1; 32], Files).unwrap_err();
        assert_eq!(
            error,
            "it would take away 3 of 3 keys and trust none of 2 signers: if that is meant, send SIGHUP twice"
        );
    }
}
