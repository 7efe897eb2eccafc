//! What the copies of calls may use that wait for candidates, and for whoever reads a recording. Every candidate and
//! every recording has a queue of its own; this bounds them together. Knows nothing of the queues.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use switchyard_process::memory::{MemoryAccount, MemoryCharge, MemoryKind};

/// How many bytes all copies of a node may have together. Further calls are skipped.
const MAX_COPIED_BYTES: usize = 16 << 20;

/// The copies of calls that wait on a node. The node is charged for them, and no principal: none has asked for them.
pub struct CopyBudget {
    account: Arc<MemoryAccount>,
    copied: AtomicUsize,
}

/// Bytes that count as copied until this is dropped.
pub(super) struct CopiedBytes {
    budget: Arc<CopyBudget>,
    charge: MemoryCharge,
}

impl CopyBudget {
    /// Charges this account.
    pub fn new(account: Arc<MemoryAccount>) -> Arc<Self> {
        Arc::new(Self { account, copied: AtomicUsize::new(0) })
    }

    /// Whether any call can be copied just now.
    pub(super) fn has_room(&self) -> bool {
        self.copied.load(Ordering::Relaxed) < MAX_COPIED_BYTES && !self.account.is_under_pressure()
    }

    /// Takes these bytes, unless that is too much.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Option<CopiedBytes> {
        let charge = self.account.charge(MemoryKind::Publishes, bytes);
        let before = self.copied.fetch_add(bytes, Ordering::Relaxed);
        let copied = CopiedBytes { budget: self.clone(), charge };
        (before + bytes <= MAX_COPIED_BYTES).then_some(copied)
    }
}

impl Drop for CopiedBytes {
    fn drop(&mut self) {
        self.budget.copied.fetch_sub(self.charge.bytes(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once, each candidate of a plugin that governs nothing yet could keep 16 MiB, and nobody was charged.
    #[test]
    fn all_copies_together_are_bounded_and_charged() {
        let account = MemoryAccount::new(100 << 20);
        let budget = CopyBudget::new(account.clone());
        let half = || budget.take(MAX_COPIED_BYTES / 2);
        let (first, second) = (half(), half());
        assert!(first.is_some() && second.is_some() && !budget.has_room());
        assert!(half().is_none());
        assert_eq!(account.used(MemoryKind::Publishes), MAX_COPIED_BYTES, "what was refused is given back");
        drop(first);
        assert!(budget.has_room() && half().is_some());
        drop(second);
        assert_eq!(account.total(), 0);
    }

    #[test]
    fn nothing_is_copied_while_memory_is_short() {
        let account = MemoryAccount::new(1000);
        let _others = account.charge(MemoryKind::Sessions, 900);
        assert!(!CopyBudget::new(account).has_room());
    }
}
