//! Tasks and threads that a node cannot live without. If one panicked, the node would look alive and do only
//! half of its work. So the first such panic is recorded here, and the node stops in order. Does not restart
//! anything.

use crate::log::panic_message;
use futures_util::FutureExt;
use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    thread::{Builder, Thread},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The vital tasks and threads of one node. Clones share them.
#[derive(Clone, Default)]
pub struct VitalTasks(Arc<Shared>);

#[derive(Default)]
struct Shared {
    failed: CancellationToken,
    failure: OnceLock<String>,
}

impl VitalTasks {
    /// Spawns a task, which may end or be aborted but must not panic. `name` is for the log.
    pub fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let vital = self.clone();
        tokio::spawn(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                vital.panicked(name, panic);
            }
        })
    }

    /// Starts a thread, which may end but must not panic. `name` is that of the thread, and for the log.
    ///
    /// # Errors
    ///
    /// If the system cannot start a thread.
    pub fn spawn_thread(&self, name: String, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
        let vital = self.clone();
        let thread = Builder::new().name(name.clone()).spawn(move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                vital.panicked(&name, panic);
            }
        })?;
        Ok(thread.thread().clone())
    }

    /// Runs work that must neither panic nor end, in the caller's task. Returns if it does.
    pub async fn run_forever(&self, name: &str, work: impl Future<Output = ()>) {
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(()) => self.fail(format!("{name} ended")),
            Err(panic) => self.panicked(name, panic),
        }
    }

    fn panicked(&self, name: &str, panic: Box<dyn Any + Send>) {
        self.fail(format!("{name} panicked: {}", panic_message(panic.as_ref())));
    }

    fn fail(&self, failure: String) {
        tracing::error!("{failure}; this node cannot continue without it");
        // Only the first is kept: it is probably the cause of those that follow.
        self.0.failure.set(failure).ok();
        self.0.failed.cancel();
    }

    /// The first failure, such as `the lease panicked: …`; `None` if there was none.
    pub fn failure(&self) -> Option<&str> {
        self.0.failure.get().map(String::as_str)
    }

    /// Waits for the first failure.
    pub async fn failed(&self) {
        self.0.failed.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn the_first_panic_of_a_task_or_thread_is_kept() {
        let vital = VitalTasks::default();
        vital.spawn("one that ends", async {}).await.unwrap();
        let aborted = vital.spawn("one that is aborted", std::future::pending());
        aborted.abort();
        aborted.await.unwrap_err();
        vital.spawn_thread("a thread that ends".into(), || {}).unwrap();
        assert_eq!(vital.failure(), None);

        let other = VitalTasks::default();
        vital.spawn("the lease", async { panic!("on {}", "purpose") }).await.unwrap();
        timeout(TIMEOUT, vital.failed()).await.unwrap();
        vital.spawn("another", async { panic!("because of it") }).await.unwrap();
        assert_eq!(vital.failure(), Some("the lease panicked: on purpose"));
        assert_eq!(other.failure(), None, "another node is not affected");

        other.spawn_thread("plugin dydx".into(), || panic!("in a thread")).unwrap();
        timeout(TIMEOUT, other.failed()).await.unwrap();
        assert_eq!(other.failure(), Some("plugin dydx panicked: in a thread"));
    }

    #[tokio::test]
    async fn work_that_must_run_forever_fails_when_it_ends() {
        let vital = VitalTasks::default();
        timeout(TIMEOUT, vital.run_forever("reloading", async {})).await.unwrap();
        assert_eq!(vital.failure(), Some("reloading ended"));
    }
}
