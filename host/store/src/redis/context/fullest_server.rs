//! How full the fullest server of Redis is, including what this node has written since the servers were last
//! asked. `nodes::fullness` asks them; `usage` knows what each principal uses.

use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// If this node alone adds this fraction of the limit, the servers are asked at once, because other nodes may
/// be adding as much.
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

/// The server of whose memory the largest part is used.
pub(crate) struct FullestServer {
    used: AtomicUsize,
    limit: AtomicUsize,
    /// What this node has added since the servers were last asked.
    added: AtomicUsize,
    /// What is on its way to Redis.
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
    /// The used memory, including what is on its way.
    pub(crate) fn memory(&self) -> ServerMemory {
        let used = self.used.load(Ordering::Relaxed) + self.reserved.load(Ordering::Relaxed);
        ServerMemory { used, limit: self.limit.load(Ordering::Relaxed) }
    }

    /// Sets what the servers have reported. What this node has added since they were asked may be missing
    /// from it.
    pub(crate) fn set(&self, ServerMemory { used, limit }: ServerMemory) {
        self.used.store(used + self.added.load(Ordering::Relaxed), Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// The servers are about to be asked. What is added from now on may be missing from their replies.
    pub(crate) fn begin_to_ask(&self) {
        self.added.store(0, Ordering::Relaxed);
    }

    /// Waits until this node alone has added a lot since the servers were last asked.
    pub(crate) async fn has_grown(&self) {
        self.has_grown.notified().await;
    }

    /// Counts stored bytes.
    pub(crate) fn added(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        let added = self.added.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if added > self.limit.load(Ordering::Relaxed) / LARGE_GROWTH_DIVISOR {
            self.has_grown.notify_one();
        }
    }

    /// Counts bytes that are on their way, until they are released.
    pub(crate) fn reserve(&self, bytes: usize) {
        self.reserved.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.reserved.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: what was written while the servers were asked was forgotten until they were asked again.
    #[test]
    fn what_is_added_while_the_servers_are_asked_counts() {
        let server = FullestServer::default();
        server.added(10);
        server.begin_to_ask();
        server.added(5);
        server.set(ServerMemory { used: 100, limit: 1000 });
        assert_eq!(server.memory().used, 105);
        server.begin_to_ask();
        server.set(ServerMemory { used: 105, limit: 1000 });
        assert_eq!(server.memory().used, 105);
    }
}
