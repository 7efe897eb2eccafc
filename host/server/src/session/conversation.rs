//! Carries the decisions of a session out against the hub and puts the answers into the connection's outbox. One
//! request at a time, in order, except that messages are published while those before them are on their way, and replays run beside.

mod greeting;
mod joining;

pub(super) use joining::rejected;

use super::{
    SessionConfig,
    active::{Acknowledged, Active, Decision, proposal},
    greeting::{Greeted, Rejected},
};
use crate::{
    hub::{
        self, Confirms, Connection, Hub, Permit, Policy, Published, Publisher, Publishes, Registered, Turns,
        Unacknowledged,
    },
    key::{Key, Keys},
};
use arc_swap::ArcSwap;
use serde_json::value::RawValue;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use switchyard_plugin::ConnectRequest;
use switchyard_protocol::{Close, ErrorCode, Id, Refusal, reply, room::RoomName};
use switchyard_store::{PageLimit, Resume};
use tokio::task::JoinHandle;

/// Principals that `members` names.
const MOST_PRINCIPALS: usize = 100;
/// Characters of a client's epoch that are sent back to it.
const MAX_EPOCH: usize = 40;

/// What every conversation of a node shares.
#[derive(Clone)]
pub(crate) struct Services {
    pub hub: Arc<Hub>,
    pub keys: Arc<ArcSwap<Keys>>,
    pub config: SessionConfig,
}

/// Where a client comes from.
pub(crate) struct Client {
    pub remote: SocketAddr,
    pub origin: Option<String>,
    /// When its upgrade was answered: it was there then.
    pub since: tokio::time::Instant,
}

pub(crate) struct Conversation {
    services: Services,
    key: Arc<Key>,
    connection: Arc<Connection>,
    active: Active,
    /// They run beside the conversation, page by page in turn.
    replays: HashMap<RoomName, JoinHandle<()>>,
    turns: Option<Turns>,
    publishes: Publishes<Option<Box<RawValue>>>,
    _registered: Registered,
    _permit: Permit,
}

/// What became of a message, and the id of the request to publish it.
pub(super) type Told = (Option<Box<RawValue>>, Published);

