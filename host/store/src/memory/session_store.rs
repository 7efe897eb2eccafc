//! The memory store as a session store. Each call takes the lock of the sessions, and then those of their
//! rooms.

use super::{MemoryStore, sessions::ResumeError};
use crate::{
    ConnectionId, Join, Permit, ResumeCheck, ResumeResult, ResumedSession, SessionHandle, SessionStore,
    SessionToken, SlotResult, Unavailable,
};
use std::sync::Arc;
use switchyard_protocol::{Position, room::RoomName};
use tokio::time::Instant;

fn taken_over() -> Unavailable {
    Unavailable("another connection has taken over the session".to_owned())
}

impl MemoryStore {
    fn acquire_slot(&self, principal: &Arc<str>, limit: u32) -> SlotResult {
        let count = self.connection_counts.add(principal);
        let permit = Permit::new(principal.clone(), self.connection_counts.clone());
        if count > limit { SlotResult::LimitReached(count - 1) } else { SlotResult::Acquired(permit) }
    }
}

#[async_trait::async_trait]
impl SessionStore for MemoryStore {
    async fn acquire_connection_slot(
        &self,
        principal: &Arc<str>,
        limit: u32,
    ) -> Result<SlotResult, Unavailable> {
        Ok(self.acquire_slot(principal, limit))
    }

    async fn create(
        &self,
        principal: &Arc<str>,
        connection: ConnectionId,
        joins: Vec<Join>,
    ) -> Result<SessionToken, Unavailable> {
        let token = self.sessions().create(principal, connection);
        self.join(SessionHandle { token, connection }, joins).await?;
        Ok(token)
    }

    async fn check_resume(
        &self,
        token: SessionToken,
        principal: &Arc<str>,
        limit: Option<u32>,
    ) -> Result<ResumeCheck, Unavailable> {
        let has_holder = self.sessions().has_holder(token, principal);
        let count = self.connection_counts.of(principal);
        Ok(match has_holder {
            // Its connection is about to release a slot.
            Some(true) => ResumeCheck::Allowed,
            _ if limit.is_some_and(|limit| count >= limit) => ResumeCheck::LimitReached(count),
            Some(false) => ResumeCheck::Allowed,
            None => ResumeCheck::NotFound,
        })
    }

    async fn resume(
        &self,
        token: SessionToken,
        principal: &Arc<str>,
        connection: ConnectionId,
        requested_at: Instant,
        limit: Option<u32>,
    ) -> Result<ResumeResult, Unavailable> {
        let mut sessions = self.sessions();
        let has_holder = sessions.has_holder(token, principal) == Some(true);
        // Its connection is about to release a slot.
        let limit = if has_holder { limit.map(|_| u32::MAX) } else { limit };
        let permit = match limit.map(|limit| self.acquire_slot(principal, limit)) {
            None => None,
            Some(SlotResult::Acquired(permit)) => Some(permit),
            Some(SlotResult::LimitReached(count)) => return Ok(ResumeResult::LimitReached(count)),
        };
        let (previous, names) = match sessions.resume(token, principal, connection, requested_at) {
            Ok(resumed) => resumed,
            Err(ResumeError::NotFound) => return Ok(ResumeResult::NotFound(permit)),
            Err(ResumeError::TakenSince) => return Ok(ResumeResult::Retry),
        };
        let membership = |room: RoomName| {
            let membership = self.with_existing_room(&room, |log| log.members.get(token))??;
            Some((room, membership))
        };
        let rooms = names.into_iter().filter_map(membership).collect();
        Ok(ResumeResult::Resumed(ResumedSession { previous, rooms, permit }))
    }

    fn detach(&self, handle: SessionHandle) {
        self.sessions().detach(handle, Instant::now());
    }

    fn end(&self, handle: SessionHandle) {
        let rooms = self.sessions().end(handle);
        rooms.iter().for_each(|room| self.remove_member(handle.token, room));
    }

    async fn join(&self, handle: SessionHandle, joins: Vec<Join>) -> Result<(), Unavailable> {
        let mut sessions = self.sessions();
        for Join { room, membership, anew } in joins {
            let share = sessions.add_room(handle, &room).ok_or_else(taken_over)?;
            self.with_room(&room, |log| log.add_member(handle.token, &share, membership, anew));
        }
        Ok(())
    }

    async fn leave(&self, handle: SessionHandle, rooms: Vec<RoomName>) -> Result<(), Unavailable> {
        let mut sessions = self.sessions();
        if !sessions.is_held(handle) {
            return Err(taken_over());
        }
        for room in rooms {
            sessions.remove_room(handle, &room);
            self.remove_member(handle.token, &room);
        }
        Ok(())
    }

    fn acknowledge(&self, handle: SessionHandle, room: &RoomName, position: &Position) {
        let mut sessions = self.sessions();
        if sessions.is_held(handle) {
            self.with_existing_room(room, |log| log.members.acknowledge(handle.token, position));
        }
    }

    fn advance(&self, handle: SessionHandle, room: &RoomName, position: &Position) {
        let mut sessions = self.sessions();
        if sessions.is_held(handle) {
            self.with_existing_room(room, |log| log.members.advance(handle.token, position));
        }
    }
}
