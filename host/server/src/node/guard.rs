//! Protects a running node from a truncated configuration. One that removes what no ordinary change removes,
//! such as all keys, is applied only when an operator confirms it, with a second SIGHUP or `confirm=true`.

mod losses;

pub(super) use losses::ProtectedSettings;

/// Why the node reads its configuration again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReloadCause {
    /// An operator sent SIGHUP.
    Sighup,
    /// A file has changed, perhaps unintentionally.
    FileChange,
    /// The file could not be read at the last attempt.
    Retry,
    /// An operator has called the admin listener.
    Call {
        /// Whether the operator has confirmed what the configuration would remove.
        is_confirmed: bool,
        /// Whether rooms that change their plugin lose their history.
        clears_history: bool,
    },
}

impl ReloadCause {
    /// Whether an operator waits for the outcome.
    pub(super) fn is_of_operator(self) -> bool {
        matches!(self, Self::Sighup | Self::Call { .. })
    }
}

/// A configuration that is not applied until an operator confirms it.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("it would {losses}; {hint}")]
pub(super) struct UnconfirmedLoss {
    /// What would be lost, such as "remove all 3 keys".
    losses: String,
    /// How to confirm it.
    hint: &'static str,
}

/// Decides whether a configuration needs confirmation.
#[derive(Default)]
pub(super) struct Guard {
    /// The digest of the text for which an operator has sent the first SIGHUP.
    requested: Option<[u8; 32]>,
}

impl Guard {
    /// Decides whether a text with this digest, which has these losses, is applied.
    ///
    /// # Errors
    ///
    /// Fails if an operator has to confirm it.
    pub(super) fn check(
        &mut self,
        losses: &[String],
        digest: [u8; 32],
        cause: ReloadCause,
    ) -> Result<(), UnconfirmedLoss> {
        if let ReloadCause::Call { is_confirmed: false, .. } = cause
            && !losses.is_empty()
        {
            let hint = "to confirm, repeat the call with confirm=true";
            return Err(UnconfirmedLoss { losses: losses.join(" and "), hint });
        }
        let is_requested = self.requested.take().is_some_and(|requested| requested == digest);
        let is_confirmed = matches!(cause, ReloadCause::Call { is_confirmed: true, .. });
        if losses.is_empty() || is_confirmed || (is_requested && cause == ReloadCause::Sighup) {
            return Ok(());
        }
        // The first SIGHUP counts as long as the file stays the same.
        let is_requested = is_requested || cause == ReloadCause::Sighup;
        self.requested = is_requested.then_some(digest);
        let hint = match is_requested {
            true => "to confirm, send SIGHUP again",
            false => "if this is intended, send SIGHUP twice",
        };
        Err(UnconfirmedLoss { losses: losses.join(" and "), hint })
    }
}

#[cfg(test)]
mod tests {
    use super::{ReloadCause::*, *};

    fn losses() -> Vec<String> {
        vec!["remove all 3 keys".to_owned()]
    }

    #[test]
    fn only_a_second_sighup_for_the_same_text_applies_it() {
        // Each step: the text, why it is read, and whether it is applied.
        let check = |steps: &[(u8, ReloadCause, bool)]| {
            let mut guard = Guard::default();
            for (n, (text, cause, is_applied)) in steps.iter().enumerate() {
                let checked = guard.check(&losses(), [*text; 32], *cause);
                assert_eq!(checked.is_ok(), *is_applied, "step {n} of {steps:?}: {checked:?}");
            }
        };
        check(&[(1, Sighup, false), (1, Sighup, true), (1, Sighup, false)]);
        check(&[(1, FileChange, false), (1, FileChange, false), (1, Sighup, false), (1, Sighup, true)]);
        check(&[(1, Sighup, false), (1, FileChange, false), (1, Sighup, true)]);
        check(&[(1, Sighup, false), (2, Sighup, false), (1, Sighup, false), (1, Sighup, true)]);
        let call = |is_confirmed| Call { is_confirmed, clears_history: false };
        check(&[(1, call(false), false), (1, call(false), false), (1, Sighup, false), (1, call(true), true)]);
        check(&[(1, call(true), true), (1, Sighup, false)]);
        check(&[(1, Sighup, false), (2, FileChange, false), (1, FileChange, false), (1, Sighup, false)]);
    }

    #[test]
    fn a_harmless_text_between_two_sighups_makes_the_next_one_the_first() {
        let mut guard = Guard::default();
        assert!(guard.check(&losses(), [1; 32], Sighup).is_err());
        assert!(guard.check(&[], [2; 32], FileChange).is_ok());
        let error = guard.check(&losses(), [1; 32], Sighup).unwrap_err().to_string();
        assert_eq!(error, "it would remove all 3 keys; to confirm, send SIGHUP again");
        let losses = [losses(), vec!["remove all 2 keys of signatures.keys".to_owned()]].concat();
        let error = Guard::default().check(&losses, [1; 32], FileChange).unwrap_err().to_string();
        assert_eq!(
            error,
            "it would remove all 3 keys and remove all 2 keys of signatures.keys; if this is intended, send SIGHUP twice"
        );
    }
}
