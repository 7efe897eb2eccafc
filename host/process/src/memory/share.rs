//! The memory that is kept for one principal, and charges of it. Does not know what the bytes are.

use super::{Ledger, MemoryKind, may_grow};
use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The memory that is kept for one principal. It is forgotten when nobody refers to it any more.
pub struct MemoryShare {
    principal: Arc<str>,
    used: AtomicUsize,
    /// What may be kept for the principal, however much is free.
    limit: AtomicUsize,
    ledger: Arc<Ledger>,
}

impl MemoryShare {
    pub(super) fn new(principal: Arc<str>, ledger: Arc<Ledger>) -> Self {
        Self { principal, used: AtomicUsize::new(0), limit: AtomicUsize::new(usize::MAX), ledger }
    }

    /// The name of the principal; empty for connections without a key, and for what no principal is charged
    /// for.
    pub fn principal(&self) -> &Arc<str> {
        &self.principal
    }

    /// How many bytes are kept for the principal.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Sets how many bytes may be kept for the principal, however much is free. What is there stays. Forgotten with the
    /// share.
    pub fn set_limit(&self, bytes: Option<usize>) {
        self.limit.store(bytes.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Whether as much is kept for the principal as its [limit](Self::set_limit) allows. This is apart from
    /// [`may_grow`](Self::may_grow), because what is on its way for a moment needs room on the node only.
    pub fn is_at_limit(&self) -> bool {
        self.used() >= self.limit.load(Ordering::Relaxed)
    }

    /// Whether the node has room for more of the principal: see [`may_grow`](super::may_grow).
    pub fn may_grow(&self) -> bool {
        may_grow(self.used(), self.ledger.total(), self.ledger.limit)
    }

    /// Counts bytes until they are [subtracted](Self::subtract). Prefer [`charge`](Self::charge).
    pub fn add(&self, kind: MemoryKind, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.ledger.used[kind as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Stops counting what was [added](Self::add).
    pub fn subtract(&self, kind: MemoryKind, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.ledger.used[kind as usize].fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Counts bytes until the charge is dropped.
    pub fn charge(self: &Arc<Self>, kind: MemoryKind, bytes: usize) -> MemoryCharge {
        let mut charge = MemoryCharge { share: self.clone(), kind: Some(kind), bytes: 0 };
        charge.grow(bytes);
        charge
    }

    /// Like [`charge`](Self::charge), but for bytes that several principals share and that already count as
    /// used by the node: they count only against the principal.
    pub fn claim(self: &Arc<Self>, bytes: usize) -> MemoryCharge {
        let mut charge = MemoryCharge { share: self.clone(), kind: None, bytes: 0 };
        charge.grow(bytes);
        charge
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        let mut shares = self.ledger.shares();
        // A new share of the same principal may be there by now.
        let is_this = |share: &Weak<MemoryShare>| std::ptr::eq(share.as_ptr(), self);
        if shares.get(&self.principal).is_some_and(is_this) {
            shares.remove(&self.principal);
        }
    }
}

/// Bytes that are counted until this is dropped.
pub struct MemoryCharge {
    share: Arc<MemoryShare>,
    /// `None` if they count only against the principal.
    kind: Option<MemoryKind>,
    bytes: usize,
}

impl MemoryCharge {
    /// The share of the principal that is charged.
    pub fn share(&self) -> &Arc<MemoryShare> {
        &self.share
    }

    /// How many bytes are counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts this many more bytes.
    pub fn grow(&mut self, bytes: usize) {
        match self.kind {
            Some(kind) => self.share.add(kind, bytes),
            None => drop(self.share.used.fetch_add(bytes, Ordering::Relaxed)),
        }
        self.bytes += bytes;
    }

    /// Counts this many bytes less, at most all of them.
    pub fn shrink(&mut self, bytes: usize) {
        self.bytes -= bytes;
        match self.kind {
            Some(kind) => self.share.subtract(kind, bytes),
            None => drop(self.share.used.fetch_sub(bytes, Ordering::Relaxed)),
        }
    }

    /// Charges another principal from now on.
    pub fn move_to(&mut self, share: &Arc<MemoryShare>) {
        share.used.fetch_add(self.bytes, Ordering::Relaxed);
        self.share.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.share = share.clone();
    }
}

impl fmt::Debug for MemoryCharge {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { share, kind, bytes } = self;
        write!(f, "{bytes} B of {} for '{}'", kind.map_or("shared", MemoryKind::as_str), share.principal)
    }
}

impl Drop for MemoryCharge {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}
