//! When a running call has had its time.

use super::clock::TICK;
use std::time::Duration;

/// The deadline of one call, counted in ticks during which the guest was seen to run. So time in which it lay preempted is
/// not its own: on a busy machine a call of a microsecond may be away for tens of milliseconds, and a healthy plugin would
/// be quarantined for the machine's load.
///
/// At each tick the guest's thread offers its core to others. Otherwise a plugin that uses all its time keeps a core for as
/// long as the system lets it, and everybody else's slowest messages wait for that.
pub(crate) struct Deadline {
    ticks: u64,
}

/// Ticks from one look at a guest to the next.
pub(crate) const LOOK: u64 = 1;

impl Deadline {
    pub(crate) fn new(budget: Duration) -> Self {
        let ticks = budget.as_micros().div_ceil(TICK.as_micros());
        Self { ticks: u64::try_from(ticks).unwrap_or(u64::MAX).max(1) }
    }

    /// The guest is seen to run: whether it may go on. The first tick is partly over when a call begins, so there is
    /// one more than the budget has.
    pub(crate) fn goes_on(&mut self) -> bool {
        let goes_on = self.ticks > 0;
        if goes_on {
            self.ticks -= 1;
            std::thread::yield_now();
        }
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(budget: Duration) -> usize {
        let mut deadline = Deadline::new(budget);
        (0..100).take_while(|_| deadline.goes_on()).count()
    }

    #[test]
    fn a_budget_is_so_many_ticks() {
        assert_eq!(looks(Duration::from_millis(10)), 10);
        assert_eq!(looks(Duration::from_micros(9500)), 10);
    }

    #[test]
    fn the_smallest_and_the_largest_budget_are_some_ticks() {
        assert_eq!((looks(Duration::ZERO), looks(Duration::MAX)), (1, 100));
    }
}
