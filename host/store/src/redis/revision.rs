//! What the registries in Redis have in common: their revision, which scripts raise with each change.

use crate::random::random;

/// The field of a registry that is no entry.
pub(super) const REVISION: &str = "/revision";

/// The epoch of a registry that is not there yet.
pub(super) fn new_epoch() -> String {
    format!("{:08x}", u32::from_le_bytes(random()))
}
