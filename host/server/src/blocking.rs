//! Blocking work, each piece on a thread of its own. If the system has no thread left, Tokio's pool panics or
//! never starts the work. Here it is an error that only the caller sees.

use std::{io, sync::Arc, thread::Builder, time::Duration};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlockingError {
    /// The work was not started. It may succeed later.
    #[error("cannot start a thread: {0}")]
    NoThread(#[from] io::Error),
    /// The panic was logged.
    #[error("it panicked; this is a bug")]
    Panicked,
    /// The work may still finish, and can be tried again then.
    #[error("timed out: a file system does not respond")]
    TimedOut,
}

/// Runs the work on a thread of this name. It runs to its end even if the returned future is dropped.
pub(crate) async fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BlockingError> {
    let (sender, result) = oneshot::channel();
    Builder::new().name(name.to_owned()).spawn(move || sender.send(work()).ok())?;
    result.await.map_err(|_| BlockingError::Panicked)
}

/// Runs one piece of work at a time. So work that never ends occupies one thread, and not another one with
/// each attempt.
#[derive(Clone)]
pub(crate) struct SerialRunner(Arc<Semaphore>);

impl Default for SerialRunner {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl SerialRunner {
    /// Like [`run`], once earlier work has ended. `limit` includes that wait.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        name: &str,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BlockingError> {
        let result = async {
            let permit = self.0.clone().acquire_owned().await.expect("never closed");
            let work = move || {
                let _permit = permit;
                work()
            };
            run(name, work).await
        };
        timeout(limit, result).await.unwrap_or(Err(BlockingError::TimedOut))
    }
}

/// How long to wait before trying again to start a thread.
pub(crate) const THREAD_RETRY_DELAY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn work_returns_its_result_and_a_panic_is_an_error() {
        assert_eq!(run("adds", || 1 + 1).await.unwrap(), 2);
        let panicked: Result<(), _> = run("panics", || panic!("on purpose")).await;
        assert!(matches!(panicked, Err(BlockingError::Panicked)));
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_never_ends_times_out_and_occupies_one_thread_however_often_it_is_tried() {
        let (runner, limit) = (SerialRunner::default(), Duration::from_secs(30));
        let ((end, ended), (start, started)) = (mpsc::channel::<()>(), mpsc::channel());
        let stuck = runner.run("is stuck", limit, move || ended.recv().ok());
        assert!(matches!(stuck.await, Err(BlockingError::TimedOut)));
        for _ in 0..3 {
            let start = start.clone();
            let next = runner.run("waits", limit, move || start.send(()).ok());
            assert!(matches!(next.await, Err(BlockingError::TimedOut)));
        }
        assert!(started.try_recv().is_err(), "there is no second thread");
        drop(end);
        tokio::time::resume();
        assert_eq!(runner.run("adds", limit, || 1 + 1).await.unwrap(), 2);
    }
}
