//! Coming into rooms and leaving them: on connecting, subscribing and unsubscribing. What a client is told is what the store has
//! recorded; until it has, nothing of what was asked rules here.

use super::Conversation;
use crate::{
    hub::{self, Granted, Joined, Joining, Offer, Policy, Recovered, Recovery, Replay, Turns},
    session::active::{Refused, Wish, named_twice},
};
use futures_util::future::join_all;
use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use switchyard_protocol::{Code, Id, Position, Refusal, reply, room::RoomName};
use switchyard_store::{Join, Membership};
use tokio::time::timeout_at;

/// How long a request to subscribe may take.
const ANSWERED: Duration = Duration::from_millis(2000);
/// Rooms that are not granted within this are rejected, so that there is time to record those that are.
const GRANTED: Duration = Duration::from_millis(1200);

/// Rooms of a list that are seen to in one go.
const SLICE: usize = 32;

/// A room that was asked for, and how.
#[derive(Clone)]
pub(super) struct Asked {
    pub room: RoomName,
    pub filter: Option<Arc<str>>,
    pub since: Option<Position>,
}

/// A member that has to hear that the room goes on after a position, and the last epoch that it knew.
pub(super) type Told = (RoomName, Arc<str>, Position);

/// A room that was joined and is not told yet.
pub(super) struct Seated {
    asked: Asked,
    joined: Joined,
    replay: Option<Replay>,
    position: Position,
    recovered: Option<bool>,
}

impl Seated {
    pub(super) fn room(&self) -> &RoomName {
        &self.joined.seat.room
    }

    pub(super) fn position(&self) -> &Position {
        &self.position
    }

    /// As it is to be recorded. What it came with it has until it was told otherwise.
    fn membership(&self) -> Membership {
        let position = self.asked.since.as_ref().unwrap_or(&self.position).clone();
        Membership { filter: self.asked.filter.clone(), position }
    }

    /// Where what was before is lost.
    pub(super) fn told(&self) -> Option<Told> {
        let since = self.asked.since.as_ref().filter(|_| self.recovered == Some(false))?;
        Some((self.room().clone(), since.epoch.clone(), self.position.clone()))
    }
}

/// What becomes of one entry of a request to subscribe.
enum Entry {
    Rejected(Refused),
    /// A room that it comes into.
    New(Box<Seated>),
    /// A room that it is in.
    Held(Asked, Offer),
}

