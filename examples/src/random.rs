//! Chance from a seed.

/// SplitMix64: small, fast, and good enough to look like a market.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// From 0 to 1, without 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From 0 to `below`, without it.
    pub fn index(&mut self, below: usize) -> usize {
        (self.unit() * below as f64) as usize
    }

    /// Around 0, nearly normal, with a deviation of 1.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything_and_values_stay_in_range() {
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
