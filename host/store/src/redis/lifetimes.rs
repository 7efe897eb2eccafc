//! How long Redis keeps keys that nobody uses. Lifetimes that are configured are set where those keys are
//! written.

use std::time::Duration;

/// How long an unused room, membership or session is kept. Nodes rewrite what is in use after a quarter of this
/// time.
pub(super) const IN_USE_TTL: Duration = Duration::from_secs(24 * 3600);
/// How long a room is kept that has no messages, no idempotency keys and no members. A node that listens to a
/// room checks it every 5 s, which keeps it alive.
pub(super) const EMPTY_ROOM_TTL: Duration = Duration::from_secs(45);
