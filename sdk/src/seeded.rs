//! Hashing that a client cannot foresee.

use crate::host;
use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hasher};

/// 64 unpredictable bits from the host.
pub fn seed() -> u64 {
    host::seed()
}

/// A map whose keys may come from clients. std's `RandomState` has no entropy in Wasm: it is the same in
/// every instance, so that keys chosen to collide would do so everywhere.
pub type SeededMap<K, V> = HashMap<K, V, SeededState>;

/// std's hasher, started with bits of the host's.
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
