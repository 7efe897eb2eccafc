//! Hash maps whose hashes a client cannot predict.

use crate::host;
use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hasher};

/// 64 unpredictable bits from the host.
pub fn seed() -> u64 {
    host::seed()
}

/// A map whose keys may come from clients. In Wasm, std's `RandomState` has no entropy and is the same in
/// every instance, so keys that were chosen to collide would collide everywhere.
pub type SeededMap<K, V> = HashMap<K, V, SeededState>;

/// Builds std's default hashers, seeded with random bits from the host.
#[derive(Debug, Clone)]
pub struct SeededState(u64);

impl Default for SeededState {
    fn default() -> Self {
        Self(seed())
    }
}

impl BuildHasher for SeededState {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}
