//! Carries the decisions of a session out against the hub and puts the answers into the connection's outbox. One
//! request at a time, in order, except that replays run beside.

use super::{
    Heartbeat, SessionConfig,
    active::{Active, Decision, Refused, Wish},
    greeting::{Greeted, Rejected},
};
use crate::{
    close::Close,
    hub::{self, Connection, Hub, Joined, Joining, Permit, Policy, Recovery, Replay},
    key::{Key, Keys},
    plugin::Connecting,
    protocol::{Code, Id, Position, Refusal, reply, request::Publish},
    room::RoomName,
    store::{ConnectionId, Membership},
};
use arc_swap::ArcSwap;
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

/// Principals that `members` names.
const MOST_PRINCIPALS: usize = 100;

/// What every conversation of a node shares.
#[derive(Clone)]
pub struct Services {
    pub hub: Arc<Hub>,
    pub keys: Arc<ArcSwap<Keys>>,
    pub config: SessionConfig,
}

/// Where a client comes from.
pub struct Client {
    pub remote: SocketAddr,
    pub origin: Option<String>,
}

pub struct Conversation {
    services: Services,
    key: Arc<Key>,
    connection: Arc<Connection>,
    active: Active,
    _permit: Permit,
}

impl Conversation {
    /// Lets a client in: a new session, or the one it wants back with all its rooms. `permit` is there when the key
    /// came with the upgrade.
    pub async fn open(
        services: Services,
        greeted: Greeted<'_>,
        client: Client,
        permit: Option<Permit>,
    ) -> Result<Self, Rejected> {
        let Greeted { id, key, session } = greeted;
        let hub = services.hub.clone();
        let rejected = |refusal: Refusal| {
            let close = match refusal.code {
                Code::ConnectionLimit => Close::ConnectionLimit,
                Code::PluginFailed | Code::StoreUnavailable | Code::Overloaded => Close::Overloaded,
                _ => Close::Forbidden,
            };
            Rejected::new(id, &refusal, close)
        };
        let limits = hub
            .admit(Connecting {
                principal: Policy::principal(&key.principal, &key.tier),
                remote: client.remote.to_string(),
                origin: client.origin,
            })
            .await
            .map_err(rejected)?;

        let connection_id = ConnectionId::random();
        let unavailable = |error| rejected(hub::unavailable(error));
        let resumed = match session {
            Some(token) => {
                let resumed = hub.store.resume_session(token, &key.principal, connection_id).await;
                resumed.map_err(unavailable)?.map(|resumed| (token, resumed))
            }
            None => None,
        };
        let takeover = resumed.as_ref().is_some_and(|(_, resumed)| resumed.previous.is_some());
        let permit = match permit {
            Some(permit) => permit,
            None => hub.connections.permit(&key, takeover).map_err(|refusal| {
                if let Some((token, _)) = resumed {
                    hub.store.detach(token, connection_id);
                }
                rejected(refusal)
            })?,
        };
        let (token, previous, rooms) = match resumed {
            Some((token, resumed)) => (token, resumed.previous, Some(resumed.rooms)),
            None => {
                let token =
                    hub.store.create_session(&key.principal, connection_id).await.map_err(unavailable)?;
                (token, None, None)
            }
        };
        let connection = Connection::new(connection_id, token, &key, client.remote, services.config.outbox);
        let active = Active::new(&key, &limits, services.config.message, Instant::now());
        hub.connections.insert(connection.clone());
        hub.metrics.connections.inc();
        hub.metrics.opened.inc();
        let mut conversation = Self { services, key, connection, active, _permit: permit };
        if let Some(previous) = previous.and_then(|id| hub.connections.get(id)) {
            previous.outbox.close(Close::TakenOver);
        }
        conversation.connected(id, rooms).await;
        Ok(conversation)
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Joins the rooms that need no subscribing and those of the session, then answers `connected`.
    async fn connected(&mut self, id: Option<Id<'_>>, resumed: Option<Vec<(RoomName, Membership)>>) {
        let place = self.connection.outbox.reserve();
        let is_resumed = resumed.is_some();
        let new = |room| (room, None);
        let rooms = match resumed {
            None => vec![new(RoomName::broadcast()), new(self.active.inbox.clone())],
            Some(rooms) => rooms.into_iter().map(|(room, membership)| (room, Some(membership))).collect(),
        };
        let mut asked = vec![];
        for (room, membership) in rooms {
            let (filter, since) = membership.map_or((None, None), |m| (m.filter, Some(m.position)));
            asked.push(self.ask(room, filter, since, &asked));
        }
        let (mut results, mut replays) = (vec![], vec![]);
        for asked in asked {
            let room = asked.room.clone();
            match self.seat(asked, &mut replays).await {
                Ok(result) => results.push(result),
                Err(refusal) => {
                    self.services.hub.store.leave(self.connection.session, &room);
                    let mut result = reply::RoomResult::refused(&room, None, refusal);
                    result.recovered = Some(false);
                    results.push(result);
                }
            }
        }
        let Heartbeat { interval, timeout } = self.services.config.heartbeat;
        let connected = reply::Connected {
            connection: self.connection.id.to_string(),
            session: self.connection.session.reveal(),
            resumed: is_resumed,
            principal: reply::Principal { id: &self.key.principal, tier: &self.key.tier },
            heartbeat: reply::Heartbeat {
                interval: interval.as_millis() as u64,
                timeout: timeout.as_millis() as u64,
            },
            limits: reply::Limits {
                rooms: self.active.rooms_limit,
                message_bytes: self.active.message_bytes(),
            },
            rooms: if is_resumed { results } else { vec![] },
        };
        self.connection.outbox.fill(place, reply::reply("connected", id, connected).into());
        self.start(replays);
    }

    pub async fn text(&mut self, text: &str) {
        let keys = self.services.keys.load_full();
        let decision = self.active.frame(text, &keys, Instant::now());
        self.carry_out(decision).await;
    }

    pub async fn binary(&mut self) {
        let decision = self.active.binary(Instant::now());
        self.carry_out(decision).await;
    }

    async fn carry_out(&mut self, decision: Decision<'_>) {
        let hub = self.services.hub.clone();
        match decision {
            Decision::Reply(frame) => self.send(frame),
            Decision::Refuse(id, refusal) => self.refuse(id, &refusal),
            Decision::Close(frame, close) => {
                self.send(frame);
                self.connection.outbox.close(close);
            }
            Decision::Subscribe { id, rooms } => self.subscribe(id, rooms).await,
            Decision::Unsubscribe { id, rooms } => self.unsubscribe(id, rooms).await,
            Decision::Publish { id, room, publish: Publish { event, data, key, .. } } => {
                let who = self.active.principal.clone();
                let published = hub.publish(&who, room, event.as_deref(), data, key.as_deref()).await;
                self.answer("published", id, published);
            }
            Decision::Acknowledge { id, offsets } => self.acknowledge(id, offsets).await,
            Decision::Members { id, room } => {
                let members = hub.store.members(&room, MOST_PRINCIPALS).await.map_err(hub::unavailable);
                let members = members.map(|members| reply::Members {
                    room: room.shared(),
                    count: members.count,
                    principals: members.principals,
                    more: members.more,
                });
                self.answer("members", id, members);
            }
            Decision::History { id, room, since, limit } => {
                let history = match self.active.seat(&room) {
                    Some(seat) => hub.history(seat, since.as_ref(), limit).await,
                    None => Err(Refusal::new(Code::NotSubscribed, "the room was left meanwhile")),
                };
                match history {
                    Ok(history) => self.send(history.reply(id)),
                    Err(refusal) => self.refuse(id, &refusal),
                }
            }
        }
    }

    async fn subscribe(&mut self, id: Option<Id<'_>>, rooms: Vec<Result<Wish<'_>, Refused>>) {
        let place = self.connection.outbox.reserve();
        // All questions are on their way before the first answer is awaited. `None` takes the next of them.
        let (mut asked, mut wishes) = (vec![], vec![]);
        for wish in rooms {
            wishes.push(match wish {
                Ok(Wish { room, terms }) => {
                    asked.push(self.ask(room, terms.filter.map(Into::into), terms.since, &asked));
                    None
                }
                Err(refused) => Some(refused),
            });
        }
        let (mut results, mut replays, mut asked) = (vec![], vec![], asked.into_iter());
        for refused in wishes {
            results.push(match refused {
                Some(refused) => rejected(refused),
                None => {
                    let asked = asked.next().expect("one for each that was not refused");
                    let room = asked.room.clone();
                    match self.seat(asked, &mut replays).await {
                        Ok(result) => reply::RoomResult { status: Some("subscribed"), ..result },
                        Err(refusal) => rejected(Refused { room: room.to_string(), refusal }),
                    }
                }
            });
        }
        self.count_rooms();
        let frame = reply::reply("subscribed", id, reply::Results { results });
        self.connection.outbox.fill(place, frame.into());
        self.start(replays);
    }

    /// `before`: what was asked just now, which counts as held.
    fn ask(
        &self,
        room: RoomName,
        filter: Option<Arc<str>>,
        since: Option<Position>,
        before: &[Asked],
    ) -> Asked {
        let hub = &self.services.hub;
        let seats = self.active.seats().map(|seat| &seat.room).chain(before.iter().map(|asked| &asked.room));
        let joining = Joining {
            room: room.clone(),
            connection: self.connection.clone(),
            who: Policy::principal(&self.key.principal, &self.key.tier),
            filter: filter.clone(),
            since: since.clone(),
            held: hub.held_beside(&room, seats),
        };
        Asked { room, filter, since, answer: hub.join(joining) }
    }

    /// Awaits the answer, takes the seat and records the membership.
    async fn seat(&mut self, asked: Asked, replays: &mut Vec<Replay>) -> Result<reply::RoomResult, Refusal> {
        let hub = self.services.hub.clone();
        let joined = hub::answered(asked.answer).await?;
        let recovered = match joined.recovery {
            Recovery::NotAsked => None,
            Recovery::Complete => Some(true),
            Recovery::Impossible => Some(false),
            Recovery::After(_) => {
                let prepared = Replay::prepare(&hub, &self.connection, &joined).await;
                let (replay, recovered) = prepared.map_err(hub::unavailable)?;
                replays.push(replay);
                Some(recovered)
            }
        };
        let Joined { seat, position, limits, .. } = joined;
        let room = seat.room.clone();
        if recovered == Some(false) {
            // What it has seen before says nothing any more.
            hub.store.leave(self.connection.session, &room);
        }
        let from = asked.since.filter(|_| recovered == Some(true)).unwrap_or_else(|| position.clone());
        hub.store.join(self.connection.session, &room, Membership { filter: asked.filter, position: from });
        self.active.hold(&asked.room, seat, &limits, Instant::now());
        let requested = (room != asked.room).then(|| asked.room.to_string());
        let Position { epoch, offset } = position;
        Ok(reply::RoomResult {
            room: room.shared(),
            status: None,
            requested,
            epoch: Some(epoch),
            offset: Some(offset),
            recovered,
            error: None,
        })
    }

    /// Replays run beside the conversation and end with its outbox.
    fn start(&self, replays: Vec<Replay>) {
        if replays.is_empty() {
            return;
        }
        let hub = self.services.hub.clone();
        tokio::spawn(async move {
            for replay in replays {
                replay.run(&hub).await;
            }
        });
    }

    async fn unsubscribe(&mut self, id: Option<Id<'_>>, rooms: Vec<Result<RoomName, Refused>>) {
        let mut results = vec![];
        for room in rooms {
            let left = match room {
                Ok(room) => self.active.release(&room).ok_or(room),
                Err(refused) => {
                    results.push(rejected(refused));
                    continue;
                }
            };
            results.push(match left {
                Ok(seat) => {
                    let room = seat.room.clone();
                    seat.leave().await;
                    self.services.hub.store.leave(self.connection.session, &room);
                    reply::RoomResult::unsubscribed(&room)
                }
                // Named twice in one request.
                Err(room) => {
                    let message = format!("room '{}' was left already", &*room);
                    let refusal = Refusal::new(Code::NotSubscribed, message);
                    rejected(Refused { room: room.to_string(), refusal })
                }
            });
        }
        self.count_rooms();
        self.send(reply::reply("unsubscribed", id, reply::Results { results }));
    }

    /// Silent when all is well or nobody can be told.
    async fn acknowledge(&mut self, id: Option<Id<'_>>, offsets: Vec<(RoomName, u64)>) {
        let mut unsent = None;
        for (room, offset) in offsets {
            let sent = match self.active.seat(&room) {
                Some(seat) => self.services.hub.acknowledge(&self.connection, seat, offset).await,
                None => false,
            };
            if !sent {
                unsent = Some(format!("offset {offset} of room '{}' was not sent yet", &*room));
            }
        }
        if let (Some(message), Some(_)) = (unsent, id) {
            self.refuse(id, &Refusal::invalid(message));
        }
    }

    fn count_rooms(&self) {
        self.connection.rooms.store(self.active.room_count() as u32, Ordering::Relaxed);
    }

    fn answer(&self, kind: &str, id: Option<Id>, result: Result<impl serde::Serialize, Refusal>) {
        match result {
            Ok(body) => self.send(reply::reply(kind, id, body)),
            Err(refusal) => self.refuse(id, &refusal),
        }
    }

    fn refuse(&self, id: Option<Id>, refusal: &Refusal) {
        self.services.hub.metrics.error(refusal.code);
        self.send(reply::error(id, refusal));
    }

    fn send(&self, frame: String) {
        self.connection.outbox.push(frame.into());
    }
}

fn rejected(Refused { room, refusal }: Refused) -> reply::RoomResult {
    reply::RoomResult::refused(&room, Some("rejected"), refusal)
}

/// A room that was asked for.
struct Asked {
    room: RoomName,
    filter: Option<Arc<str>>,
    since: Option<Position>,
    answer: hub::Answer,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let (hub, connection) = (&self.services.hub, &self.connection);
        connection.outbox.end();
        hub.connections.remove(connection.id);
        hub.metrics.connections.dec();
        match connection.ended.load(Ordering::Relaxed) {
            true => hub.store.end_session(connection.session, connection.id),
            false => hub.store.detach(connection.session, connection.id),
        }
    }
}
