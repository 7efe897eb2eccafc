//! Reads files on the thread that watches them. That thread exists already, so this works even if the system
//! cannot start any more threads; and a file system that does not answer blocks no other thread.

use super::requests::Requests;
use std::{sync::Arc, time::Duration};
use switchyard_process::file::UnusableFile;
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

/// How long the caller of [`FileReader::run`] waits. A file system on another machine may never answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs functions that read files on the thread that watches these files, one at a time.
#[derive(Clone)]
pub struct FileReader {
    requests: Arc<Requests>,
    /// Limits the work to one function at a time, so that functions whose callers have given up do not pile
    /// up behind one that blocks.
    turn: Arc<Semaphore>,
}

/// Why files were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The function panicked.
    #[error("reading files panicked, which is a bug")]
    Panicked,
    /// The function, or one before it, did not return in time.
    #[error("reading files takes too long: a file system does not answer")]
    TimedOut,
}

impl From<ReadError> for UnusableFile {
    fn from(error: ReadError) -> Self {
        Self::Temporary(error.to_string())
    }
}

impl FileReader {
    pub(super) fn new(requests: Arc<Requests>) -> Self {
        Self { requests, turn: Arc::new(Semaphore::new(1)) }
    }

    pub(super) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Runs a function, and waits at most 30 s for it. If the caller gives up, the function may or may not
    /// run, so it must only return what it reads, and change nothing.
    ///
    /// # Errors
    ///
    /// Fails if the function panics, or does not return in time.
    pub async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        timeout(READ_TIMEOUT, self.run_without_timeout(read)).await.unwrap_or(Err(ReadError::TimedOut))
    }

    /// Runs a function, however long it takes.
    ///
    /// # Errors
    ///
    /// Fails if the function panics.
    pub async fn run_without_timeout<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let turn = self.turn.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (done, is_done) = oneshot::channel();
        let job = move || {
            let _turn = turn;
            if !done.is_closed() {
                done.send(read()).ok();
            }
        };
        self.requests.add(|pending| pending.job = Some(Box::new(job)));
        is_done.await.map_err(|_| ReadError::Panicked)
    }
}
