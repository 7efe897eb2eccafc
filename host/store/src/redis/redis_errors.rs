//! Why Redis does not serve this node, in the words of Redis: for `/readyz`, and for errors that would
//! otherwise only say that it cannot be reached. What is wrong although Redis serves it is in
//! `context::faults`.

use crate::{
    redis::{io_error, url::Secrets},
    unavailable::OUT_OF_MEMORY,
};
use arc_swap::ArcSwapOption;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use switchyard_process::lock::LockExt;
use tokio::time::Instant;

/// How long a refusal is reported: the command may never be sent again.
const REFUSAL_TTL: Duration = Duration::from_secs(10);

/// The beginnings of errors with which Redis refuses a command only because of its state, its settings or the
/// user.
const REFUSALS: [&str; 11] = [
    OUT_OF_MEMORY,
    "READONLY",
    "MISCONF",
    "NOREPLICAS",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
    "ERR The user executing the script",
    "ERR ACL",
];

#[derive(Default)]
pub(super) struct RedisErrors {
    secrets: Secrets,
    /// Why the last attempt to connect failed; `None` after a successful command.
    connection: ArcSwapOption<String>,
    /// Why the last attempt to renew the lease failed.
    lease: ArcSwapOption<String>,
    /// The error of each command that is refused, and when that was.
    refused: Mutex<HashMap<&'static str, (String, Instant)>>,
    /// The number of those.
    refused_count: AtomicUsize,
}

fn is_refusal(error: &str) -> bool {
    REFUSALS.iter().any(|refusal| error.starts_with(refusal))
}

impl RedisErrors {
    pub(super) fn new(secrets: Secrets) -> Self {
        Self { secrets, ..Self::default() }
    }

    /// An error without secrets, and without Rust's notation of I/O errors.
    pub(super) fn redact(&self, error: &str) -> String {
        self.secrets.redact(&io_error::readable(error))
    }

    /// An attempt to connect failed.
    pub(super) fn unreachable(&self, error: &str) {
        self.connection.store(Some(Arc::new(self.redact(error))));
    }

    /// Appends to a text why the last attempt to connect failed, if one did.
    pub(super) fn because(&self, what: &str) -> String {
        self.connection.load().as_ref().map_or_else(|| what.to_owned(), |error| format!("{what}: {error}"))
    }

    /// A command was answered, maybe with an error.
    pub(super) fn answered(&self, command: &'static str, error: Option<&str>) {
        match error {
            Some(error) if is_refusal(error) => {
                let mut refused = self.refused.locked();
                refused.insert(command, (error.to_owned(), Instant::now()));
                self.refused_count.store(refused.len(), Ordering::Relaxed);
            }
            Some(_) => {}
            None => {
                if self.connection.load().is_some() {
                    self.connection.store(None);
                }
                if self.refused_count.load(Ordering::Relaxed) > 0 {
                    let mut refused = self.refused.locked();
                    refused.remove(command);
                    self.refused_count.store(refused.len(), Ordering::Relaxed);
                }
            }
        }
    }

    /// The lease was renewed, or could not be. It is a write: if it succeeds, Redis does not refuse all
    /// writes any more.
    pub(super) fn renewed(&self, error: Option<&str>) {
        if error.is_none() && self.refused_count.load(Ordering::Relaxed) > 0 {
            let mut refused = self.refused.locked();
            refused.retain(|_, (error, _)| ["NOPERM", "ERR"].iter().any(|kind| error.starts_with(kind)));
            self.refused_count.store(refused.len(), Ordering::Relaxed);
        }
        if error.is_some() || self.lease.load().is_some() {
            self.lease.store(error.map(|error| Arc::new(error.to_owned())));
        }
    }

    /// Why the lease could not be renewed.
    pub(super) fn lease(&self) -> Option<Arc<String>> {
        self.lease.load_full()
    }

    /// The error of a command that Redis refuses now. All commands are refused alike, because all nodes have
    /// the same user.
    pub(super) fn refusal(&self) -> Option<String> {
        if let Some(error) = self.lease().filter(|error| is_refusal(error)) {
            return Some(error.to_string());
        }
        if self.refused_count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let refused = self.refused.locked();
        let mut recent: Vec<_> = refused.iter().filter(|(_, (_, at))| at.elapsed() < REFUSAL_TTL).collect();
        recent.sort_by_key(|(command, _)| **command);
        recent.first().map(|(command, (error, _))| format!("{command}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::timeouts::NO_ANSWER;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_reported_until_it_is_over_or_long_ago() {
        let errors = RedisErrors::default();
        errors.answered("publish", Some(NO_ANSWER));
        assert_eq!(errors.refusal(), None, "a timeout is not a refusal");
        errors.answered("publish", Some("OOM command not allowed"));
        errors.answered("renew_lease", None);
        assert_eq!(errors.refusal().as_deref(), Some("publish: OOM command not allowed"));
        errors.answered("SSUBSCRIBE", Some("NOPERM this user"));
        errors.renewed(None);
        assert_eq!(
            errors.refusal().as_deref(),
            Some("SSUBSCRIBE: NOPERM this user"),
            "renewing the lease is a write"
        );
        errors.answered("SSUBSCRIBE", None);
        errors.answered("publish", Some("OOM command not allowed"));
        errors.answered("publish", None);
        assert_eq!(errors.refusal(), None);
        errors.answered("SSUBSCRIBE", Some("NOPERM this user"));
        tokio::time::advance(REFUSAL_TTL).await;
        assert_eq!(errors.refusal(), None, "the command was not sent since");

        errors.renewed(Some("READONLY You can't write against a read only replica."));
        assert!(errors.refusal().unwrap().starts_with("READONLY"));
        errors.renewed(None);
        assert_eq!(errors.refusal(), None);

        errors.unreachable("WRONGPASS invalid username-password pair");
        assert_eq!(
            errors.because("Redis cannot be reached"),
            "Redis cannot be reached: WRONGPASS invalid username-password pair"
        );
        errors.answered("PING", None);
        assert_eq!(errors.because("Redis cannot be reached"), "Redis cannot be reached");
    }
}
