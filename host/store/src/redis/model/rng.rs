//! Random numbers from a seed, for the model and for the store that runs in it. So a seed always gives the
//! same schedule.

use std::cell::RefCell;

/// The generator SplitMix64.
#[derive(Clone)]
pub(super) struct Rng(pub u64);

thread_local! {
    /// Where the store on this thread gets its random bits; `None`: from the system.
    static SEEDED: RefCell<Option<Rng>> = const { RefCell::new(None) };
}

impl Rng {
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

/// From now on, the random bits of the store on this thread follow from a seed.
pub(super) fn seed_store(seed: u64) {
    SEEDED.set(Some(Rng(seed)));
}

/// Fills `bits` from the seed of this thread. Returns `false` if it has none.
pub(crate) fn fill_random(bits: &mut [u8]) -> bool {
    SEEDED.with_borrow_mut(|drawn| {
        let Some(rng) = drawn else { return false };
        bits.fill_with(|| rng.next() as u8);
        true
    })
}
