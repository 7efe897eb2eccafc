//! Sessions in memory as others ask for them: each call takes the lock of the sessions and then those of their rooms.

use super::{Memory, sessions::Taken};
use crate::{ConnectionId, Hold, Join, Permit, Resume, Resumed, SessionStore, SessionToken, Unavailable};
use std::sync::Arc;
use switchyard_protocol::{Position, room::RoomName};
use tokio::time::Instant;

fn taken_over() -> Unavailable {
    Unavailable("the session is another connection's".to_owned())
}

impl Memory {
    /// A connection slot, or how many are taken.
    fn acquire_slot(&self, principal: &Arc<str>, most: u32) -> Result<Permit, u32> {
        let count = self.counts.add(principal);
        let permit = Permit::new(principal.clone(), self.counts.clone());
        if count > most { Err(count - 1) } else { Ok(permit) }
    }
}

#[async_trait::async_trait]
impl SessionStore for Memory {
    async fn acquire_connection_slot(
        &self,
        principal: &Arc<str>,
        most: u32,
    ) -> Result<Result<Permit, u32>, Unavailable> {
        Ok(self.acquire_slot(principal, most))
    }

    async fn create(
        &self,
        principal: &Arc<str>,
        connection: ConnectionId,
        joins: Vec<Join>,
    ) -> Result<SessionToken, Unavailable> {
        let token = self.sessions().create(principal, connection);
        self.join(Hold { token, connection }, joins).await?;
        Ok(token)
    }

    async fn resume(
        &self,
        token: SessionToken,
        principal: &Arc<str>,
        connection: ConnectionId,
        asked: Instant,
        most: Option<u32>,
    ) -> Result<Resume, Unavailable> {
        let mut sessions = self.sessions();
        let is_taken_over = sessions.is_taken_over(token, principal);
        let most = if is_taken_over { most.map(|_| u32::MAX) } else { most };
        let permit = match most.map(|most| self.acquire_slot(principal, most)).transpose() {
            Ok(permit) => permit,
            Err(count) => return Ok(Resume::Full(count)),
        };
        let (previous, names) = match sessions.resume(token, principal, connection, asked) {
            Taken::Held(previous, names) => (previous, names),
            Taken::Gone => return Ok(Resume::Gone(permit)),
            Taken::Again => return Ok(Resume::Again),
        };
        let membership = |room: RoomName| {
            let membership = self.existing(&room, |log| log.members.get(token))??;
            Some((room, membership))
        };
        let rooms = names.into_iter().filter_map(membership).collect();
        Ok(Resume::Held(Resumed { previous, rooms, permit }))
    }

    fn detach(&self, hold: Hold) {
        self.sessions().detach(hold, Instant::now());
    }

    fn end(&self, hold: Hold) {
        let rooms = self.sessions().end(hold);
        rooms.iter().for_each(|room| self.forget(hold.token, room));
    }

    async fn join(&self, hold: Hold, joins: Vec<Join>) -> Result<(), Unavailable> {
        let mut sessions = self.sessions();
        for Join { room, membership, anew } in joins {
            let share = sessions.enter(hold, &room).ok_or_else(taken_over)?;
            self.with(&room, |log| log.enter(hold.token, &share, membership, anew));
        }
        Ok(())
    }

    async fn leave(&self, hold: Hold, rooms: Vec<RoomName>) -> Result<(), Unavailable> {
        let mut sessions = self.sessions();
        if !sessions.is_held(hold) {
            return Err(taken_over());
        }
        for room in rooms {
            sessions.exit(hold, &room);
            self.forget(hold.token, &room);
        }
        Ok(())
    }

    fn acknowledge(&self, hold: Hold, room: &RoomName, position: &Position) {
        let mut sessions = self.sessions();
        if sessions.is_held(hold) {
            self.existing(room, |log| log.members.acknowledge(hold.token, position));
        }
    }

    fn advance(&self, hold: Hold, room: &RoomName, position: &Position) {
        let mut sessions = self.sessions();
        if sessions.is_held(hold) {
            self.existing(room, |log| log.members.advance(hold.token, position));
        }
    }
}
