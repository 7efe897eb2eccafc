//! Handles `connect`: starts a new session, or resumes one with all its rooms. A connection that is refused by
//! the store or a plugin leaves the session to the connection that holds it. If the rooms cannot be joined
//! after that, the session has no connection, but keeps its rooms and can be resumed again. Does not
//! authenticate.

use super::{Client, ClientSession, Services};
use crate::{
    hub::{self, Connection, Hub, Permit, PublishPipeline, Registration},
    key::Key,
    session::{
        Heartbeat,
        pending_join::{AnswerKind, CompletedJoin, JoinOptions, JoinState, PendingJoin},
        state::SessionState,
        unauthenticated::{Authenticated, Rejected},
    },
};
use std::{collections::HashMap, sync::Arc};
use switchyard_plugin::{ConnectRequest, Limits};
use switchyard_protocol::{Close, ErrorCode, Id, Refusal, reply, room::RoomName, unix_ms};
use switchyard_store::{Join, Membership, ResumeCheck, ResumeResult, ResumedSession, SessionToken};

/// What a new connection has before it joins rooms.
struct Admitted {
    permit: Permit,
    /// The limits that plugins set.
    limits: Limits,
    /// The session that the connection has taken. `None` if it needs a new one.
    resumed: Option<ResumedSession>,
}

impl ClientSession {
    /// Starts a session for an authenticated client, or resumes one with all its rooms. `permit` is the
    /// connection slot if it was acquired on upgrading, because the key came with the upgrade. `connection`
    /// is new.
    pub(crate) async fn open(
        services: Services,
        authenticated: Authenticated<'_>,
        client: Client,
        permit: Option<Permit>,
        connection: Arc<Connection>,
    ) -> Result<Self, Rejected> {
        let Authenticated { id, key, session } = authenticated;
        let hub = services.hub.clone();
        let rejected = |refusal: Refusal| {
            let close = match refusal.code {
                ErrorCode::ConnectionLimit => Close::ConnectionLimit,
                ErrorCode::PluginFailed | ErrorCode::StoreUnavailable | ErrorCode::Overloaded => {
                    Close::Overloaded
                }
                _ => Close::Forbidden,
            };
            Rejected::new(id, &refusal, close)
        };
        // Before it holds a session, so that a connection that takes the session over finds this one and
        // closes it.
        let registration = Registration::new(hub.clone(), connection.clone());
        // From here on, the connection is closed if its key is removed or expires. That may have happened
        // since the check.
        if let Err(refusal) = registration.check_key(&services.keys) {
            return Err(Rejected::new(id, &refusal, hub::close_for_key(&refusal)));
        }
        hub.check_denied(&key.principal, client.remote.ip()).map_err(rejected)?;
        let admitted = Self::admit(&hub, &key, session, client, permit, &connection).await;
        let Admitted { permit, limits, resumed } = admitted.map_err(rejected)?;
        let state = SessionState::new(&key, &limits, services.config.message);
        hub.set_principal_limits(&key.principal, &limits);
        hub.metrics.opened.inc();
        let mut session = Self {
            services,
            connection,
            state,
            replays: HashMap::new(),
            turns: None,
            publishes: PublishPipeline::default(),
            refreshes: None,
            rates: Default::default(),
            _permit: permit,
            registration,
        };
        let started = match resumed {
            Some(resumed) => Box::pin(session.resume(id, resumed)).await,
            None => Box::pin(session.begin(id)).await,
        };
        started.map_err(rejected)?;
        Ok(session)
    }

