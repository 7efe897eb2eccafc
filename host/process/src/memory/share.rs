//! What one principal answers for of what is kept.

use super::{Books, Kind, may_grow};
use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

pub struct Share {
    principal: Arc<str>,
    used: AtomicUsize,
    books: Arc<Books>,
}

impl Share {
    pub(super) fn new(principal: Arc<str>, books: Arc<Books>) -> Self {
        Self { principal, used: AtomicUsize::new(0), books }
    }

    /// Empty for strangers.
    pub fn principal(&self) -> &Arc<str> {
        &self.principal
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether something may be kept for it that was not before.
    pub fn may_grow(&self) -> bool {
        may_grow(self.used(), self.books.total(), self.books.limit)
    }

    pub fn add(&self, kind: Kind, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.books.used[kind as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// No more than was added.
    pub fn subtract(&self, kind: Kind, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.books.used[kind as usize].fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Counts so much until what is given is dropped.
    pub fn charge(self: &Arc<Self>, kind: Kind, bytes: usize) -> Charge {
        let mut charge = Charge { share: self.clone(), kind: Some(kind), bytes: 0 };
        charge.grow(bytes);
        charge
    }

    /// The same for what is counted once already, by whoever made it, and kept for this principal among others.
    pub fn claim(self: &Arc<Self>, bytes: usize) -> Charge {
        let mut charge = Charge { share: self.clone(), kind: None, bytes: 0 };
        charge.grow(bytes);
        charge
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.books.shares();
        // There may be another of its name by now.
        let is_this = |share: &Weak<Share>| std::ptr::eq(share.as_ptr(), self);
        if shares.get(&self.principal).is_some_and(is_this) {
            shares.remove(&self.principal);
        }
    }
}

/// Bytes that are counted until it is dropped.
pub struct Charge {
    share: Arc<Share>,
    /// `None`: only its principal answers for them.
    kind: Option<Kind>,
    bytes: usize,
}

impl Charge {
    pub fn share(&self) -> &Arc<Share> {
        &self.share
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// So many more.
    pub fn grow(&mut self, bytes: usize) {
        match self.kind {
            Some(kind) => self.share.add(kind, bytes),
            None => drop(self.share.used.fetch_add(bytes, Ordering::Relaxed)),
        }
        self.bytes += bytes;
    }

    /// No more than there are.
    pub fn shrink(&mut self, bytes: usize) {
        self.bytes -= bytes;
        match self.kind {
            Some(kind) => self.share.subtract(kind, bytes),
            None => drop(self.share.used.fetch_sub(bytes, Ordering::Relaxed)),
        }
    }

    /// Another principal answers for it from now on.
    pub fn move_to(&mut self, share: &Arc<Share>) {
        share.used.fetch_add(self.bytes, Ordering::Relaxed);
        self.share.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.share = share.clone();
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { share, kind, bytes } = self;
        write!(f, "{bytes} B of {} for '{}'", kind.map_or("others'", Kind::as_str), share.principal)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}