impl Conversation {
    pub(super) async fn subscribe(&mut self, id: Option<Id<'_>>, rooms: Vec<Result<Wish<'_>, Refused>>) {
        let began = tokio::time::Instant::now();
        let count = rooms.len();
        let turn = self.services.hub.turn_of_list(&self.connection.principal, count).await;
        let ask = |wish: Result<Wish<'_>, Refused>| {
            let Wish { room, terms } = wish?;
            let asked = Asked { room, filter: terms.filter.map(Into::into), since: terms.since };
            let answer = self.ask(&asked, true);
            Ok((asked, answer))
        };
        // All questions are on their way before the first answer is awaited.
        let mut asked = Vec::with_capacity(count);
        for (n, wish) in rooms.into_iter().enumerate() {
            pass_on(n).await;
            asked.push(ask(wish));
        }
        drop(turn);
        let this = &*self;
        let entries = join_all(asked.into_iter().map(async |asked| match asked {
            Err(refused) => Entry::Rejected(refused),
            Ok((asked, answer)) => {
                let granted = timeout_at(began + GRANTED, this.granted(asked.clone(), answer));
                granted
                    .await
                    .unwrap_or_else(|_| Err(hub::store_is_away()))
                    .unwrap_or_else(|refusal| Entry::Rejected(Refused::new(&asked.room, refusal)))
            }
        }))
        .await;
        let entries = self.record(each_once(entries), began + ANSWERED).await;
        let (mut results, mut replays, mut told) = (vec![], vec![], vec![]);
        for (n, entry) in entries.into_iter().enumerate() {
            pass_on(n).await;
            let seated = match entry {
                Entry::Rejected(refused) => {
                    results.push(rejected(refused));
                    continue;
                }
                Entry::New(seated) => *seated,
                Entry::Held(asked, offer) => match self.accept(asked, offer).await {
                    Some(seated) => seated,
                    // It is recorded, and a resume will find it.
                    None => return self.connection.outbox.close(switchyard_protocol::Close::Overloaded),
                },
            };
            told.extend(seated.told());
            let result = self.take_seat(seated, &mut replays).await;
            results.push(reply::RoomResult { status: Some("subscribed"), ..result });
        }
        self.count_rooms();
        self.send(reply::reply("subscribed", id, reply::Results { results })).await;
        self.connection.told(told.iter());
        self.start(replays);
    }

    /// Awaits what the hub says to one entry.
    async fn granted(&self, asked: Asked, answer: hub::Answer) -> Result<Entry, Refusal> {
        match hub::answered(answer).await? {
            Granted::Offered(offer) => Ok(Entry::Held(asked, offer)),
            Granted::Joined(joined) => {
                self.seated(asked, joined).await.map(|seated| Entry::New(Box::new(seated)))
            }
        }
    }

    /// Records what was granted; where that fails, nothing was.
    async fn record(&self, entries: Vec<Entry>, until: tokio::time::Instant) -> Vec<Entry> {
        let join = |entry: &Entry| match entry {
            Entry::Rejected(_) => None,
            Entry::New(seated) => {
                let (room, membership) = (seated.room().clone(), seated.membership());
                Some(Join { room, membership, anew: true })
            }
            Entry::Held(asked, offer) => {
                // Without a position of its own it keeps the one it has.
                let position = asked.since.clone();
                let anew = position.is_some();
                let position = position.unwrap_or_else(|| Position { epoch: "".into(), offset: 0 });
                let membership = Membership { filter: asked.filter.clone(), position };
                Some(Join { room: offer.room.clone(), membership, anew })
            }
        };
        let joins: Vec<_> = entries.iter().filter_map(join).collect();
        if joins.is_empty() {
            return entries;
        }
        let recorded = timeout_at(until, self.services.hub.store.join(self.connection.hold(), joins)).await;
        let refusal = match recorded {
            Ok(Ok(())) => return entries,
            Ok(Err(error)) => hub::unavailable(error),
            Err(_) => hub::store_is_away(),
        };
        let mut refused = vec![];
        for entry in entries {
            let room = match entry {
                Entry::Rejected(_) => {
                    refused.push(entry);
                    continue;
                }
                // The seat is given up, and of what was kept back nothing is heard.
                Entry::New(seated) => {
                    let Seated { asked, joined, .. } = *seated;
                    joined.seat.leave().await;
                    asked.room
                }
                Entry::Held(asked, _) => asked.room,
            };
            refused.push(Entry::Rejected(Refused::new(&room, refusal.clone())));
        }
        refused
    }

    /// Takes up what was offered. `None`: the log cannot be asked, or the node is stopping.
    async fn accept(&mut self, asked: Asked, offer: Offer) -> Option<Seated> {
        self.cut_short(&offer.room).await;
        let joined = offer.accept(self.connection.clone(), asked.since.clone()).await?;
        self.seated(asked, joined).await.ok()
    }

    pub(super) fn ask(&self, asked: &Asked, keep_back: bool) -> hub::Answer {
        self.services.hub.join(Joining {
            room: asked.room.clone(),
            connection: self.connection.clone(),
            who: Policy::principal(&self.key.principal, &self.key.tier),
            filter: asked.filter.clone(),
            since: asked.since.clone(),
            keep_back,
            offer: keep_back,
        })
    }

    /// A seat, with what the log says of the position that it came with.
    pub(super) async fn seated(&self, asked: Asked, joined: Joined) -> Result<Seated, Refusal> {
        let mut recovered = (joined.recovery == Recovery::Complete).then_some(true);
        let (mut position, mut replay) = (joined.position.clone(), None);
        if let Some(progress) = &joined.behind {
            let prepared = Replay::prepare(&self.services.hub, &self.connection, &joined, progress).await;
            let (mut prepared, found) = prepared.map_err(hub::unavailable)?;
            if let Some(Recovered { whole, position: at }) = found {
                if !whole {
                    prepared.give_up(asked.since.is_some());
                }
                (recovered, position) = (Some(whole), at);
            }
            replay = Some(prepared);
        }
        // An earlier replay that goes on is nothing that was asked here.
        let recovered = recovered.filter(|_| asked.since.is_some());
        Ok(Seated { asked, joined, replay, position, recovered })
    }

    /// From here on the room is this connection's, as soon as it was told.
    pub(super) async fn take_seat(&mut self, seated: Seated, replays: &mut Vec<Replay>) -> reply::RoomResult {
        let Seated { asked, joined, replay, position, recovered } = seated;
        let seat = joined.seat;
        let room = seat.room.clone();
        // It may have been named before in this request, or be in the room by another name.
        self.cut_short(&room).await;
        replays.retain(|replay| *replay.room() != room);
        replays.extend(replay);
        self.active.hold(&asked.room, seat);
        let requested = (room != asked.room).then(|| asked.room.to_string());
        let Position { epoch, offset } = position;
        reply::RoomResult {
            requested,
            epoch: Some(epoch),
            offset: Some(offset),
            recovered,
            ..reply::RoomResult::new(room.shared())
        }
    }

    /// Replays run beside the conversation and end with its outbox.
    pub(super) fn start(&mut self, replays: Vec<Replay>) {
        self.replays.retain(|_, running| !running.is_finished());
        let patience = self.patience();
        for replay in replays {
            let (hub, room) = (self.services.hub.clone(), replay.room().clone());
            let turns = self.turns.get_or_insert_with(|| Turns::new(patience)).clone();
            self.replays.insert(room, tokio::spawn(async move { replay.run(&hub, &turns).await }));
        }
    }

    /// Stops a replay of a room that is left or joined anew; how far it came the room knows.
    async fn cut_short(&mut self, room: &RoomName) {
        if let Some(running) = self.replays.remove(room) {
            running.abort();
            // Afterwards it puts nothing more into the outbox.
            running.await.ok();
        }
    }

    pub(super) async fn unsubscribe(&mut self, id: Option<Id<'_>>, rooms: Vec<Result<RoomName, Refused>>) {
        let leaving: Vec<_> = rooms.iter().flatten().cloned().collect();
        let left = match leaving.is_empty() {
            true => Ok(()),
            false => {
                self.services.hub.store.leave(self.connection.hold(), leaving).await.map_err(hub::unavailable)
            }
        };
        let mut results = vec![];
        for (n, room) in rooms.into_iter().enumerate() {
            pass_on(n).await;
            results.push(match (room, &left) {
                (Err(refused), _) => rejected(refused),
                (Ok(room), Err(refusal)) => rejected(Refused::new(&room, refusal.clone())),
                (Ok(room), Ok(())) => self.leave(room).await,
            });
        }
        self.count_rooms();
        self.send(reply::reply("unsubscribed", id, reply::Results { results })).await;
    }

    /// Leaves a room whose leaving is recorded.
    async fn leave(&mut self, room: RoomName) -> reply::RoomResult {
        let Some(seat) = self.active.release(&room) else {
            // Named twice in one request.
            let message = format!("room '{}' was left already", &*room);
            let refusal = Refusal::new(Code::NotSubscribed, message);
            return rejected(Refused::new(&room, refusal));
        };
        self.cut_short(&room).await;
        seat.leave().await;
        reply::RoomResult::unsubscribed(&room)
    }

    pub(super) fn count_rooms(&self) {
        // In one order with the keys: who changes them finds the rooms, or they are found here.
        self.connection.rooms.store(self.active.room_count() as u32, Ordering::SeqCst);
        if let Err(refusal) = self.connection.hears_by(&self.services.keys.load())
            && refusal.code == Code::Forbidden
        {
            self.connection.outbox.push(reply::error(None, &refusal).into());
            self.connection.outbox.close(hub::refused_by_key(&refusal));
        }
    }
}

/// Lets others at the core between rooms of a long list.
async fn pass_on(nth: usize) {
    if nth % SLICE == SLICE - 1 {
        tokio::task::yield_now().await;
    }
}

/// Rejects entries for a room that an earlier one is for, by another name that its plugin knows it by. The room said so itself where
/// it was not open yet.
fn each_once(entries: Vec<Entry>) -> Vec<Entry> {
    let mut rooms = HashSet::new();
    let once = |entry| match entry {
        Entry::New(ref seated) => {
            rooms.insert(seated.room().clone());
            entry
        }
        Entry::Held(ref asked, ref offer) if !rooms.insert(offer.room.clone()) => {
            Entry::Rejected(Refused::new(&asked.room, named_twice(&offer.room)))
        }
        _ => entry,
    };
    entries.into_iter().map(once).collect()
}

fn rejected(Refused { room, refusal }: Refused) -> reply::RoomResult {
    reply::RoomResult::refused(&room, Some("rejected"), refusal)
}
