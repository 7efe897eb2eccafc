//! The time limit of one running call, counted in ticks of `ticker.rs`.

use super::ticker::TICK;
use std::time::Duration;

/// The deadline of one call, counted in ticks at which the guest was actually running. Time in which its
/// thread was preempted does not count: on a busy machine, a call of a microsecond may take tens of
/// milliseconds, and a healthy plugin would be quarantined because of the machine's load.
///
/// At each tick the guest's thread yields its core. Otherwise a plugin that uses all its time would keep a
/// core for as long as the system allows, and the slowest messages of all other rooms would wait for it.
pub(crate) struct Deadline {
    remaining_ticks: u64,
}

/// How many ticks pass between two checks of a call's deadline.
pub(crate) const TICKS_PER_CHECK: u64 = 1;

impl Deadline {
    pub(crate) fn new(budget: Duration) -> Self {
        let ticks = budget.as_micros().div_ceil(TICK.as_micros());
        Self { remaining_ticks: u64::try_from(ticks).unwrap_or(u64::MAX).max(1) }
    }

    /// Counts one tick. Returns whether the call may continue. The first tick may come right after the call
    /// began, so the call is stopped only at the tick after the last one of its budget.
    pub(crate) fn continue_after_tick(&mut self) -> bool {
        let may_continue = self.remaining_ticks > 0;
        if may_continue {
            self.remaining_ticks -= 1;
            std::thread::yield_now();
        }
        may_continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks_within(budget: Duration) -> usize {
        let mut deadline = Deadline::new(budget);
        (0..100).take_while(|_| deadline.continue_after_tick()).count()
    }

    #[test]
    fn a_budget_is_rounded_up_to_whole_ticks() {
        assert_eq!(ticks_within(Duration::from_millis(10)), 10);
        assert_eq!(ticks_within(Duration::from_micros(9500)), 10);
    }

    #[test]
    fn the_smallest_budget_is_one_tick_and_the_largest_does_not_overflow() {
        assert_eq!((ticks_within(Duration::ZERO), ticks_within(Duration::MAX)), (1, 100));
    }
}
