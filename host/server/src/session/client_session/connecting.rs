//! Handles `connect`: starts a new session, or resumes one with all its rooms. If that fails, the session
//! stays as it was. Does not authenticate.

use super::{ClientSession, joining::AnswerKind};
use crate::{
    hub,
    session::{
        Heartbeat,
        pending_join::{JoinState, JoinTerms, PendingJoin},
    },
};
use futures_util::future::join_all;
use switchyard_protocol::{
    ErrorCode, Id, Refusal, reply,
    room::{RoomKind, RoomName},
};
use switchyard_store::{Membership, ResumedSession, key::Scope};

impl ClientSession {
    /// Starts a new session.
    pub(super) async fn begin(&mut self, id: Option<Id<'_>>) -> Result<(), Refusal> {
        if !self.services.hub.may_grow(&self.connection.share) {
            return Err(hub::memory_exhausted("sessions"));
        }
        let reserved = self.connection.outbox.reserve();
        let rooms = [RoomName::broadcast(), self.state.inbox.clone()];
        let terms = |room| JoinTerms { room, filter: None, since: None };
        let asked = rooms.map(|room| self.request_join(PendingJoin::new(terms(room)), false));
        let mut joins = vec![];
        for join in asked {
            let join = self.await_join(join, None).await;
            if let Some(refusal) = join.refusal() {
                return Err(refusal.clone());
            }
            joins.push(join);
        }
        let recorded = joins.iter().filter_map(PendingJoin::record).collect();
        for join in joins {
            self.complete_join(join, AnswerKind::Subscribed).await;
        }
        self.services.hub.create_session(&self.connection, recorded).await?;
        let frame = self.connected(id, false, vec![]);
        self.connection.outbox.fill(reserved, frame.into());
        Ok(())
    }

    /// Resumes a session that this connection has just acquired.
    pub(super) async fn resume(
        &mut self,
        id: Option<Id<'_>>,
        resumed: ResumedSession,
    ) -> Result<(), Refusal> {
        let reserved = self.connection.outbox.reserve();
        let mut asked = Vec::with_capacity(resumed.rooms.len());
        for (room, Membership { filter, position }) in resumed.rooms {
            // The key may have lost this scope since the room was joined.
            let may = match room.kind() {
                RoomKind::Ordinary => self.key.require(Scope::Subscribe, "subscribe"),
                RoomKind::Broadcast | RoomKind::Inbox => Ok(()),
            };
            let join = match may {
                Ok(()) => PendingJoin::new(JoinTerms { room: room.clone(), filter, since: Some(position) }),
                Err(refusal) => PendingJoin::refused(&room, refusal),
            };
            asked.push((room, self.request_join(join, false)));
        }
        let this = &*self;
        let answered = asked.into_iter().map(async |(room, join)| (room, this.await_join(join, None).await));
        let answered = join_all(answered).await;
        let (mut joins, mut renamed, mut left) = (vec![], vec![], vec![]);
        for (room, join) in answered {
            match &join.state {
                // The plugin may have another canonical name for the room by now.
                JoinState::Seated(seated) if *seated.room() != room => {
                    renamed.extend(join.record());
                    left.push(room.clone());
                }
                JoinState::Refused(refusal, _) => match refusal.code {
                    // A temporary error must not cost the session a room.
                    ErrorCode::StoreUnavailable | ErrorCode::Overloaded => return Err(refusal.clone()),
                    // The plugin may work again later: the session keeps the room, and the next resume tries
                    // again.
                    ErrorCode::PluginFailed | ErrorCode::Internal => {}
                    _ => left.push(room.clone()),
                },
                _ => {}
            }
            joins.extend(self.complete_join(join, AnswerKind::Resumed).await);
        }
        self.services.hub.record_joins(&self.connection, renamed).await?;
        self.services.hub.record_leaves(&self.connection, left).await?;
        self.count_rooms();
        let mut result = |join: &mut PendingJoin| {
            let is_lost = join.refusal().is_some();
            let result = join.result(None);
            reply::RoomResult { recovered: if is_lost { Some(false) } else { result.recovered }, ..result }
        };
        let frame = self.connected(id, true, joins.iter_mut().map(&mut result).collect());
        self.connection.outbox.fill(reserved, frame.into());
        self.connection.ping_after_answer(joins.iter().filter_map(PendingJoin::moved));
        self.start_replays(joins);
        Ok(())
    }

    fn connected(&self, id: Option<Id<'_>>, resumed: bool, rooms: Vec<reply::RoomResult>) -> String {
        let Heartbeat { interval, timeout } = self.services.config.heartbeat;
        let connected = reply::Connected {
            connection: self.connection.id.to_string(),
            session: self.connection.session().reveal(),
            resumed,
            principal: reply::PrincipalInfo { id: self.key.principal.clone(), tier: self.key.tier.clone() },
            heartbeat: reply::HeartbeatInfo {
                interval: interval.as_millis() as u64,
                timeout: timeout.as_millis() as u64,
            },
            limits: reply::ConnectionLimits {
                rooms: self.state.rooms_limit,
                message_bytes: self.state.message_bytes(),
            },
            rooms,
        };
        reply::encode("connected", id, connected)
    }
}
