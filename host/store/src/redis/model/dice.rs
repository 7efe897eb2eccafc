//! Chance that a seed decides, also what the store draws while a model runs, so that a seed is always the same schedule.

use std::cell::RefCell;

/// SplitMix64.
#[derive(Clone)]
pub(super) struct Dice(pub u64);

thread_local! {
    /// What the store draws from on this thread; `None`: from the system.
    static DRAWN: RefCell<Option<Dice>> = const { RefCell::new(None) };
}

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// From now on what the store draws on this thread follows from a seed.
pub(super) fn load(seed: u64) {
    DRAWN.set(Some(Dice(seed)));
}

pub(crate) fn draw(bits: &mut [u8]) -> bool {
    DRAWN.with_borrow_mut(|drawn| {
        let Some(dice) = drawn else { return false };
        bits.fill_with(|| dice.next() as u8);
        true
    })
}
