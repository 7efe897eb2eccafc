//! How long keys live in Redis that nobody touches. What is kept for its own time says so where it is written.

use std::time::Duration;

/// How long a room, a membership or a session is kept that nobody touches. What is in use is written again within a quarter
/// of it.
pub(super) const KEEP: Duration = Duration::from_secs(24 * 3600);
/// How long a room is kept that has no messages, no key to remember and nobody in it. Nodes that listen to a room look at it every
/// 5 s, and so keep it.
pub(super) const UNNEEDED: Duration = Duration::from_secs(45);
