//! How much the memberships of sessions take in Redis: of sessions with a connection on this node, and of
//! those whose connection here has ended, until Redis deletes them. A session counts once, however often it
//! is resumed.

use super::sums::UsageSums;
use crate::{
    ConnectionId,
    redis::{session_id::SessionId, stored_rooms::RoomsSize},
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};
use switchyard_process::memory::{MemoryCharge, MemoryKind, MemoryShare};

/// How many bytes this node needs to track a session.
const SESSION_NOTE_BYTES: usize = 200;

#[derive(Default)]
pub(super) struct SessionUsages {
    sessions: HashMap<SessionId, SessionUsage>,
    /// The seconds at which Redis has deleted sessions without a connection.
    ends: BTreeSet<(u64, SessionId)>,
}

struct SessionUsage {
    /// The latest connection of the session on this node.
    connection: ConnectionId,
    size: RoomsSize,
    /// When Redis has deleted the session, if its connection has ended. In seconds.
    end: Option<u64>,
    /// The memory of this node for tracking the session, charged to its principal.
    charge: MemoryCharge,
}

impl SessionUsages {
    /// A connection of this node has created or resumed a session.
    pub(super) fn attach(
        &mut self,
        id: SessionId,
        connection: ConnectionId,
        share: &Arc<MemoryShare>,
        size: RoomsSize,
        sums: &mut UsageSums,
    ) {
        self.remove(id, sums);
        sums.add(share.principal(), size.bytes());
        let charge = share.charge(MemoryKind::Sessions, SESSION_NOTE_BYTES);
        self.sessions.insert(id, SessionUsage { connection, size, end: None, charge });
    }

    /// The memberships of a session have changed. Redis keeps rooms that were left until the second
    /// `left_until`; filters are replaced at once. Returns how many bytes were added.
    pub(super) fn resize(
        &mut self,
        id: SessionId,
        connection: ConnectionId,
        size: RoomsSize,
        left_until: u64,
        sums: &mut UsageSums,
    ) -> usize {
        let session = self.sessions.get_mut(&id).filter(|session| session.connection == connection);
        let Some(session) = session else { return 0 };
        let principal = session.charge.share().principal();
        let before = std::mem::replace(&mut session.size, size);
        sums.add(principal, size.bytes());
        sums.subtract(principal, before.bytes());
        let left = RoomsSize { rooms: before.rooms.saturating_sub(size.rooms), filter_bytes: 0 };
        sums.add_until(principal, left.bytes(), left_until);
        size.bytes().saturating_sub(before.bytes())
    }

    /// The connection of a session has ended. Redis has deleted the session by the second `end`, unless it is
    /// resumed.
    pub(super) fn detach(&mut self, id: SessionId, connection: ConnectionId, end: u64) {
        let session = self.sessions.get_mut(&id).filter(|session| session.connection == connection);
        if let Some(session) = session
            && session.end.is_none()
        {
            session.end = Some(end);
            self.ends.insert((end, id));
        }
    }

    /// Stops counting sessions that Redis has deleted by a second, at most `max`. Returns how many there were.
    pub(super) fn expire(&mut self, second: u64, max: usize, sums: &mut UsageSums) -> usize {
        let mut expired = 0;
        while expired < max
            && let Some((_, id)) = self.ends.first().copied().filter(|(end, _)| *end <= second)
        {
            self.remove(id, sums);
            expired += 1;
        }
        expired
    }

    fn remove(&mut self, id: SessionId, sums: &mut UsageSums) {
        let Some(session) = self.sessions.remove(&id) else { return };
        sums.subtract(session.charge.share().principal(), session.size.bytes());
        if let Some(end) = session.end {
            self.ends.remove(&(end, id));
        }
    }

    pub(super) fn shrink(&mut self) {
        if self.sessions.len() < self.sessions.capacity() / 4 {
            self.sessions.shrink_to(2 * self.sessions.len());
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.ends.is_empty()
    }
}
