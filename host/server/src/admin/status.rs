//! What a node reports about itself in addition to its current state: what it waits for while it starts,
//! which files it rejected, and when its certificate is valid.

use crate::validity::Validity;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};
use switchyard_process::lock::LockExt;
use switchyard_protocol::unix_ms;

#[derive(Default)]
pub(crate) struct Status(Mutex<State>);

#[derive(Default)]
struct State {
    /// What the node waits for until it is ready.
    waiting_for: String,
    /// The errors of files that were rejected, so that the previous content stays in effect; by what was
    /// rejected.
    rejected: BTreeMap<String, String>,
    /// When the current certificate is valid.
    certificate: Option<Validity>,
}

impl Status {
    /// Says what a node that is starting waits for.
    pub(crate) fn set_waiting_for(&self, what: impl Into<String>) {
        self.state().waiting_for = what.into();
    }

    /// Says that something was rejected and why, or with `None` that the last attempt succeeded. `what` is
    /// for people, such as `the certificate`.
    pub(crate) fn set_rejected(&self, what: &str, error: Option<String>) {
        let mut state = self.state();
        match error {
            Some(error) => state.rejected.insert(what.to_owned(), error),
            None => state.rejected.remove(what),
        };
    }

    /// Says which certificate is in use from now on.
    pub(crate) fn set_certificate(&self, certificate: Validity) {
        self.state().certificate = Some(certificate);
    }

    /// What an operator of a node that is ready should look at, one sentence each.
    pub(super) fn problems(&self) -> Vec<String> {
        let state = self.state();
        let rejected = state.rejected.iter().map(|(what, error)| format!("{what} was rejected: {error}"));
        rejected
            .chain(state.certificate.and_then(|certificate| certificate.problem(unix_seconds())))
            .collect()
    }

    /// Seconds until the certificate expires, negative afterwards; `None` without a certificate.
    pub(super) fn certificate_expires_in(&self) -> Option<i64> {
        self.state().certificate.map(|certificate| certificate.until - unix_seconds())
    }

    pub(super) fn waiting_for(&self) -> String {
        self.state().waiting_for.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.locked()
    }
}

fn unix_seconds() -> i64 {
    (unix_ms() / 1000) as i64
}
