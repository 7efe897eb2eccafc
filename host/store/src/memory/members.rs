//! The members of a room in memory: sessions, with the filter of each and how far it has acknowledged. Knows
//! no messages.

use crate::{Members, Membership, Receipt, SessionToken};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use switchyard_process::memory::{MemoryCharge, MemoryKind, MemoryShare};
use switchyard_protocol::Position;

/// Bytes of memory that a member takes without its filter, roughly, as measured.
const MEMBER_BYTES: usize = 400;

#[derive(Default)]
pub(super) struct MemberTable {
    members: HashMap<SessionToken, Member>,
    /// How many sessions each principal has here.
    sessions_per_principal: BTreeMap<Arc<str>, usize>,
}

struct Member {
    filter: Option<Arc<str>>,
    /// Where the session joined, or where it continues after a gap.
    joined: Position,
    /// The highest acknowledged offset, in the epoch of `joined`.
    acknowledged: Option<u64>,
    /// Charged to the session's principal.
    charge: MemoryCharge,
}

impl MemberTable {
    /// Adds a member. If the session is one already, only its filter changes.
    pub(super) fn insert(&mut self, token: SessionToken, share: &Arc<MemoryShare>, membership: Membership) {
        let filter_bytes = membership.filter.as_deref().map_or(0, str::len);
        let charge = share.charge(MemoryKind::Sessions, MEMBER_BYTES + filter_bytes);
        if let Some(member) = self.members.get_mut(&token) {
            (member.filter, member.charge) = (membership.filter, charge);
            return;
        }
        *self.sessions_per_principal.entry(share.principal().clone()).or_default() += 1;
        let Membership { filter, position: joined } = membership;
        self.members.insert(token, Member { filter, joined, acknowledged: None, charge });
    }

    pub(super) fn remove(&mut self, token: SessionToken) {
        let Some(member) = self.members.remove(&token) else { return };
        let principal = member.principal();
        let sessions = self.sessions_per_principal.get_mut(principal).expect("counted on joining");
        *sessions -= 1;
        if *sessions == 0 {
            self.sessions_per_principal.remove(principal);
        }
    }

    pub(super) fn get(&self, token: SessionToken) -> Option<Membership> {
        let Member { filter, joined, acknowledged, .. } = self.members.get(&token)?;
        let offset = acknowledged.unwrap_or(0).max(joined.offset);
        let position = Position { epoch: joined.epoch.clone(), offset };
        Some(Membership { filter: filter.clone(), position })
    }

    pub(super) fn acknowledge(&mut self, token: SessionToken, position: &Position) {
        if let Some(member) = self.members.get_mut(&token) {
            if member.joined.epoch != position.epoch {
                member.advance(position);
            }
            member.acknowledged = member.acknowledged.max(Some(position.offset));
        }
    }

    pub(super) fn advance(&mut self, token: SessionToken, position: &Position) {
        if let Some(member) = self.members.get_mut(&token) {
            member.advance(position);
        }
    }

    /// How many members there are, and the names of at most `max_principals` principals, sorted.
    pub(super) fn list(&self, max_principals: usize) -> Members {
        let principals = self.sessions_per_principal.keys().take(max_principals).cloned().collect();
        Members { count: self.len(), principals, more: self.sessions_per_principal.len() > max_principals }
    }

    /// How many members have acknowledged a message. Visits each member of the room.
    pub(super) fn receipt(&self, message: &Position) -> Receipt {
        let has_acknowledged = |member: &&Member| {
            member.joined.epoch == message.epoch && member.acknowledged >= Some(message.offset)
        };
        let acknowledged = self.members.values().filter(has_acknowledged).count();
        Receipt { members: self.len(), acknowledged }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl Member {
    fn principal(&self) -> &Arc<str> {
        self.charge.share().principal()
    }

    /// Continues from a position. Within an epoch it never goes back.
    fn advance(&mut self, position: &Position) {
        if self.joined.epoch != position.epoch {
            (self.joined, self.acknowledged) = (position.clone(), None);
        }
        self.joined.offset = self.joined.offset.max(position.offset);
    }
}
