//! What a quarantine means for the rooms of a plugin, and what clients are told of it. The breakers decide
//! when there is one.

use super::Governor;
use crate::{blame::Blame, governor::OnFailure, hook_types::Rejection};
use std::time::{Duration, Instant};

impl Governor {
    /// Whether anything may happen in its rooms: not while it is quarantined, whatever hooks it has. If its
    /// failures are allowed, a quarantine closes nothing.
    ///
    /// # Errors
    ///
    /// The rejection that clients receive while the quarantine lasts.
    pub fn open_rooms(&self) -> Result<(), Rejection> {
        match self.on_failure {
            OnFailure::Deny => {
                self.group.admit_plugin(Instant::now()).map_err(|remaining| self.closed(remaining))
            }
            OnFailure::Allow => Ok(()),
        }
    }

    /// The answer while the plugin is quarantined for this long.
    pub(super) fn closed(&self, remaining: Duration) -> Rejection {
        self.stats().record_rejection();
        let (name, seconds) = (self.name(), remaining.as_secs() + 1);
        Rejection::failed(format!(
            "plugin '{name}' is quarantined because it failed repeatedly; try again in {seconds} s"
        ))
    }

    pub(super) fn quarantined(&self, blame: Blame<'_>, remaining: Duration) -> Rejection {
        let (seconds, plugin) = (remaining.as_secs() + 1, self.name());
        if let Blame::Messages { room, .. } = blame {
            return Rejection::failed(format!(
                "messages in room '{room}' are quarantined for plugin '{plugin}', because they repeatedly made the plugin \
                 fail; try again in {seconds} s"
            ));
        }
        let what = match blame {
            Blame::Host | Blame::Messages { .. } => "calls",
            Blame::Principal(_) => "requests",
            Blame::HistoryReader(_) => "filters",
        };
        Rejection::failed(format!(
            "{blame} is quarantined for plugin '{plugin}', because its {what} repeatedly made the plugin fail; try again \
             in {seconds} s"
        ))
    }
}
