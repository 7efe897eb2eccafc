//! This node as one of several: its lease, cleaning up after other nodes, and watching the servers of Redis.
//! Modules outside of this one do not depend on it, except for the store that starts it. A Redis Cluster is
//! in `link`.

pub(super) mod fullness;
pub(super) mod lease;
pub(super) mod reaper;
pub(super) mod servers;
pub(super) mod session_audit;
mod upkeep;
