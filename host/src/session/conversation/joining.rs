//! Coming into rooms and leaving them: on connecting, resuming, subscribing and unsubscribing.

use super::Conversation;
use crate::{
    hub::{self, Joined, Joining, Policy, Recovery, Replay},
    protocol::{Code, Id, Position, Refusal, reply},
    room::RoomName,
    session::{
        Heartbeat,
        active::{Refused, Wish},
    },
    store::{Join, Membership},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

impl Conversation {
    /// Joins the rooms that need no subscribing and those of the session, then answers `connected`.
    pub(super) async fn connected(
        &mut self,
        id: Option<Id<'_>>,
        resumed: Option<Vec<(RoomName, Membership)>>,
    ) -> Result<(), Refusal> {
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
            asked.push(self.ask(room, filter, since, false));
        }
        let (mut results, mut replays, mut joins) = (vec![], vec![], vec![]);
        for asked in asked {
            let room = asked.room.clone();
            match self.seat(asked, &mut replays, &mut joins).await {
                Ok(result) => results.push(result),
                Err(refusal) => {
                    self.services.hub.store.leave(self.connection.session(), &room).await.ok();
                    let mut result = reply::RoomResult::refused(&room, None, refusal);
                    result.recovered = Some(false);
                    results.push(result);
                }
            }
        }
        let store = &self.services.hub.store;
        store.join(self.connection.session(), joins).await.map_err(hub::unavailable)?;
        let Heartbeat { interval, timeout } = self.services.config.heartbeat;
        let connected = reply::Connected {
            connection: self.connection.id.to_string(),
            session: self.connection.session().reveal(),
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
        Ok(())
    }

    pub(super) async fn subscribe(&mut self, id: Option<Id<'_>>, rooms: Vec<Result<Wish<'_>, Refused>>) {
        let (mut results, mut replays, mut joins) = (vec![], vec![], vec![]);
        let (mut held, mut new) = (vec![], vec![]);
        for wish in rooms {
            results.push(None);
            let (n, asks) = (results.len() - 1, |wish: Wish| {
                (wish.room, wish.terms.filter.map(Into::into), wish.terms.since)
            });
            match wish {
                Err(refused) => results[n] = Some(rejected(refused)),
                Ok(wish) if self.active.resolve(&wish.room).is_some() => held.push((n, asks(wish))),
                Ok(wish) => new.push((n, asks(wish))),
            }
        }
        // What rooms that it is in sent before goes before the answer, what they send from here on is kept back.
        for (_, (room, ..)) in &held {
            self.cut_short(room).await;
        }
        let held: Vec<_> = held
            .into_iter()
            .map(|(n, (room, filter, since))| (n, self.ask(room, filter, since, true)))
            .collect();
        for (n, asked) in held {
            results[n] = Some(self.subscribed(asked, &mut replays, &mut joins).await);
        }
        let place = self.connection.outbox.reserve();
        // All questions are on their way before the first answer is awaited.
        let new: Vec<_> = new
            .into_iter()
            .map(|(n, (room, filter, since))| (n, self.ask(room, filter, since, false)))
            .collect();
        let mut unrecorded = vec![];
        for (n, asked) in new {
            let result = self.subscribed(asked, &mut replays, &mut joins).await;
            if result.error.is_none() {
                unrecorded.push(n);
            }
            results[n] = Some(result);
        }
        // A client that is told `subscribed` finds the room again, whatever becomes of this node. A room that it was in
        // before stays one, and what changed there is recorded later.
        if let Err(error) = self.services.hub.store.join(self.connection.session(), joins).await {
            let refusal = hub::unavailable(error);
            for n in unrecorded {
                let Some(room) = results[n].take().map(|result| result.room) else { continue };
                replays.retain(|replay| **replay.room() != *room);
                self.give_up(&room).await;
                results[n] = Some(rejected(Refused { room: room.to_string(), refusal: refusal.clone() }));
            }
        }
        let results = results.into_iter().flatten().collect();
        self.count_rooms();
        let frame = reply::reply("subscribed", id, reply::Results { results });
        self.connection.outbox.fill(place, frame.into());
        self.start(replays);
    }

    /// Leaves a room that was joined just now.
    async fn give_up(&mut self, room: &str) {
        let Some(seat) = RoomName::parse(room).ok().and_then(|room| self.active.release(&room)) else {
            return;
        };
        let room = seat.room.clone();
        seat.leave().await;
        self.services.hub.store.leave(self.connection.session(), &room).await.ok();
    }

    async fn subscribed(
        &mut self,
        asked: Asked,
        replays: &mut Vec<Replay>,
        joins: &mut Vec<Join>,
    ) -> reply::RoomResult {
        let room = asked.room.clone();
        match self.seat(asked, replays, joins).await {
            Ok(result) => reply::RoomResult { status: Some("subscribed"), ..result },
            Err(refusal) => rejected(Refused { room: room.to_string(), refusal }),
        }
    }

    fn ask(
        &self,
        room: RoomName,
        filter: Option<Arc<str>>,
        since: Option<Position>,
        keep_back: bool,
    ) -> Asked {
        let joining = Joining {
            room: room.clone(),
            connection: self.connection.clone(),
            who: Policy::principal(&self.key.principal, &self.key.tier),
            filter: filter.clone(),
            since: since.clone(),
            keep_back,
        };
        let answer = self.services.hub.join(joining);
        Asked { room, filter, since, answer }
    }

    /// Awaits the answer and takes the seat; the membership is left to be recorded.
    async fn seat(
        &mut self,
        asked: Asked,
        replays: &mut Vec<Replay>,
        joins: &mut Vec<Join>,
    ) -> Result<reply::RoomResult, Refusal> {
        let hub = self.services.hub.clone();
        let joined = hub::answered(asked.answer).await?;
        let mut recovered = match joined.recovery {
            Recovery::NotAsked => None,
            Recovery::Complete => Some(true),
            Recovery::Impossible | Recovery::After(_) => Some(false),
        };
        // It may have been named before in this request, or be in the room by another name.
        self.cut_short(&joined.seat.room).await;
        replays.retain(|replay| *replay.room() != joined.seat.room);
        if let Some(progress) = &joined.behind {
            let prepared = Replay::prepare(&hub, &self.connection, &joined, progress).await;
            let (mut replay, whole) = prepared.map_err(hub::unavailable)?;
            if let Recovery::After(_) = joined.recovery {
                recovered = Some(whole);
                replay.tells_loss = !whole && asked.since.is_none();
            }
            replays.push(replay);
        }
        // An earlier replay that goes on is nothing that was asked here.
        let recovered = recovered.filter(|_| asked.since.is_some());
        let Joined { seat, position, limits, .. } = joined;
        let room = seat.room.clone();
        let from = asked.since.filter(|_| recovered == Some(true)).unwrap_or_else(|| position.clone());
        let membership = Membership { filter: asked.filter, position: from };
        joins.push(Join { room: room.clone(), membership, anew: recovered == Some(false) });
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
    fn start(&mut self, replays: Vec<Replay>) {
        self.replays.retain(|_, running| !running.is_finished());
        for replay in replays {
            let (hub, room) = (self.services.hub.clone(), replay.room().clone());
            self.replays.insert(room, tokio::spawn(async move { replay.run(&hub).await }));
        }
    }

    /// Stops a replay of a room that is left or joined anew; how far it came the room knows.
    async fn cut_short(&mut self, room: &RoomName) {
        let room = self.active.resolve(room).unwrap_or_else(|| room.clone());
        if let Some(running) = self.replays.remove(&room) {
            running.abort();
            // Afterwards it puts nothing more into the outbox.
            running.await.ok();
        }
    }

    pub(super) async fn unsubscribe(&mut self, id: Option<Id<'_>>, rooms: Vec<Result<RoomName, Refused>>) {
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
                    self.cut_short(&room).await;
                    seat.leave().await;
                    // What cannot be recorded now is recorded later.
                    self.services.hub.store.leave(self.connection.session(), &room).await.ok();
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

    fn count_rooms(&self) {
        self.connection.rooms.store(self.active.room_count() as u32, Ordering::Relaxed);
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
