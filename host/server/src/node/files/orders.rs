//! What the thread of files is to do. Little is kept however much happens while it waits for a file system that does not answer: of the
//! system's events one a file, of files to be followed the last word, and of reading one piece of work.

use super::Happened;
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Condvar, Mutex, MutexGuard},
    time::Instant,
};
use tokio::sync::oneshot;

pub(super) type Work = Box<dyn FnOnce() + Send>;

const HELD: &str = "no code panics while it holds the orders";

#[derive(Default)]
pub(super) struct Orders {
    waiting: Mutex<Batch>,
    comes: Condvar,
}

/// All that was ordered since the thread looked last, in the order in which it is done.
#[derive(Default)]
pub(super) struct Batch {
    pub follow: Option<Follow>,
    /// Anything may have happened to any file.
    pub any: bool,
    /// What the system said last of a file.
    pub told: HashMap<PathBuf, Happened>,
    pub work: Option<Work>,
    pub end: bool,
    #[cfg(test)]
    pub panic: bool,
    /// There is something in it.
    is_due: bool,
    /// Nobody does it any more.
    is_closed: bool,
}

/// These files from now on, and no others.
pub(super) struct Follow {
    pub files: Vec<PathBuf>,
    /// Answered when they are followed, where that is awaited.
    pub done: Option<oneshot::Sender<()>>,
}

impl Orders {
    fn waiting(&self) -> MutexGuard<'_, Batch> {
        self.waiting.lock().expect(HELD)
    }

    /// What is put in after the thread has ended is dropped.
    pub(super) fn put(&self, order: impl FnOnce(&mut Batch)) {
        let mut waiting = self.waiting();
        if !waiting.is_closed {
            order(&mut waiting);
            waiting.is_due = true;
            self.comes.notify_one();
        }
    }

    /// Waits for orders, but not for longer than until then.
    pub(super) fn take(&self, until: Instant) -> Batch {
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.comes.wait_timeout_while(self.waiting(), left, |waiting| !waiting.is_due);
        std::mem::take(&mut waited.expect(HELD).0)
    }

    pub(super) fn close(&self) {
        *self.waiting() = Batch { is_closed: true, ..Batch::default() };
    }

    #[cfg(test)]
    pub(super) fn told(&self) -> usize {
        self.waiting().told.len()
    }
}
