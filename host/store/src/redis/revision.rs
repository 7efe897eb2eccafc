//! The revision of a registry in Redis, which scripts increase with each change.

use crate::random::random;

/// The field of a registry that holds its revision.
pub(super) const REVISION: &str = "/revision";

/// The epoch for a registry that does not exist yet.
pub(super) fn new_epoch() -> String {
    format!("{:08x}", u32::from_le_bytes(random()))
}
