//! Counting in steps.

use super::{Charge, Share};
use std::sync::Arc;

/// Bytes that come and go all the time, counted in steps, so that a few of them cost nothing.
pub struct Steps(Charge);

pub(super) const STEP: usize = 16 << 10;

impl Steps {
    /// Of a charge of nothing yet.
    pub fn new(charge: Charge) -> Self {
        Self(charge)
    }

    /// There are so many now; whether that is counted as more than before.
    pub fn set(&mut self, bytes: usize) -> bool {
        let (is, before) = (bytes / STEP * STEP, self.0.bytes());
        match is > before {
            true => self.0.grow(is - before),
            false if is < before => self.0.shrink(before - is),
            false => {}
        }
        is > before
    }

    /// Whether more may be kept for who answers for them.
    pub fn may_grow(&self) -> bool {
        self.0.share().may_grow()
    }

    /// Another principal answers for them from now on.
    pub fn move_to(&mut self, share: &Arc<Share>) {
        self.0.move_to(share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Account, Kind};

    #[test]
    fn a_few_bytes_are_not_counted() {
        let account = Account::new(1 << 20);
        let acme = account.share(&"acme".into());
        let mut steps = Steps::new(account.strangers().charge(Kind::Outboxes, 0));
        for (bytes, counted) in [(STEP - 1, 0), (2 * STEP + 1, 2 * STEP), (STEP, STEP), (3, 0), (STEP, STEP)]
        {
            steps.set(bytes);
            assert_eq!(account.used(Kind::Outboxes), counted);
        }
        steps.move_to(&acme);
        assert_eq!((account.strangers().used(), acme.used()), (0, STEP));
        drop(steps);
        assert_eq!((acme.used(), account.total()), (0, 0));
    }
}