    /// Acquires a connection slot, asks the plugins, and takes the session over if there is one to resume.
    async fn admit(
        hub: &Hub,
        key: &Key,
        mut session: Option<SessionToken>,
        client: Client,
        permit: Option<Permit>,
        connection: &Connection,
    ) -> Result<Admitted, Refusal> {
        let connect_request = || ConnectRequest {
            principal: key.seen_by_plugins.clone(),
            remote: client.remote.to_string(),
            origin: client.origin.clone(),
            headers: client.headers.clone(),
        };
        // The cheapest check comes first: a principal with too many connections costs one call of the store
        // and no call of a plugin.
        let max_connections = permit.is_none().then_some(key.limits.connections);
        // Taking a session over closes its connection. So if a plugin may refuse this connection, it is asked
        // before that, but only about a session that can be taken over. If the first plugin with a connect hook
        // is activated just now, it is asked after the takeover.
        let mut limits = None;
        if let Some(token) = session.filter(|_| hub.has_connect_hook()) {
            match hub.check_resume(token, &key.principal, max_connections).await? {
                ResumeCheck::Allowed => {
                    limits = Some(hub.authorize_takeover(key, connect_request()).await?);
                    // If its key was revoked meanwhile, or an operator closed it, it must not take a session
                    // from another connection. It starts a session of its own and is closed at once.
                    session = session.filter(|_| !connection.outbox.is_closing());
                }
                ResumeCheck::NotFound => session = None,
                ResumeCheck::LimitReached(count) => return Err(hub::connection_limit_reached(key, count)),
            }
        }
        let (mut resumed, mut slot) = (None, None);
        if let Some(token) = session {
            match hub.resume_session(token, connection, client.since, max_connections).await? {
                ResumeResult::Resumed(mut taken) => {
                    connection.session.set(token).expect("set once");
                    slot = taken.permit.take();
                    if let Some(previous) = taken.previous.and_then(|id| hub.connections.get(id)) {
                        previous.outbox.close(Close::TakenOver);
                    }
                    resumed = Some(taken);
                }
                ResumeResult::NotFound(acquired) => slot = acquired,
                ResumeResult::LimitReached(count) => return Err(hub::connection_limit_reached(key, count)),
                ResumeResult::Retry => {
                    let message = "the session was resumed by another connection meanwhile; try again";
                    return Err(Refusal::retry(ErrorCode::StoreUnavailable, message, 1000));
                }
            }
        }
        let permit = match permit.or(slot) {
            Some(permit) => permit,
            None => hub.acquire_connection_slot(key).await?,
        };
        let limits = match limits {
            Some(limits) => limits,
            None => hub.authorize_connect(connect_request()).await?,
        };
        Ok(Admitted { permit, limits, resumed })
    }

    /// Starts a new session.
    pub(super) async fn begin(&mut self, id: Option<Id<'_>>) -> Result<(), Refusal> {
        self.connection.budget.check_memory(&self.connection.key.load(), &self.connection.share)?;
        if !self.services.hub.may_grow(&self.connection.share) {
            return Err(hub::memory_exhausted("sessions"));
        }
        let reserved = self.connection.outbox.reserve();
        let rooms = [RoomName::broadcast(), self.state.inbox.clone()];
        let joins = rooms.map(|room| {
            let options = JoinOptions { room: room.clone(), filter: None, since: None };
            PendingJoin::new(&room, Ok(options))
        });
        let joins = self.request_joins(joins.into(), false, None).await;
        if let Some(refusal) = joins.iter().find_map(PendingJoin::refusal) {
            return Err(refusal.clone());
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
        let mut joins = Vec::with_capacity(resumed.rooms.len());
        let mut names = Vec::with_capacity(resumed.rooms.len());
        for (room, Membership { filter, position }) in resumed.rooms {
            // Whether the key still allows an ordinary room is found out when it is joined.
            let options = JoinOptions { room: room.clone(), filter, since: Some(position) };
            joins.push(PendingJoin::new(&room, Ok(options)));
            names.push(room);
        }
        let answered = self.request_joins(joins, false, None).await;
        let (mut completed, mut renamed, mut left) = (vec![], vec![], vec![]);
        for (room, join) in names.into_iter().zip(answered) {
            match &join.state {
                // The plugin may have another canonical name for the room by now.
                JoinState::Granted(granted) if *granted.room() != room => {
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
            completed.extend(self.complete_join(join, AnswerKind::Resumed).await);
        }
        // Two names of the session may belong to one room by now. The session keeps that room.
        left.retain(|room| !renamed.iter().any(|join: &Join| join.room == *room));
        self.services.hub.record_joins(&self.connection, renamed).await?;
        self.services.hub.record_leaves(&self.connection, left).await?;
        self.count_rooms();
        let (mut results, mut gaps, mut replays) = (vec![], vec![], vec![]);
        for CompletedJoin { result, gap, replay } in completed {
            results.push(result);
            gaps.extend(gap);
            replays.extend(replay);
        }
        let frame = self.connected(id, true, results);
        self.connection.outbox.fill(reserved, frame.into());
        self.connection.ping_after_answer(gaps.iter());
        self.start_replays(replays);
        Ok(())
    }

    fn connected(&self, id: Option<Id<'_>>, resumed: bool, rooms: Vec<reply::RoomResult>) -> String {
        let Heartbeat { interval, timeout } = self.services.config.heartbeat;
        let expires = self.connection.key.load().expires();
        let connected = reply::Connected {
            connection: self.connection.id.to_string(),
            session: self.connection.session().reveal(),
            resumed,
            principal: reply::PrincipalInfo {
                id: self.connection.principal.clone(),
                tier: self.connection.key.load().tier.clone(),
            },
            heartbeat: reply::HeartbeatInfo {
                interval: interval.as_millis() as u64,
                timeout: timeout.as_millis() as u64,
            },
            limits: reply::ConnectionLimits {
                rooms: self.state.rooms_limit,
                message_bytes: self.state.message_bytes(),
            },
            expires,
            time: expires.map(|_| unix_ms()),
            rooms,
        };
        reply::encode("connected", id, connected)
    }
}
