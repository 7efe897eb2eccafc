//! What keeps Redis from serving this node, in its own words: for readiness and for errors that would otherwise only say that it
//! cannot be reached.

use crate::redis::url::Secrets;
use arc_swap::ArcSwapOption;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// A command that was refused is remembered for so long: who is refused may not ask again.
const REMEMBERED: Duration = Duration::from_secs(10);

/// How errors begin with which Redis refuses what it would do for another user, in another state or with other settings.
const REFUSALS: [&str; 11] = [
    "OOM",
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
pub(super) struct Trouble {
    secrets: Secrets,
    /// Why the last attempt to connect failed, since something was answered.
    connection: ArcSwapOption<String>,
    /// Why the lease was not renewed at the last attempt.
    lease: ArcSwapOption<String>,
    /// By command, with the time.
    refused: Mutex<HashMap<&'static str, (String, Instant)>>,
    /// How many commands that are.
    count: AtomicUsize,
}

const HELD: &str = "no code panics while it holds what was refused";

fn is_refusal(error: &str) -> bool {
    REFUSALS.iter().any(|refusal| error.starts_with(refusal))
}

impl Trouble {
    pub(super) fn new(secrets: Secrets) -> Self {
        Self { secrets, ..Self::default() }
    }

    /// Nobody is told a secret by an error.
    pub(super) fn hidden(&self, error: &str) -> String {
        self.secrets.hidden(error)
    }

    pub(super) fn unreachable(&self, error: &str) {
        self.connection.store(Some(Arc::new(self.hidden(error))));
    }

    /// Why a connection cannot be made, where that is known.
    pub(super) fn because(&self, what: &str) -> String {
        self.connection.load().as_ref().map_or_else(|| what.to_owned(), |error| format!("{what}: {error}"))
    }

    /// What came of a command.
    pub(super) fn answered(&self, command: &'static str, error: Option<&str>) {
        match error {
            Some(error) if is_refusal(error) => {
                let mut refused = self.refused.lock().expect(HELD);
                refused.insert(command, (error.to_owned(), Instant::now()));
                self.count.store(refused.len(), Ordering::Relaxed);
            }
            Some(_) => {}
            None => {
                if self.connection.load().is_some() {
                    self.connection.store(None);
                }
                if self.count.load(Ordering::Relaxed) > 0 {
                    let mut refused = self.refused.lock().expect(HELD);
                    refused.remove(command);
                    self.count.store(refused.len(), Ordering::Relaxed);
                }
            }
        }
    }

    /// A lease is renewed by a write: what refuses every write does not any more, when it succeeds.
    pub(super) fn renewed(&self, error: Option<&str>) {
        if error.is_none() && self.count.load(Ordering::Relaxed) > 0 {
            let mut refused = self.refused.lock().expect(HELD);
            refused.retain(|_, (error, _)| ["NOPERM", "ERR"].iter().any(|kind| error.starts_with(kind)));
            self.count.store(refused.len(), Ordering::Relaxed);
        }
        if error.is_some() || self.lease.load().is_some() {
            self.lease.store(error.map(|error| Arc::new(error.to_owned())));
        }
    }

    /// Why the lease cannot be renewed.
    pub(super) fn lease(&self) -> Option<Arc<String>> {
        self.lease.load_full()
    }

    /// What Redis refuses now, where it refuses anything: to everybody, as all ask with the same user.
    pub(super) fn refusal(&self) -> Option<String> {
        if let Some(error) = self.lease().filter(|error| is_refusal(error)) {
            return Some(error.to_string());
        }
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let refused = self.refused.lock().expect(HELD);
        let mut lately: Vec<_> = refused.iter().filter(|(_, (_, at))| at.elapsed() < REMEMBERED).collect();
        lately.sort_by_key(|(command, _)| **command);
        lately.first().map(|(command, (error, _))| format!("{command}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_told_until_it_is_over_or_long_ago() {
        let trouble = Trouble::default();
        trouble.answered("publish", Some("Redis does not answer"));
        assert_eq!(trouble.refusal(), None, "that is no refusal");
        trouble.answered("publish", Some("OOM command not allowed"));
        trouble.answered("tick", None);
        assert_eq!(trouble.refusal().as_deref(), Some("publish: OOM command not allowed"));
        trouble.answered("SSUBSCRIBE", Some("NOPERM this user"));
        trouble.renewed(None);
        assert_eq!(
            trouble.refusal().as_deref(),
            Some("SSUBSCRIBE: NOPERM this user"),
            "the lease is a write"
        );
        trouble.answered("SSUBSCRIBE", None);
        trouble.answered("publish", Some("OOM command not allowed"));
        trouble.answered("publish", None);
        assert_eq!(trouble.refusal(), None);
        trouble.answered("SSUBSCRIBE", Some("NOPERM this user"));
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(trouble.refusal(), None, "nobody has asked since");

        trouble.renewed(Some("READONLY You can't write against a read only replica."));
        assert!(trouble.refusal().unwrap().starts_with("READONLY"));
        trouble.renewed(None);
        assert_eq!(trouble.refusal(), None);

        trouble.unreachable("WRONGPASS invalid username-password pair");
        assert_eq!(
            trouble.because("Redis cannot be reached"),
            "Redis cannot be reached: WRONGPASS invalid username-password pair"
        );
        trouble.answered("PING", None);
        assert_eq!(trouble.because("Redis cannot be reached"), "Redis cannot be reached");
    }
}
