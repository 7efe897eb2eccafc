//! The audit log: who changed what, from where, and with which result, as one line of JSON for each change. Decides
//! nothing about what is changed, and keeps nobody waiting.

mod event;
mod file;

pub(crate) use event::{Actor, AuditAction, AuditEvent};
pub use file::AuditFileError;

use crate::{blocking, metrics::Metrics};
use file::AuditFile;
use serde::Deserialize;
use std::{path::PathBuf, sync::Arc, time::Duration};
use switchyard_process::log::AUDIT_TARGET;

/// How long a node that stops waits until everything is in the file.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// `[audit]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// The file that lines are appended to. Without it, they are part of the log.
    pub file: Option<PathBuf>,
}

impl AuditConfig {
    /// Checks whether the file can be written, without creating it. Blocks.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn check(&self) -> Result<(), AuditFileError> {
        self.file.as_deref().map_or(Ok(()), file::check)
    }
}

/// Where audit lines go. A clone writes to the same place.
#[derive(Clone, Default)]
pub(crate) struct Audit(Option<Arc<AuditFile>>);

impl Audit {
    /// Opens the file, if one is configured. Blocks.
    pub(crate) fn open(config: &AuditConfig, metrics: &Metrics) -> Result<Self, AuditFileError> {
        let lost = metrics.audit_lost.clone();
        let file = config.file.clone().map(|path| AuditFile::open(path, lost)).transpose()?;
        Ok(Self(file.map(Arc::new)))
    }

    /// Adds a line. Never blocks: a line for which there is no space is lost, and counted.
    pub(crate) fn record(&self, event: &AuditEvent) {
        let line = event.line();
        match &self.0 {
            Some(file) => file.append(line),
            None if event.is_refused() => tracing::warn!(target: AUDIT_TARGET, "{line}"),
            None => tracing::info!(target: AUDIT_TARGET, "{line}"),
        }
    }

    /// Opens the file again by its name, because it may have been renamed.
    pub(crate) fn reopen(&self) {
        if let Some(file) = &self.0 {
            file.reopen();
        }
    }

    /// Waits until everything so far is written, but not for long.
    pub(crate) async fn flush(&self) {
        let Some(file) = self.0.clone() else { return };
        let flushed = blocking::run("audit-flush", move || file.flush(FLUSH_TIMEOUT)).await;
        if !matches!(flushed, Ok(true)) {
            tracing::warn!("the last audit lines could not be written in time");
        }
    }
}
