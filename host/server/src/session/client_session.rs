//! A client's session: carries out its requests, and puts the answers into the connection's outbox. Requests
//! are handled one at a time, in order. Only messages overlap, and replays run in tasks of their own. Does
//! not decide what a client may do: `state.rs` does.

mod connecting;
mod joining;
mod rates;
mod refreshing;
mod removing;

pub(super) use joining::rejected;

use super::{
    Authenticator, SessionConfig,
    state::{Acknowledged, Decision, SessionState},
};
use crate::{
    hub::{
        AckError, Confirmation, Connection, Hub, Permit, Proposal, PublishOutcome, PublishPipeline,
        Publisher, Registration, RemovedSeat, ReplayTurns,
    },
    key::Keys,
    limits::{Budgets, TokenBucket},
    token::TokenVerifier,
};
use arc_swap::ArcSwap;
use rates::RateState;
use serde_json::value::RawValue;
use std::{collections::HashMap, future::poll_fn, net::SocketAddr, sync::Arc, task::Poll, time::Instant};
use switchyard_plugin::Via;
use switchyard_protocol::{ErrorCode, Id, Position, Refusal, reply, request, room::RoomName};
use switchyard_store::{Members, PageLimit};
use tokio::task::JoinHandle;

/// Maximum number of principals that an answer to `members` lists.
const MAX_LISTED_PRINCIPALS: usize = 100;
/// Maximum number of characters of a client's epoch that an error repeats.
const MAX_ECHOED_EPOCH_CHARS: usize = 40;

/// What all sessions of a node share.
#[derive(Clone)]
pub(crate) struct Services {
    pub hub: Arc<Hub>,
    pub keys: Arc<ArcSwap<Keys>>,
    pub tokens: Arc<TokenVerifier>,
    pub budgets: Arc<Budgets>,
    pub config: SessionConfig,
}

impl Services {
    pub(crate) fn authenticator(&self) -> Authenticator<'_> {
        Authenticator { keys: &self.keys, tokens: &self.tokens, denials: &self.hub.denials }
    }
}

/// A data frame from a client.
pub(crate) enum ClientFrame<'a> {
    Text(&'a str),
    Binary,
}

/// What is known about a client before it authenticates.
pub(crate) struct Client {
    pub remote: SocketAddr,
    pub origin: Option<String>,
    /// The headers of its upgrade that a plugin wants to see, with their names in lower case.
    pub headers: Vec<(String, String)>,
    /// When its upgrade was answered.
    pub since: tokio::time::Instant,
}

/// The session of an authenticated client.
pub(crate) struct ClientSession {
    services: Services,
    connection: Arc<Connection>,
    state: SessionState,
    /// The tasks of running replays. They take turns, page by page.
    replays: HashMap<RoomName, JoinHandle<()>>,
    turns: Option<ReplayTurns>,
    publishes: PublishPipeline<Option<Box<RawValue>>>,
    /// Present once the client has used `refresh`.
    refreshes: Option<Box<TokenBucket>>,
    rates: RateState,
    registration: Registration,
    _permit: Permit,
}

/// The result of a request to publish, and the request's id.
type PublishAnswer = (Option<Box<RawValue>>, PublishOutcome);

/// Something that the client is told and that is not the immediate answer to a request.
pub(crate) enum SessionEvent {
    Published(PublishAnswer),
    Removed(Vec<RemovedSeat>),
    /// The key has changed.
    KeyChanged,
}

