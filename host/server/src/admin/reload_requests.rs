//! How operators ask a running node over HTTP to read its configuration again. Does not read it.

use crate::{audit::Actor, hub::stopping, rollout::ChangePreview};
use serde::Serialize;
use switchyard_protocol::{ErrorCode, Refusal};
use tokio::sync::{mpsc, oneshot};

/// Maximum number of requests that wait.
const MAX_WAITING_REQUESTS: usize = 16;

/// When a request may be repeated if too many wait, in milliseconds.
const RETRY_AFTER_MS: u64 = 1000;

/// Passes requests on to the task that reloads the configuration.
#[derive(Clone)]
pub(crate) struct ReloadHandle(mpsc::Sender<ReloadRequest>);

/// A request to read the configuration.
pub(crate) struct ReloadRequest {
    pub options: ReloadOptions,
    pub by: Actor,
    pub reply: oneshot::Sender<Result<ReloadReport, Refusal>>,
}

#[derive(Clone, Copy)]
pub(crate) struct ReloadOptions {
    /// Whether only to tell what would change.
    pub dry_run: bool,
    /// Whether to apply what would need a second SIGHUP, such as the removal of all plugins.
    pub is_confirmed: bool,
    /// Whether rooms that change their plugin lose their history.
    pub clears_history: bool,
}

/// What reading the configuration changed or, in a dry run, would change.
#[derive(Serialize)]
pub(crate) struct ReloadReport {
    pub dry_run: bool,
    /// The settings that differ, such as `plugin 'dydx'` or `keys and tiers`.
    pub changes: Vec<String>,
    /// The sections that take effect after a restart only.
    pub restart: Vec<&'static str>,
    /// What needs a confirmation, such as `remove the only plugin, 'dydx'`.
    pub losses: Vec<String>,
    /// What happens to rooms and their members. Only in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview: Option<ChangePreview>,
}

impl ReloadHandle {
    /// The handle, and where its requests arrive.
    pub(crate) fn new() -> (Self, mpsc::Receiver<ReloadRequest>) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING_REQUESTS);
        (Self(sender), receiver)
    }

    /// Reads the configuration, or tells what would change.
    pub(crate) async fn request(&self, options: ReloadOptions, by: Actor) -> Result<ReloadReport, Refusal> {
        let (reply, report) = oneshot::channel();
        self.0.try_send(ReloadRequest { options, by, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Closed(_) => stopping(),
            mpsc::error::TrySendError::Full(_) => {
                let message = "other reloads are waiting already; try again later";
                Refusal::retry(ErrorCode::Overloaded, message, RETRY_AFTER_MS)
            }
        })?;
        report.await.unwrap_or_else(|_| Err(stopping()))
    }
}
