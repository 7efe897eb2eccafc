//! A position in the history of a room. Owns no history.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A position in the history of a room: `{"epoch":"k3f9","offset":42}`. Who is at this position has
/// everything up to and including `offset`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Identifies one sequence of offsets; opaque. Offsets of different epochs cannot be compared.
    pub epoch: Arc<str>,
    /// The offset of the newest message that is known, 0 before the first one.
    pub offset: u64,
}
