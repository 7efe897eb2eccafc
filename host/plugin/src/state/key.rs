//! The keys under which state is kept. Buckets and values have separate keys.

use sha2::{Digest, Sha256};
use std::borrow::Borrow;
use std::sync::Arc;

/// Maximum length of a key that is stored as it is, in bytes.
const MAX_KEY_BYTES: usize = 128;

/// What is kept under a key. It is the key's first byte; the others are the plugin's text.
const BUCKET: u8 = b'b';
const VALUE: u8 = b'v';
/// These two precede the hash of a text that is too long, so that no text has the key of another one.
const HASHED_BUCKET: u8 = b'B';
const HASHED_VALUE: u8 = b'V';

/// A key to look up. It needs no allocation.
#[derive(Clone)]
pub(super) struct StateKey {
    bytes: [u8; 1 + MAX_KEY_BYTES],
    len: usize,
}

/// A key that is stored. Clones share its bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StoredKey(pub(super) Arc<[u8]>);

impl StateKey {
    pub(super) fn of_bucket(text: &str) -> Self {
        Self::new(text, BUCKET, HASHED_BUCKET)
    }

    pub(super) fn of_value(text: &str) -> Self {
        Self::new(text, VALUE, HASHED_VALUE)
    }

    /// The key of a value that another node has stored; `None` if it cannot be one.
    pub(super) fn of_stored_value(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        ([VALUE, HASHED_VALUE].contains(kind) && rest.len() <= MAX_KEY_BYTES).then(|| Self::join(*kind, rest))
    }

    fn new(text: &str, plain: u8, hashed: u8) -> Self {
        match text.len() <= MAX_KEY_BYTES {
            true => Self::join(plain, text.as_bytes()),
            false => Self::join(hashed, &Sha256::digest(text)),
        }
    }

    fn join(kind: u8, rest: &[u8]) -> Self {
        let (mut bytes, len) = ([0; 1 + MAX_KEY_BYTES], 1 + rest.len());
        bytes[0] = kind;
        bytes[1..len].copy_from_slice(rest);
        Self { bytes, len }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn to_stored(&self) -> StoredKey {
        StoredKey(self.as_bytes().into())
    }
}

impl StoredKey {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the key of a value, not of a bucket.
    pub(super) fn is_of_value(&self) -> bool {
        self.0.first().is_some_and(|kind| [VALUE, HASHED_VALUE].contains(kind))
    }

    /// A key that comes before all others.
    pub(super) fn first() -> Self {
        Self(Arc::default())
    }
}

impl Borrow<[u8]> for StoredKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_keys_are_hashed_and_no_two_keys_are_the_same() {
        let (long, longer) = ("k".repeat(129), "k".repeat(130));
        assert_eq!(StateKey::of_value(&long).as_bytes().len(), 33);
        assert_eq!(StateKey::of_value(&long[1..]).as_bytes().len(), 129);
        let keys = ["k", &long[1..], &long, &longer];
        let all: std::collections::BTreeSet<_> = keys
            .iter()
            .flat_map(|key| [StateKey::of_bucket(key).to_stored(), StateKey::of_value(key).to_stored()])
            .collect();
        assert_eq!(all.len(), 8);
    }
}
