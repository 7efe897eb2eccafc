//! How full the servers of Redis are: the memory of the fullest, and what this node has added since the servers were asked.
//! Who asks them is in `cluster::fullness`; what each principal uses is in `usage`.

use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// The servers are asked at once where this node alone has added this part of the limit since: others may have as well.
const LARGE_GROWTH_DIVISOR: usize = 50;

/// The memory of a server, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ServerMemory {
    pub used: usize,
    /// `usize::MAX` where there is no limit.
    pub limit: usize,
}

impl ServerMemory {
    /// The part that is used.
    pub(crate) fn fill(self) -> f64 {
        self.used as f64 / self.limit as f64
    }
}

/// What is known of the server that is fullest.
pub(crate) struct FullestServer {
    used: AtomicUsize,
    limit: AtomicUsize,
    /// What this node has added since it asked.
    added: AtomicUsize,
    /// What is on its way there.
    reserved: AtomicUsize,
    has_grown: Notify,
}

impl Default for FullestServer {
    fn default() -> Self {
        let [used, added, reserved] = Default::default();
        Self { used, limit: AtomicUsize::new(usize::MAX), added, reserved, has_grown: Notify::new() }
    }
}

impl FullestServer {
    /// What is used, with what is on its way there.
    pub(crate) fn memory(&self) -> ServerMemory {
        let used = self.used.load(Ordering::Relaxed) + self.reserved.load(Ordering::Relaxed);
        ServerMemory { used, limit: self.limit.load(Ordering::Relaxed) }
    }

    /// The servers were asked.
    pub(crate) fn set(&self, ServerMemory { used, limit }: ServerMemory) {
        self.used.store(used, Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// The servers are about to be asked: what is added from now on may be missing in their answers.
    pub(crate) fn begin_to_ask(&self) {
        self.added.store(0, Ordering::Relaxed);
    }

    /// Waits until this node alone has added much since the servers were asked.
    pub(crate) async fn has_grown(&self) {
        self.has_grown.notified().await;
    }

    /// Something was stored.
    pub(crate) fn added(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        let added = self.added.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if added > self.limit.load(Ordering::Relaxed) / LARGE_GROWTH_DIVISOR {
            self.has_grown.notify_one();
        }
    }

    /// Something is on its way, until it is released.
    pub(crate) fn reserve(&self, bytes: usize) {
        self.reserved.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.reserved.fetch_sub(bytes, Ordering::Relaxed);
    }
}
