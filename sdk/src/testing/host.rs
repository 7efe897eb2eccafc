//! The host's functions, natively: what a plugin says is kept, what it asks for is settable.

use crate::log::Level;
use std::cell::{Cell, RefCell};
use std::time::Duration;

thread_local! {
    static LOG: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
    static COUNTS: RefCell<Vec<(u32, u64)>> = const { RefCell::new(Vec::new()) };
    static VALUES: RefCell<Vec<(u32, f64)>> = const { RefCell::new(Vec::new()) };
    static CLOCK: Cell<u64> = const { Cell::new(START) };
    static SEED: Cell<u64> = const { Cell::new(1) };
}

/// Where the clock stands before a test sets it: 2025-01-01, so that a time in the past is no underflow.
const START: u64 = 1_735_689_600_000;

pub(crate) fn log(level: Level, text: &str) {
    LOG.with_borrow_mut(|log| log.push((level, text.to_owned())));
}

pub(crate) fn unix_ms() -> u64 {
    CLOCK.get()
}

/// Another number each time, the same ones in each test.
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

/// Forgets everything; each new [`super::Harness`] begins so.
pub(crate) fn reset() {
    LOG.take();
    COUNTS.take();
    VALUES.take();
    CLOCK.set(START);
    SEED.set(1);
}

/// What was logged, oldest first.
pub fn logged() -> Vec<(Level, String)> {
    LOG.with_borrow(Clone::clone)
}

/// The sum of what was counted under `id`.
pub fn counted(id: u32) -> u64 {
    COUNTS.with_borrow(|counts| counts.iter().filter(|(of, _)| *of == id).map(|(_, by)| by).sum())
}

/// The values recorded under `id`, oldest first.
pub fn observed(id: u32) -> Vec<f64> {
    VALUES.with_borrow(|values| values.iter().filter(|(of, _)| *of == id).map(|(_, value)| *value).collect())
}

/// Sets the clock, in Unix milliseconds. It stands still unless it is moved.
pub fn set_clock(unix_ms: u64) {
    CLOCK.set(unix_ms);
}

pub fn advance_clock(by: Duration) {
    CLOCK.set(CLOCK.get() + u64::try_from(by.as_millis()).expect("a test's time fits 64 bits"));
}

/// What [`crate::seed`] is derived from; 1 unless a test sets it.
pub fn set_seed(seed: u64) {
    SEED.set(seed);
}
