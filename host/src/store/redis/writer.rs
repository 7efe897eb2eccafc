//! Writes what changed in sessions, memberships and acknowledgements. What somebody waits for goes at once, with all that
//! gathered while the last batch was on its way; what nobody waits for gathers for a moment.

use super::{Shared, Unavailable, batch};
use crate::store::PATIENCE;
use std::{
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{Notify, oneshot};

/// How long what nobody waits for may gather: so many members as may acknowledge meanwhile are one command.
const GATHER: Duration = Duration::from_millis(100);
/// After a batch that failed.
const PAUSE: Duration = Duration::from_millis(200);

type Waiter = oneshot::Sender<Result<(), Unavailable>>;

pub struct Writer {
    desk: Arc<Desk>,
}

#[derive(Default)]
struct Desk {
    awaited: Notify,
    changed: Notify,
    waiters: Mutex<Vec<Waiter>>,
    closed: std::sync::atomic::AtomicBool,
}

impl Desk {
    fn waiters(&self) -> Vec<Waiter> {
        mem::take(&mut self.waiters.lock().expect("no code panics while it holds them"))
    }
}

impl Writer {
    /// Its task ends with the writer.
    pub fn start(shared: &Arc<Shared>) -> Self {
        let desk = Arc::new(Desk::default());
        tokio::spawn(write(shared.clone(), desk.clone()));
        Self { desk }
    }

    /// There is something to write.
    pub fn wake(&self) {
        self.desk.changed.notify_one();
    }

    /// Waits until everything that changed so far is written. After an error it is tried again.
    pub async fn written(&self) -> Result<(), Unavailable> {
        let (waiter, written) = oneshot::channel();
        self.desk.waiters.lock().expect("no code panics while it holds them").push(waiter);
        self.desk.awaited.notify_one();
        let late = || Unavailable("Redis does not answer".to_owned());
        match tokio::time::timeout(PATIENCE, written).await {
            Ok(Ok(written)) => written,
            Ok(Err(_)) | Err(_) => Err(late()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.desk.closed.store(true, std::sync::atomic::Ordering::Relaxed);
        self.desk.awaited.notify_one();
    }
}

async fn write(shared: Arc<Shared>, desk: Arc<Desk>) {
    loop {
        let gathered = async {
            desk.changed.notified().await;
            tokio::time::sleep(GATHER).await;
        };
        tokio::select! {
            () = desk.awaited.notified() => {}
            () = gathered => {}
        }
        if desk.closed.load(std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        // Who waits was there before what is taken now.
        let waiters = desk.waiters();
        let dirty = shared.held().take();
        let written = match dirty.is_empty() {
            true => Ok(()),
            false => batch::write(&shared, dirty).await,
        };
        let rest = !shared.held().is_written();
        for waiter in waiters {
            waiter.send(written.clone()).ok();
        }
        if let Err(error) = written {
            tracing::debug!(%error, "not written yet");
            tokio::time::sleep(PAUSE).await;
        }
        // What came back, or turned out to be needed.
        if rest {
            desk.changed.notify_one();
        }
    }
}
