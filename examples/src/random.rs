//! A random number generator with a seed.

/// SplitMix64: small, fast, and good enough for a plausible market.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number in 0..1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An index in 0..`len`.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        (self.unit() * len as f64) as usize
    }

    /// Approximately normally distributed, with mean 0 and standard deviation 1.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_determines_all_values_and_they_stay_in_range() {
        let (mut a, mut b) = (Random::new(7), Random::new(7));
        let mut sum = 0.0;
        for _ in 0..10_000 {
            assert_eq!(a.bits(), b.bits());
            assert!((0.0..1.0).contains(&a.unit()) && a.index(3) < 3);
            b.unit();
            b.index(3);
            sum += a.normal();
            b.normal();
        }
        assert!((sum / 10_000.0).abs() < 0.05);
    }
}
