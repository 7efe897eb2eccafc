//! Work that blocks, on a thread of its own. Tokio's pool panics, or never begins, where the system has no thread to give; here
//! that is an error of the one thing that needed it.

use std::{io, sync::Arc, thread::Builder, time::Duration};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

/// Why work was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlockingError {
    /// It may be done later.
    #[error("no thread can be started: {0}")]
    NoThread(#[from] io::Error),
    /// That was logged.
    #[error("it panicked, which is a fault of the program")]
    Panicked,
    /// It may come to an end yet, and be done again then.
    #[error("it does not come to an end: a file system does not answer")]
    Endless,
}

/// Does the work while others go on; it goes on when nobody awaits it any more. `name` is the thread's.
pub(crate) async fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BlockingError> {
    let (done, is_done) = oneshot::channel();
    Builder::new().name(name.to_owned()).spawn(move || done.send(work()).ok())?;
    is_done.await.map_err(|_| BlockingError::Panicked)
}

/// Work of which there is one at a time, so that what does not end takes one thread and not another with each attempt.
#[derive(Clone)]
pub(crate) struct Lane(Arc<Semaphore>);

impl Default for Lane {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Lane {
    /// Like [`run`], when the work before has ended and for so long at most.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        name: &str,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BlockingError> {
        let done = async {
            let permit = self.0.clone().acquire_owned().await.expect("it is never closed");
            let work = move || {
                let _permit = permit;
                work()
            };
            run(name, work).await
        };
        timeout(patience, done).await.unwrap_or(Err(BlockingError::Endless))
    }
}

/// Until work is tried again for which there was no thread.
pub(crate) const AGAIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn work_gives_its_result_and_a_panic_is_an_error() {
        assert_eq!(run("adds", || 1 + 1).await.unwrap(), 2);
        let panicked: Result<(), _> = run("panics", || panic!("on purpose")).await;
        assert!(matches!(panicked, Err(BlockingError::Panicked)));
    }
    #[tokio::test(start_paused = true)]
    async fn work_that_does_not_end_is_an_error_and_takes_one_thread_however_often_it_is_tried() {
        let (lane, patience) = (Lane::default(), Duration::from_secs(30));
        let ((end, ends), (begun, begins)) = (mpsc::channel::<()>(), mpsc::channel());
        let stuck = lane.run("waits", patience, move || ends.recv().ok());
        assert!(matches!(stuck.await, Err(BlockingError::Endless)));
        for _ in 0..3 {
            let begun = begun.clone();
            let again = lane.run("waits too", patience, move || begun.send(()).ok());
            assert!(matches!(again.await, Err(BlockingError::Endless)));
        }
        assert!(begins.try_recv().is_err(), "there is no other thread");
        drop(end);
        tokio::time::resume();
        assert_eq!(lane.run("adds", patience, || 1 + 1).await.unwrap(), 2);
    }
}
