//! Work that blocks, on a thread of its own. Tokio's pool panics, or never begins, where the system has no thread to give; here
//! that is an error of the one thing that needed it.

use std::{io, thread::Builder, time::Duration};
use tokio::sync::oneshot;

/// Why work was not done.
#[derive(Debug, thiserror::Error)]
pub enum BlockingError {
    /// It may be done later.
    #[error("no thread can be started: {0}")]
    NoThread(#[from] io::Error),
    /// That was logged.
    #[error("it panicked, which is a fault of the program")]
    Panicked,
}

/// Does the work while others go on; it goes on when nobody awaits it any more. `name` is the thread's.
pub async fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BlockingError> {
    let (done, is_done) = oneshot::channel();
    Builder::new().name(name.to_owned()).spawn(move || done.send(work()).ok())?;
    is_done.await.map_err(|_| BlockingError::Panicked)
}

/// Until work is tried again for which there was no thread.
pub const AGAIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_gives_its_result_and_a_panic_is_an_error() {
        assert_eq!(run("adds", || 1 + 1).await.unwrap(), 2);
        let panicked: Result<(), _> = run("panics", || panic!("on purpose")).await;
        assert!(matches!(panicked, Err(BlockingError::Panicked)));
    }
}
