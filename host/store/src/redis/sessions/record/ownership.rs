//! Whether the node of a connection may still write its session. docs/nodes.md says which node owns a session
//! at each moment.

use super::Record;

/// Whether this node may write the session, even if Redis has lost it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    Owned,
    /// The client may be connected to another node by now. Nothing is written until it answers a ping.
    Uncertain,
    /// The client has answered, so this node may create the record again. Writes up to this number started
    /// before the answer, possibly under an earlier name of this node, and do not count.
    Reclaimable(u64),
}

impl Record {
    /// Redis may hold something else than this node, and the client may be connected to another node.
    pub(crate) fn mark_uncertain(&mut self) {
        self.ownership = Ownership::Uncertain;
        self.mark_unsynced();
    }

    /// The client has answered, so as far as anybody can tell, the session belongs to this connection.
    pub(crate) fn allow_reclaim(&mut self) {
        if self.ownership == Ownership::Uncertain {
            self.ownership = Ownership::Reclaimable(self.number);
        }
    }

    pub(crate) fn is_uncertain(&self) -> bool {
        self.ownership == Ownership::Uncertain
    }

    pub(crate) fn is_reclaimable(&self) -> bool {
        matches!(self.ownership, Ownership::Reclaimable(_))
    }
}
