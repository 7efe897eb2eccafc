//! Tasks and threads that a node cannot live without. One that panics would leave a node that looks alive and does half of its
//! work; so the first such panic is kept here, and the node that sees it stops in order.

use crate::log::payload;
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

/// Of one node; clones share it.
#[derive(Clone, Default)]
pub struct Vitals(Arc<Shared>);

#[derive(Default)]
struct Shared {
    failed: CancellationToken,
    failure: OnceLock<String>,
}

impl Vitals {
    /// Starts a task that may end by itself but not panic.
    pub fn task(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let vitals = self.clone();
        tokio::spawn(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                vitals.panicked(name, panic);
            }
        })
    }

    /// The same for a thread. Where the system has none, that is an error of whoever asks.
    pub fn thread(&self, name: String, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
        let vitals = self.clone();
        let thread = Builder::new().name(name.clone()).spawn(move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                vitals.panicked(&name, panic);
            }
        })?;
        Ok(thread.thread().clone())
    }

    /// Runs what must neither panic nor end; returns when it did.
    pub async fn for_ever(&self, name: &str, work: impl Future<Output = ()>) {
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(()) => self.fail(format!("{name} ended")),
            Err(panic) => self.panicked(name, panic),
        }
    }

    fn panicked(&self, name: &str, panic: Box<dyn Any + Send>) {
        self.fail(format!("{name} panicked: {}", payload(panic.as_ref())));
    }

    fn fail(&self, failure: String) {
        tracing::error!("{failure}; this node cannot go on without it");
        // The first is the cause of those that follow.
        self.0.failure.set(failure).ok();
        self.0.failed.cancel();
    }

    /// What failed first.
    pub fn failure(&self) -> Option<&str> {
        self.0.failure.get().map(String::as_str)
    }

    /// Waits until something fails.
    pub async fn failed(&self) {
        self.0.failed.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn the_first_panic_of_a_task_or_a_thread_is_kept() {
        let vitals = Vitals::default();
        vitals.task("one that ends", async {}).await.unwrap();
        let stays = vitals.task("one that is given up", std::future::pending());
        stays.abort();
        stays.await.unwrap_err();
        vitals.thread("a thread that ends".into(), || {}).unwrap();
        assert_eq!(vitals.failure(), None);

        let other = Vitals::default();
        vitals.task("the lease", async { panic!("on {}", "purpose") }).await.unwrap();
        timeout(PATIENCE, vitals.failed()).await.unwrap();
        vitals.task("another", async { panic!("because of it") }).await.unwrap();
        assert_eq!(vitals.failure(), Some("the lease panicked: on purpose"));
        assert_eq!(other.failure(), None, "another node is not concerned");

        other.thread("plugin dydx".into(), || panic!("in a thread")).unwrap();
        timeout(PATIENCE, other.failed()).await.unwrap();
        assert_eq!(other.failure(), Some("plugin dydx panicked: in a thread"));
    }

    #[tokio::test]
    async fn what_must_go_on_for_ever_fails_when_it_ends() {
        let vitals = Vitals::default();
        timeout(PATIENCE, vitals.for_ever("reloading", async {})).await.unwrap();
        assert_eq!(vitals.failure(), Some("reloading ended"));
    }
}