impl Conversation {
    /// Lets a client in: a new session, or the one it wants back with all its rooms. `permit` is there when the key
    /// came with the upgrade. `connection` is new.
    pub(crate) async fn open(
        services: Services,
        greeted: Greeted<'_>,
        client: Client,
        permit: Option<Permit>,
        connection: Arc<Connection>,
    ) -> Result<Self, Rejected> {
        let Greeted { id, key, session } = greeted;
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
        // Found by others before it holds a session, so that whoever takes that over finds whom to end.
        let registered = Registered::new(hub.clone(), connection.clone());
        // From here on a key that goes or expires ends it; it may have done so since it was looked at.
        if let Err(refusal) = services.keys.load().find(&key.digest) {
            return Err(Rejected::new(id, &refusal, hub::refused_by_key(&refusal)));
        }
        // What costs least comes first: who has too many connections has cost one step of the store, and no plugin was asked.
        let most = permit.is_none().then_some(key.limits.connections);
        let (mut resumed, mut place) = (None, None);
        if let Some(token) = session {
            let asked = hub.resume_session(token, &connection, client.since, most).await;
            match asked.map_err(rejected)? {
                Resume::Held(mut held) => {
                    connection.session.set(token).expect("set once");
                    place = held.permit.take();
                    if let Some(previous) = held.previous.and_then(|id| hub.connections.get(id)) {
                        previous.outbox.close(Close::TakenOver);
                    }
                    resumed = Some(held);
                }
                Resume::Gone(taken) => place = taken,
                Resume::Full(count) => return Err(rejected(hub::too_many(&key, count))),
                Resume::Again => {
                    let message = "the session was resumed by another connection meanwhile; try again";
                    return Err(rejected(Refusal::retry(ErrorCode::StoreUnavailable, message, 1000)));
                }
            }
        }
        let permit = match permit.or(place) {
            Some(permit) => permit,
            None => hub.acquire_connection_slot(&key).await.map_err(rejected)?,
        };
        let limits = hub
            .admit(ConnectRequest {
                principal: Policy::principal(&key.principal, &key.tier),
                remote: client.remote.to_string(),
                origin: client.origin,
            })
            .await
            .map_err(rejected)?;
        let active = Active::new(&key, &limits, services.config.message);
        hub.allow(&key.principal, &limits);
        hub.metrics.opened.inc();
        let mut conversation = Self {
            services,
            key,
            connection,
            active,
            replays: HashMap::new(),
            turns: None,
            publishes: Publishes::default(),
            _registered: registered,
            _permit: permit,
        };
        let greeted = match resumed {
            Some(resumed) => Box::pin(conversation.resume(id, resumed)).await,
            None => Box::pin(conversation.begin(id)).await,
        };
        greeted.map_err(rejected)?;
        Ok(conversation)
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub(crate) async fn text(&mut self, text: &str) {
        let keys = self.services.keys.load_full();
        let decision = self.active.frame(text, &keys, Instant::now());
        self.carry_out(decision, text.len()).await;
    }

    pub(crate) async fn binary(&mut self) {
        let decision = self.active.binary(Instant::now());
        self.carry_out(decision, 0).await;
    }

    /// `bytes` is the length of the frame.
    async fn carry_out(&mut self, decision: Decision<'_>, bytes: usize) {
        let hub = self.services.hub.clone();
        if !decision.overlaps() {
            self.settle().await;
        }
        match decision {
            Decision::Reply(frame) => self.send(frame).await,
            Decision::Nothing => {}
            Decision::Refuse(id, refusal) => {
                self.publishes.refuse(&self.connection.share, refusal, bytes, id.map(ToOwned::to_owned));
                self.tell_ready().await;
            }
            Decision::Close(frame, close) => {
                self.send(frame).await;
                self.connection.outbox.close(close);
            }
            Decision::Subscribe { id, joins } => self.subscribe(id, joins).await,
            Decision::Unsubscribe { id, rooms } => self.unsubscribe(id, rooms).await,
            Decision::Publish { id, room, publish } => {
                let (keys, key) = (self.services.keys.load_full(), &self.key);
                let publisher = Publisher { keys, share: &self.connection.share, tier: &key.tier };
                let id = id.map(ToOwned::to_owned);
                self.publishes.begin(&hub, publisher, proposal(room, &publish, bytes), id);
                self.tell_ready().await;
            }
            Decision::Acknowledge { id, acks } => self.acknowledge(id, acks).await,
            Decision::Members { id, room } => {
                let members = hub.members(&room.shared(), MOST_PRINCIPALS).await;
                let members = members.map(|members| reply::MembersReply {
                    room: room.shared(),
                    count: members.count,
                    principals: members.principals,
                    more: members.more,
                });
                self.answer("members", id, members).await;
            }
            Decision::History { id, room, since, limit } => {
                // Nothing is read for a client that takes nothing.
                if !self.connection.outbox.half_free(self.patience()).await {
                    return;
                }
                let history = match self.active.seat(&room) {
                    Some(seat) => {
                        let limit = PageLimit { messages: limit, bytes: self.connection.outbox.limit() / 4 };
                        hub.history(&self.key.principal, seat, since.as_ref(), limit).await
                    }
                    None => Err(Refusal::new(ErrorCode::NotSubscribed, "the room was left meanwhile")),
                };
                match history {
                    Ok(history) => self.send(history.encode(id)).await,
                    Err(refusal) => self.refuse(id, &refusal).await,
                }
            }
        }
    }

    /// Awaits the next answer to a message on its way; for ever where there is none. Nothing is lost if nobody waits to the end.
    pub(crate) async fn published(&mut self) -> Told {
        match self.publishes.next(&self.services.hub).await {
            Some(told) => told,
            None => std::future::pending().await,
        }
    }

    pub(crate) async fn tell(&mut self, (id, published): Told) {
        self.answer("published", id.as_deref(), published).await;
    }

    /// Gives the answers that are there, and awaits some where there is no room for another message.
    async fn tell_ready(&mut self) {
        let hub = self.services.hub.clone();
        loop {
            let told = match self.publishes.is_full(&self.connection.share) {
                true => self.publishes.next(&hub).await,
                false => self.publishes.next_ready(&hub),
            };
            let Some(told) = told else { return };
            self.tell(told).await;
        }
    }

    /// Answers all that is on its way.
    pub(crate) async fn settle(&mut self) {
        let hub = self.services.hub.clone();
        while let Some(told) = self.publishes.next(&hub).await {
            self.tell(told).await;
        }
    }

    /// Silent when all is well or nobody can be told.
    async fn acknowledge(&mut self, id: Option<Id<'_>>, acks: Vec<Acknowledged>) {
        let mut wrong = None;
        for Acknowledged { room, epoch, offset } in acks {
            let acknowledged = match self.active.seat(&room) {
                Some(seat) => {
                    self.services.hub.acknowledge(&self.connection, seat, epoch.clone(), offset).await
                }
                None => Err(Unacknowledged::Unsent),
            };
            let what = || format!("offset {offset} of room '{}'", &*room);
            wrong = match acknowledged {
                Ok(()) => continue,
                Err(Unacknowledged::Unsent) => Some(format!("{} was not sent yet", what())),
                Err(Unacknowledged::OtherEpoch(now)) => {
                    let named: String = epoch.unwrap_or_default().chars().take(MAX_EPOCH).collect();
                    Some(format!("{} is of epoch '{named}', the room is in epoch '{now}' now", what()))
                }
                Err(Unacknowledged::Unheard(now)) => Some(format!(
                    "{} may be of an epoch that ended: the room is in epoch '{now}' now; name the epoch",
                    what()
                )),
            };
        }
        if let (Some(message), Some(_)) = (wrong, id) {
            self.refuse(id, &Refusal::invalid(message)).await;
        }
    }

    /// Something came over a socket that was last seen empty at an instant.
    pub(crate) fn heard(&self, emptied: impl FnOnce() -> tokio::time::Instant) {
        if self.connection.pings.is_alive(emptied) {
            self.services.hub.confirm_alive(&self.connection);
        }
    }

    /// The client answered a ping: what was sent before that, it has heard.
    pub(crate) fn pong(&mut self, payload: &[u8]) {
        // The heartbeat's have no payload.
        let Ok(nonce) = payload.try_into().map(u64::from_be_bytes) else { return };
        for confirmed in self.connection.pings.answered(nonce) {
            match confirmed {
                Confirms::Moved { room, position, .. } => {
                    self.services.hub.advance(&self.connection, &room, &position);
                }
                Confirms::Lives => self.services.hub.confirm_alive(&self.connection),
            }
        }
    }

    async fn answer(&self, kind: &str, id: Option<Id<'_>>, result: Result<impl serde::Serialize, Refusal>) {
        match result {
            Ok(body) => self.send(reply::encode(kind, id, body)).await,
            Err(refusal) => self.refuse(id, &refusal).await,
        }
    }

    async fn refuse(&self, id: Option<Id<'_>>, refusal: &Refusal) {
        self.services.hub.metrics.error(refusal.code);
        self.send(reply::error(id, refusal)).await;
    }

    /// An answer waits for a client that goes on reading, and so do the requests behind it.
    async fn send(&self, frame: String) {
        self.connection.outbox.answer(frame.into(), self.patience()).await;
    }

    /// How long a client may take nothing of what it asked for.
    fn patience(&self) -> Duration {
        self.services.config.heartbeat.silence()
    }
}
