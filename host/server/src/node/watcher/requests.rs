//! What the thread of a watcher is asked to do. While the thread waits for a file system that does not
//! answer, little piles up here: one event for each file, the last set of files to watch, and one job.

use super::events::FileEvent;
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Condvar, Mutex, MutexGuard},
    time::Instant,
};
use switchyard_process::lock::{LockExt, NOT_POISONED};
use tokio::sync::oneshot;

/// A function that reads files.
pub(super) type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct Requests {
    pending: Mutex<PendingRequests>,
    added: Condvar,
}

/// The requests since the thread took the last ones, in the order in which it serves them.
#[derive(Default)]
pub(super) struct PendingRequests {
    pub watch: Option<WatchRequest>,
    /// Events were lost, or may be about any file.
    pub recheck_all: bool,
    /// The last event of each file.
    pub events: HashMap<PathBuf, FileEvent>,
    pub job: Option<Job>,
    pub stop: bool,
    #[cfg(test)]
    pub panic: bool,
    has_any: bool,
    /// The thread has ended.
    is_closed: bool,
}

/// Watch these files from now on, and no others.
pub(super) struct WatchRequest {
    pub files: Vec<PathBuf>,
    /// Notified when they are watched, if the caller waits for that.
    pub done: Option<oneshot::Sender<()>>,
}

impl Requests {
    fn pending(&self) -> MutexGuard<'_, PendingRequests> {
        self.pending.locked()
    }

    /// Adds a request. It is dropped if the thread has ended.
    pub(super) fn add(&self, request: impl FnOnce(&mut PendingRequests)) {
        let mut pending = self.pending();
        if !pending.is_closed {
            request(&mut pending);
            pending.has_any = true;
            self.added.notify_one();
        }
    }

    /// Waits for requests until the deadline, and takes all of them.
    pub(super) fn take(&self, deadline: Instant) -> PendingRequests {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.added.wait_timeout_while(self.pending(), left, |pending| !pending.has_any);
        std::mem::take(&mut waited.expect(NOT_POISONED).0)
    }

    pub(super) fn close(&self) {
        *self.pending() = PendingRequests { is_closed: true, ..PendingRequests::default() };
    }

    #[cfg(test)]
    pub(super) fn event_count(&self) -> usize {
        self.pending().events.len()
    }
}