impl ClientSession {
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Handles a frame: parses the request, decides whether this client may make it, and carries it out.
    pub(crate) async fn handle(&mut self, frame: ClientFrame<'_>) {
        // Here, too, because a client that sends without a pause would keep other events waiting.
        self.check_key().await;
        let hub = self.services.hub.clone();
        let (decision, bytes) = match frame {
            ClientFrame::Text(text) => {
                let decision = match request::parse(text) {
                    Ok((id, request)) => {
                        let allowed = self.count_request(&request).and_then(|()| self.current_key());
                        let decided =
                            allowed.and_then(|key| self.state.decide(id, request, &key, &hub.policies));
                        let decided = decided.and_then(|decision| self.charge(&decision).map(|()| decision));
                        decided.unwrap_or_else(|refusal| self.refused(id, refusal))
                    }
                    Err((id, refusal)) if refusal.code == ErrorCode::BadFrame => {
                        self.count_unrefused();
                        self.state.bad_frame(id, refusal, Instant::now())
                    }
                    Err((id, refusal)) => {
                        let refusal = self.count_invalid_request().err().unwrap_or(refusal);
                        self.refused(id, refusal)
                    }
                };
                (decision, text.len())
            }
            ClientFrame::Binary => {
                self.count_unrefused();
                let refusal = Refusal::new(ErrorCode::BadFrame, "a frame must be text, got a binary frame");
                (self.state.bad_frame(None, refusal, Instant::now()), 0)
            }
        };
        if !decision.overlaps() {
            self.answer_in_flight().await;
        }
        match decision {
            Decision::Reply(frame) => self.connection.outbox.answer(frame.into()).await,
            Decision::Nothing => {}
            Decision::Refuse(id, refusal) => {
                self.publishes.refuse(&self.connection.share, refusal, bytes, id.map(ToOwned::to_owned));
                self.answer_ready().await;
            }
            Decision::Close(frame, close) => {
                self.connection.outbox.answer(frame.into()).await;
                self.connection.outbox.close(close);
            }
            Decision::Refresh { id, credentials } => Box::pin(self.refresh(id, credentials)).await,
            Decision::Subscribe { id, joins } => self.subscribe(id, joins).await,
            Decision::Unsubscribe { id, rooms } => self.unsubscribe(id, rooms).await,
            Decision::Publish { id, room, message } => {
                let key = self.connection.key.load_full();
                let keys = self.services.keys.clone();
                let publisher = Publisher { keys, share: &self.connection.share, key, via: Via::WebSocket };
                let proposal = Proposal { room, message, bytes };
                self.publishes.begin(&hub, publisher, proposal, id.map(ToOwned::to_owned));
                self.answer_ready().await;
            }
            Decision::Acknowledge { id, acks } => self.acknowledge(id, acks).await,
            Decision::Members { id, room } => {
                let room = room.shared();
                match hub.members(&room, MAX_LISTED_PRINCIPALS).await {
                    Ok(Members { count, principals, more }) => {
                        let members = reply::MembersReply { room, count, principals, more };
                        self.connection.outbox.answer(reply::encode("members", id, members).into()).await;
                    }
                    Err(refusal) => self.refuse(id, &refusal).await,
                }
            }
            Decision::History { id, room, since, limit } => self.history(id, &room, since, limit).await,
        }
    }

    async fn history(&mut self, id: Option<Id<'_>>, room: &RoomName, since: Option<Position>, limit: usize) {
        // Nothing is read from the store for a client that does not read.
        if !self.connection.outbox.wait_until_half_free().await {
            return;
        }
        self.check_key().await;
        let history = match self.state.seat(room) {
            Some(seat) => {
                let limit = PageLimit { messages: limit, bytes: self.connection.outbox.limit() / 4 };
                self.services.hub.history(&self.connection, seat, since.as_ref(), limit).await
            }
            None => Err(Refusal::new(ErrorCode::NotSubscribed, "the room was left in the meantime")),
        };
        match history {
            Ok(history) => self.connection.outbox.answer(history.encode(id).into()).await,
            Err(refusal) => self.refuse(id, &refusal).await,
        }
    }

