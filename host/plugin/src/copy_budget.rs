//! Bounds the memory of the copies of calls that are queued for candidates, and for whoever reads a recording: of each
//! queue, and of all of them together. Knows nothing of the queues.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use switchyard_process::memory::{MemoryAccount, MemoryCharge, MemoryKind};

/// How many bytes all copies of a node may have together. Further calls are skipped.
const MAX_COPIED_BYTES: usize = 16 << 20;
/// How many of them may wait in one queue, so that one that is slow leaves something to others.
const MAX_QUEUED_BYTES: usize = 8 << 20;

/// The copies of calls that wait on a node. The node is charged for them, and no principal: none has asked for them.
pub struct CopyBudget {
    account: Arc<MemoryAccount>,
    copied: AtomicUsize,
}

/// What the copies in one queue may use.
pub(super) struct CopyQuota {
    budget: Arc<CopyBudget>,
    queued: AtomicUsize,
}

/// Bytes that count as copied until this is dropped.
pub(super) struct CopiedBytes {
    quota: Arc<CopyQuota>,
    charge: MemoryCharge,
}

impl CopyBudget {
    /// Charges this account.
    pub fn new(account: Arc<MemoryAccount>) -> Arc<Self> {
        Arc::new(Self { account, copied: AtomicUsize::new(0) })
    }

    /// For one queue.
    pub(super) fn quota(self: &Arc<Self>) -> Arc<CopyQuota> {
        Arc::new(CopyQuota { budget: self.clone(), queued: AtomicUsize::new(0) })
    }
}

impl CopyQuota {
    /// Whether any call can be copied just now.
    pub(super) fn has_room(&self) -> bool {
        self.queued.load(Ordering::Relaxed) < MAX_QUEUED_BYTES
            && self.budget.copied.load(Ordering::Relaxed) < MAX_COPIED_BYTES
            && !self.budget.account.is_under_pressure()
    }

    /// Takes these bytes, unless that is too much.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Option<CopiedBytes> {
        let charge = self.budget.account.charge(MemoryKind::Publishes, bytes);
        let queued = self.queued.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let copied = self.budget.copied.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let taken = CopiedBytes { quota: self.clone(), charge };
        (queued <= MAX_QUEUED_BYTES && copied <= MAX_COPIED_BYTES).then_some(taken)
    }
}

impl Drop for CopiedBytes {
    fn drop(&mut self) {
        let bytes = self.charge.bytes();
        self.quota.queued.fetch_sub(bytes, Ordering::Relaxed);
        self.quota.budget.copied.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once, each candidate of a plugin that governs nothing yet could keep 16 MiB, and nobody was charged.
    #[test]
    fn the_copies_of_a_queue_and_of_all_queues_are_bounded_and_charged() {
        let account = MemoryAccount::new(100 << 20);
        let budget = CopyBudget::new(account.clone());
        let (one, two, three) = (budget.quota(), budget.quota(), budget.quota());
        let (first, second) = (one.take(MAX_QUEUED_BYTES), two.take(MAX_QUEUED_BYTES));
        assert!(first.is_some() && second.is_some());
        assert!(!one.has_room() && !three.has_room(), "all of it is taken");
        assert!(three.take(1).is_none());
        assert_eq!(account.used(MemoryKind::Publishes), MAX_COPIED_BYTES, "what was refused is given back");
        drop(first);
        assert!(one.has_room() && three.has_room() && !two.has_room());
        assert!(two.take(1).is_none() && three.take(1).is_some());
        drop(second);
        assert_eq!(account.total(), 0);
    }

    #[test]
    fn nothing_is_copied_while_memory_is_short() {
        let account = MemoryAccount::new(1000);
        let _others = account.charge(MemoryKind::Sessions, 900);
        assert!(!CopyBudget::new(account).quota().has_room());
    }
}
