//! The test double for the host's functions, except for state: records what a plugin logs and counts, and
//! lets a test set the clock and the seed. Everything is per thread.

use crate::log::Level;
use std::cell::{Cell, RefCell};
use std::time::Duration;

thread_local! {
    static LOG: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
    static COUNTS: RefCell<Vec<(u32, u64)>> = const { RefCell::new(Vec::new()) };
    static VALUES: RefCell<Vec<(u32, f64)>> = const { RefCell::new(Vec::new()) };
    static CLOCK: Cell<u64> = const { Cell::new(DEFAULT_UNIX_MS) };
    static SEED: Cell<u64> = const { Cell::new(1) };
}

/// The time before a test sets the clock: 2025-01-01, so that subtracting from it does not underflow.
const DEFAULT_UNIX_MS: u64 = 1_735_689_600_000;

pub(crate) fn log(level: Level, text: &str) {
    LOG.with_borrow_mut(|log| log.push((level, text.to_owned())));
}

pub(crate) fn unix_ms() -> u64 {
    CLOCK.get()
}

/// A new number on each call. The sequence is the same in each test.
pub(crate) fn seed() -> u64 {
    SEED.set(SEED.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    SEED.get()
}

pub(crate) fn count(id: u32, by: u64) {
    COUNTS.with_borrow_mut(|counts| counts.push((id, by)));
}

pub(crate) fn observe(id: u32, value: f64) {
    VALUES.with_borrow_mut(|values| values.push((id, value)));
}

/// Resets everything. Each new [`super::Harness`] calls this.
pub(crate) fn reset() {
    super::state::reset();
    LOG.take();
    COUNTS.take();
    VALUES.take();
    CLOCK.set(DEFAULT_UNIX_MS);
    SEED.set(1);
}

/// The lines that the plugin logged since the harness started, oldest first.
pub fn logged() -> Vec<(Level, String)> {
    LOG.with_borrow(Clone::clone)
}

/// The value of the counter with this id: the sum of everything added since the harness started.
pub fn counted(id: u32) -> u64 {
    COUNTS.with_borrow(|counts| counts.iter().filter(|(of, _)| *of == id).map(|(_, by)| by).sum())
}

/// The values that the plugin recorded in the histogram with this id, oldest first.
pub fn observed(id: u32) -> Vec<f64> {
    VALUES.with_borrow(|values| values.iter().filter(|(of, _)| *of == id).map(|(_, value)| *value).collect())
}

/// Sets the clock, in Unix milliseconds. The clock does not advance by itself. A new harness sets it to
/// 2025-01-01.
pub fn set_clock(unix_ms: u64) {
    CLOCK.set(unix_ms);
}

/// Moves the clock forward, in whole milliseconds.
///
/// # Panics
/// If the time in milliseconds does not fit into 64 bits.
pub fn advance_clock(by: Duration) {
    CLOCK.set(
        CLOCK.get() + u64::try_from(by.as_millis()).expect("the time in milliseconds must fit into 64 bits"),
    );
}

/// Sets the seed of the sequence that [`crate::seed`] returns. A new harness sets it to 1.
pub fn set_seed(seed: u64) {
    SEED.set(seed);
}
