//! When a running call has had its time.

use super::engine::TICK;
use std::time::Duration;

/// The deadline of one call, in two halves. Ticks measure time on the wall: on a busy machine a call of a
/// microsecond may lie preempted for tens of milliseconds, and a healthy plugin would be quarantined for the
/// machine's load. The second half begins when the guest is seen to run after the first, so being preempted
/// once is survived, whereas a loop uses up both.
pub struct Deadline {
    /// In ticks.
    half: u64,
    halfway: bool,
}

impl Deadline {
    pub fn new(budget: Duration) -> Self {
        let ticks = budget.as_micros().div_ceil(2 * TICK.as_micros());
        Self { half: u64::try_from(ticks).unwrap_or(u64::MAX / 2).max(1), halfway: false }
    }

    /// Ticks of the first half. One more than half the budget, since the present tick is partly over.
    pub fn first(&self) -> u64 {
        self.half + 1
    }

    /// Ticks to go on for, or `None` when the call must stop.
    pub fn expired(&mut self) -> Option<u64> {
        let first = !self.halfway;
        self.halfway = true;
        first.then_some(self.half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_in_two_halves() {
        let mut deadline = Deadline::new(Duration::from_millis(10));
        assert_eq!((deadline.first(), deadline.expired(), deadline.expired()), (6, Some(5), None));
    }

    #[test]
    fn the_smallest_and_the_largest_budget_are_some_ticks() {
        assert_eq!(Deadline::new(Duration::ZERO).first(), 2);
        assert!(Deadline::new(Duration::MAX).first() > 1 << 50);
    }
}
