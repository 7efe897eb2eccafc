//! Writes what changed in sessions, memberships and acknowledgements: all that gathered while the last batch was on its way.

use super::{Shared, Unavailable, batch};
use crate::store::PATIENCE;
use std::{
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{Notify, oneshot};

/// After a batch that failed.
const PAUSE: Duration = Duration::from_millis(200);

type Waiter = oneshot::Sender<Result<(), Unavailable>>;

pub struct Writer {
    desk: Arc<Desk>,
}

#[derive(Default)]
struct Desk {
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
        self.wake();
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
        self.wake();
    }
}

async fn write(shared: Arc<Shared>, desk: Arc<Desk>) {
    loop {
        desk.changed.notified().await;
        if desk.closed.load(std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        // Who waits was there before what is taken now.
        let waiters = desk.waiters();
        let dirty = mem::take(&mut shared.held().dirty);
        let written = match dirty.is_empty() {
            true => Ok(()),
            false => batch::write(&shared, dirty).await,
        };
        if let Err(error) = &written {
            tracing::debug!(%error, "not written yet");
        }
        for waiter in waiters {
            waiter.send(written.clone()).ok();
        }
        if written.is_err() {
            tokio::time::sleep(PAUSE).await;
            desk.changed.notify_one();
        }
    }
}
