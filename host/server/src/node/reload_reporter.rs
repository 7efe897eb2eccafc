//! What the log and the audit log say about a reload of the configuration. Reloads nothing.

use super::guard::ReloadCause;
use crate::{
    audit::{Actor, Audit, AuditAction, AuditEvent},
    hub::conflict,
};
use std::path::Path;

pub(super) struct ReloadReporter {
    audit: Audit,
    /// The digest of the text that was read last, if it could be parsed.
    pub digest: Option<[u8; 32]>,
}

impl ReloadReporter {
    pub(super) fn new(audit: &Audit) -> Self {
        Self { audit: audit.clone(), digest: None }
    }

    /// Reports what has changed.
    pub(super) fn applied(&self, by: &Actor, file: Option<&Path>, changes: &[String], cause: ReloadCause) {
        match changes.is_empty() {
            false => tracing::info!("configuration reloaded; changed: {}", changes.join(", ")),
            // A file changes without a change of its settings whenever it is written again.
            true if !cause.is_of_operator() => return,
            true => tracing::info!("configuration reloaded; no setting that takes effect now has changed"),
        }
        self.audit.record(&self.event(by, file).detail("changes", changes.to_vec()));
    }

    /// Reports that it was rejected.
    pub(super) fn refused(&self, by: &Actor, file: Option<&Path>, error: &str) {
        tracing::error!("{error}; all settings stay as they were");
        self.audit.record(&self.event(by, file).result(&Err::<(), _>(conflict(error.to_owned()))));
    }

    fn event(&self, by: &Actor, file: Option<&Path>) -> AuditEvent {
        let file = file.map_or_else(String::new, |file| file.display().to_string());
        let event = AuditEvent::new(by.clone(), AuditAction::ConfigReload, file);
        match self.digest {
            Some(digest) => event.digest(hex(&digest)),
            None => event,
        }
    }
}

/// Bytes in hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
