//! A charge that changes in steps. Decides nothing about what may be kept.

use super::{MemoryCharge, MemoryShare};
use std::sync::Arc;

/// A charge for bytes that come and go all the time, such as those in a queue. It changes in steps of 16 KiB,
/// so that most changes cost nothing.
pub struct SteppedCharge(MemoryCharge);

/// The size of a step, in bytes.
pub(super) const STEP_BYTES: usize = 16 << 10;

impl SteppedCharge {
    /// Counts in steps in `charge`, which must be empty.
    pub fn new(charge: MemoryCharge) -> Self {
        Self(charge)
    }

    /// Sets the number of bytes, rounded down to whole steps. Returns whether the charge has grown.
    pub fn set(&mut self, bytes: usize) -> bool {
        let (now, before) = (bytes / STEP_BYTES * STEP_BYTES, self.0.bytes());
        match now > before {
            true => self.0.grow(now - before),
            false if now < before => self.0.shrink(before - now),
            false => {}
        }
        now > before
    }

    /// Whether more may be kept for the principal that is charged.
    pub fn may_grow(&self) -> bool {
        self.0.share().may_grow() && !self.0.share().is_at_limit()
    }

    /// Charges another principal from now on.
    pub fn move_to(&mut self, share: &Arc<MemoryShare>) {
        self.0.move_to(share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MemoryAccount, MemoryKind};

    #[test]
    fn only_whole_steps_are_counted() {
        let account = MemoryAccount::new(1 << 20);
        let acme = account.share(&"acme".into());
        let mut stepped = SteppedCharge::new(account.unauthenticated().charge(MemoryKind::Outboxes, 0));
        for (bytes, counted) in [
            (STEP_BYTES - 1, 0),
            (2 * STEP_BYTES + 1, 2 * STEP_BYTES),
            (STEP_BYTES, STEP_BYTES),
            (3, 0),
            (STEP_BYTES, STEP_BYTES),
        ] {
            stepped.set(bytes);
            assert_eq!(account.used(MemoryKind::Outboxes), counted);
        }
        stepped.move_to(&acme);
        assert_eq!((account.unauthenticated().used(), acme.used()), (0, STEP_BYTES));
        drop(stepped);
        assert_eq!((acme.used(), account.total()), (0, 0));
    }
}