    /// The next answer to a request to publish, or the rooms that the client had to leave. Cancel-safe.
    pub(crate) async fn next_event(&mut self) -> SessionEvent {
        let Self { publishes, services, connection, .. } = self;
        poll_fn(|cx| {
            if let Poll::Ready(removed) = connection.removals.poll_take(cx) {
                return Poll::Ready(SessionEvent::Removed(removed));
            }
            if connection.removals.key_change().is_some() {
                return Poll::Ready(SessionEvent::KeyChanged);
            }
            match publishes.poll_next(&services.hub, cx) {
                Poll::Ready(Some(answer)) => Poll::Ready(SessionEvent::Published(answer)),
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Tells the client about an event.
    pub(crate) async fn handle_event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Published(answer) => self.answer(answer).await,
            SessionEvent::Removed(seats) => self.leave_removed(seats).await,
            SessionEvent::KeyChanged => self.check_key().await,
        }
    }

    /// Sends the answer to a request to publish.
    async fn answer(&mut self, (id, published): PublishAnswer) {
        match published {
            Ok(published) => {
                self.connection
                    .outbox
                    .answer(reply::encode("published", id.as_deref(), published).into())
                    .await
            }
            Err(refusal) => self.refuse(id.as_deref(), &refusal).await,
        }
    }

    /// Sends the answers that are ready. If no further message may be in flight, waits for answers until one
    /// may.
    async fn answer_ready(&mut self) {
        let hub = self.services.hub.clone();
        loop {
            let answer = match self.publishes.is_full(&self.connection.share) {
                true => self.publishes.next(&hub).await,
                false => self.publishes.next_ready(&hub),
            };
            let Some(answer) = answer else { return };
            self.answer(answer).await;
        }
    }

    /// Waits for all messages that are in flight, and answers their requests.
    pub(crate) async fn answer_in_flight(&mut self) {
        let hub = self.services.hub.clone();
        while let Some(answer) = self.publishes.next(&hub).await {
            self.answer(answer).await;
        }
    }

    /// Records acknowledgements. Sends an error only if one is wrong and the request has an id.
    async fn acknowledge(&mut self, id: Option<Id<'_>>, acks: Vec<Acknowledged>) {
        let mut wrong = None;
        for Acknowledged { room, epoch, offset } in acks {
            let acknowledged = match self.state.seat(&room) {
                Some(seat) => {
                    self.services.hub.acknowledge(&self.connection, seat, epoch.clone(), offset).await
                }
                None => Err(AckError::Unsent),
            };
            let what = || format!("offset {offset} of room '{}'", &*room);
            wrong = match acknowledged {
                Ok(()) => continue,
                Err(AckError::Unsent) => Some(format!("{} was not sent yet", what())),
                Err(AckError::OtherEpoch(now)) => {
                    let named: String =
                        epoch.unwrap_or_default().chars().take(MAX_ECHOED_EPOCH_CHARS).collect();
                    Some(format!(
                        "{} belongs to epoch '{named}', but the room is now in epoch '{now}'",
                        what()
                    ))
                }
                Err(AckError::UnconfirmedEpoch(now)) => Some(format!(
                    "{} may belong to an earlier epoch: the room is now in epoch '{now}'; name the epoch",
                    what()
                )),
            };
        }
        if let (Some(message), Some(_)) = (wrong, id) {
            self.refuse(id, &Refusal::invalid(message)).await;
        }
    }

    /// Notes that the client sent something. `emptied` is when the socket was last seen empty.
    pub(crate) fn note_frame(&self, emptied: impl FnOnce() -> tokio::time::Instant) {
        if self.connection.pings.confirm_probe(emptied) {
            self.services.hub.confirm_alive(&self.connection);
        }
    }

    /// Handles a pong: the client has received everything that was sent before the ping.
    pub(crate) fn pong(&mut self, payload: &[u8]) {
        // Pings of the heartbeat have no payload.
        let Ok(nonce) = payload.try_into().map(u64::from_be_bytes) else { return };
        for confirmed in self.connection.pings.answered(nonce) {
            match confirmed {
                Confirmation::EpochChange { room, position, .. } => {
                    self.services.hub.advance(&self.connection, &room, &position);
                }
                Confirmation::Alive => self.services.hub.confirm_alive(&self.connection),
            }
        }
    }

    async fn refuse(&self, id: Option<Id<'_>>, refusal: &Refusal) {
        self.services.hub.metrics.count_error(refusal.code);
        self.connection.outbox.answer(reply::error(id, refusal).into()).await;
    }
}
