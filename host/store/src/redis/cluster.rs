//! This node among others: its lease, what others left undone, and which servers there are. Nothing below knows it.

pub(super) mod fullness;
pub(super) mod lease;
pub(super) mod reaper;
pub(super) mod servers;
pub(super) mod session_audit;
