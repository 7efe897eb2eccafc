//! Coming into rooms and leaving them: on connecting, subscribing and unsubscribing. What a client is told is what the store has
//! recorded; until it has, nothing of what was asked rules here.

use super::ClientSession;
use crate::{
    hub::{self, JoinAnswer, JoinRequest, Joined, Policy, Recovered, Recovery, Replay, Turns},
    session::pending_join::{Done, JoinState, JoinTerms, PendingJoin, Seated, clip, named_twice},
};
use futures_util::future::join_all;
use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
    time::Duration,
};
use switchyard_protocol::{Close, ErrorCode, Id, Refusal, reply, room::RoomName};
use tokio::time::{Instant, timeout_at};

/// How long a request to subscribe may take.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_millis(2000);
/// Rooms that are not granted within this are rejected, so that there is time to record those that are.
const GRANT_TIMEOUT: Duration = Duration::from_millis(1200);

/// Rooms of a list that are seen to in one go.
const ROOMS_PER_SLICE: usize = 32;

/// How the rooms of an answer are kind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerKind {
    Subscribed,
    /// With the filter that is in force.
    Resumed,
}

impl ClientSession {
    pub(super) async fn subscribe(&mut self, id: Option<Id<'_>>, joins: Vec<PendingJoin>) {
        let began = Instant::now();
        let turn = self.services.hub.turn_of_list(&self.connection.principal, joins.len()).await;
        // All questions are on their way before the first answer is awaited.
        let mut asked = Vec::with_capacity(joins.len());
        for (n, join) in joins.into_iter().enumerate() {
            yield_between_slices(n).await;
            asked.push(self.request_join(join, true));
        }
        drop(turn);
        let (this, until) = (&*self, Some(began + GRANT_TIMEOUT));
        let mut answered = join_all(asked.into_iter().map(|join| this.await_join(join, until))).await;
        refuse_duplicates(&mut answered);
        let recorded = self.record(answered, began + SUBSCRIBE_TIMEOUT).await;
        let mut joins = Vec::with_capacity(recorded.len());
        for (n, join) in recorded.into_iter().enumerate() {
            yield_between_slices(n).await;
            // If it does not come in: it is recorded, and a resume will find it.
            let Some(join) = self.complete_join(join, AnswerKind::Subscribed).await else {
                return self.connection.outbox.close(Close::Overloaded);
            };
            joins.push(join);
        }
        self.count_rooms();
        let results = joins.iter_mut().map(|join| join.result(Some(reply::RoomStatus::Rejected))).collect();
        self.send(reply::encode("subscribed", id, reply::RoomResults { results })).await;
        self.connection.told(joins.iter().filter_map(PendingJoin::moved));
        self.start_replays(joins);
    }

    /// Asks the room's shard. `is_provisional`: nothing is to be heard of it until it was told, and for a room that the
    /// connection is in nothing changes until it is recorded.
    pub(super) fn request_join(&self, join: PendingJoin, is_provisional: bool) -> PendingJoin {
        let JoinState::Requested(terms) = join.state else { return join };
        let answer = self.services.hub.join(JoinRequest {
            room: terms.room.clone(),
            connection: self.connection.clone(),
            who: Policy::principal(&self.key.principal, &self.key.tier),
            filter: terms.filter.clone(),
            since: terms.since.clone(),
            keep_back: is_provisional,
            offer: is_provisional,
        });
        PendingJoin { name: join.name, state: JoinState::Asked(terms, answer) }
    }

    /// Awaits the shard's answer, and what the log says of the position that the room was joined with.
    pub(super) async fn await_join(&self, join: PendingJoin, until: Option<Instant>) -> PendingJoin {
        let JoinState::Asked(terms, answer) = join.state else { return join };
        let answered = async {
            match answer.await.unwrap_or_else(|_| Err(hub::stopping()))? {
                JoinAnswer::Offered(offer) => Ok(JoinState::Offered(terms, offer)),
                JoinAnswer::Joined(joined) => {
                    self.check_recovery(terms, joined).await.map(|seated| JoinState::Seated(Box::new(seated)))
                }
            }
        };
        let state = match until {
            Some(until) => timeout_at(until, answered).await.unwrap_or_else(|_| Err(hub::store_is_away())),
            None => answered.await,
        };
        PendingJoin { name: join.name, state: state.unwrap_or_else(JoinState::Refused) }
    }

    /// Records what was granted; where that fails, nothing was.
    async fn record(&self, mut joins: Vec<PendingJoin>, until: Instant) -> Vec<PendingJoin> {
        let records = joins.iter().filter_map(PendingJoin::record).collect();
        let recorded = timeout_at(until, self.services.hub.record_joins(&self.connection, records)).await;
        if let Err(refusal) = recorded.unwrap_or_else(|_| Err(hub::store_is_away())) {
            let mut withdrawn = Vec::with_capacity(joins.len());
            for join in joins {
                withdrawn.push(join.withdraw(&refusal).await);
            }
            joins = withdrawn;
        }
        joins
    }

    /// A seat, with what the log says of the position that it came with.
    async fn check_recovery(&self, terms: JoinTerms, joined: Joined) -> Result<Seated, Refusal> {
        let mut recovered = (joined.recovery == Recovery::Complete).then_some(true);
        let (mut position, mut replay) = (joined.position.clone(), None);
        if let Some(progress) = &joined.behind {
            let prepared = Replay::prepare(&self.services.hub, &self.connection, &joined, progress).await;
            let (mut prepared, found) = prepared.map_err(hub::unavailable)?;
            if let Some(Recovered { whole, position: at }) = found {
                if !whole {
                    prepared.give_up(terms.since.is_some());
                }
                (recovered, position) = (Some(whole), at);
            }
            replay = Some(prepared);
        }
        // An earlier replay that goes on is nothing that was asked here.
        let recovered = recovered.filter(|_| terms.since.is_some());
        Ok(Seated { terms, joined, replay, position, recovered })
    }

    /// From here on a room that was granted is this connection's, as soon as it was told. `None`: the log cannot be asked, or the node
    /// is stopping.
    pub(super) async fn complete_join(&mut self, join: PendingJoin, kind: AnswerKind) -> Option<PendingJoin> {
        let PendingJoin { name, state } = join;
        let seated = match state {
            JoinState::Seated(seated) => *seated,
            JoinState::Offered(terms, offer) => {
                self.stop_replay(&offer.room).await;
                let joined = offer.accept(self.connection.clone(), terms.since.clone()).await?;
                self.check_recovery(terms, joined).await.ok()?
            }
            state => return Some(PendingJoin { name, state }),
        };
        // It may have been named before in this request, or be in the room by another name.
        self.stop_replay(seated.room()).await;
        let moved = seated.moved();
        let Seated { terms, joined, replay, position, recovered } = seated;
        let room = joined.seat.room.clone();
        self.state.hold(&terms.room, joined.seat);
        let filter = terms.filter.filter(|_| kind == AnswerKind::Resumed);
        let result = reply::RoomResult {
            status: (kind == AnswerKind::Subscribed).then_some(reply::RoomStatus::Subscribed),
            requested: (room != terms.room).then(|| terms.room.to_string()),
            epoch: Some(position.epoch),
            offset: Some(position.offset),
            recovered,
            filter: filter.and_then(|filter| serde_json::from_str(&filter).ok()),
            ..reply::RoomResult::new(room.shared())
        };
        Some(PendingJoin { name, state: JoinState::Done(Box::new(Done { result, moved, replay })) })
    }

    /// Starts the replays. They run beside the conversation and end with its outbox.
    pub(super) fn start_replays(&mut self, joins: Vec<PendingJoin>) {
        self.replays.retain(|_, running| !running.is_finished());
        let patience = self.max_silence();
        let replays = joins.into_iter().filter_map(PendingJoin::into_replay);
        // Of a room that was joined by two names the later seat holds.
        let replays: HashMap<_, _> = replays.map(|replay| (replay.room().clone(), replay)).collect();
        for (room, replay) in replays {
            let hub = self.services.hub.clone();
            let turns = self.turns.get_or_insert_with(|| Turns::new(patience)).clone();
            self.replays.insert(room, tokio::spawn(async move { replay.run(&hub, &turns).await }));
        }
    }

    /// Stops a replay of a room that is left or joined anew; how far it came the room knows.
    async fn stop_replay(&mut self, room: &RoomName) {
        if let Some(running) = self.replays.remove(room) {
            running.abort();
            // Afterwards it puts nothing more into the outbox.
            running.await.ok();
        }
    }

    pub(super) async fn unsubscribe(
        &mut self,
        id: Option<Id<'_>>,
        rooms: Vec<Result<RoomName, Box<reply::RoomResult>>>,
    ) {
        let leaving = rooms.iter().flatten().cloned().collect();
        let left = self.services.hub.record_leaves(&self.connection, leaving).await;
        let mut results = vec![];
        for (n, room) in rooms.into_iter().enumerate() {
            yield_between_slices(n).await;
            results.push(match (room, &left) {
                (Err(result), _) => *result,
                (Ok(room), Err(refusal)) => rejected(&room, refusal.clone()),
                (Ok(room), Ok(())) => self.leave(room).await,
            });
        }
        self.count_rooms();
        self.send(reply::encode("unsubscribed", id, reply::RoomResults { results })).await;
    }

    /// Leaves a room whose leaving is recorded.
    async fn leave(&mut self, room: RoomName) -> reply::RoomResult {
        let Some(seat) = self.state.release(&room) else {
            // Named twice in one request.
            let message = format!("room '{}' was left already", &*room);
            return rejected(&room, Refusal::new(ErrorCode::NotSubscribed, message));
        };
        self.stop_replay(&room).await;
        seat.leave().await;
        reply::RoomResult::unsubscribed(&room)
    }

    pub(super) fn count_rooms(&self) {
        // In one order with the keys: who changes them finds the rooms, or they are found here.
        self.connection.rooms.store(self.state.room_count() as u32, Ordering::SeqCst);
        if let Err(refusal) = self.connection.hears_by(&self.services.keys.load())
            && refusal.code == ErrorCode::Forbidden
        {
            self.connection.outbox.push(reply::error(None, &refusal).into());
            self.connection.outbox.close(hub::refused_by_key(&refusal));
        }
    }
}

/// Lets others at the core between rooms of a long list.
async fn yield_between_slices(nth: usize) {
    if nth % ROOMS_PER_SLICE == ROOMS_PER_SLICE - 1 {
        tokio::task::yield_now().await;
    }
}

/// Rejects entries for a room that an earlier one is for, by another name that its plugin knows it by. The room said so itself where
/// it was not open yet.
fn refuse_duplicates(joins: &mut [PendingJoin]) {
    let mut rooms = HashSet::new();
    for join in joins {
        let Some(room) = join.room().cloned() else { continue };
        let is_first = rooms.insert(room.clone());
        if !is_first && matches!(join.state, JoinState::Offered(..)) {
            join.state = JoinState::Refused(named_twice(&room));
        }
    }
}

/// What is told of a room that stays as it was.
pub(in crate::session) fn rejected(room: &str, refusal: Refusal) -> reply::RoomResult {
    reply::RoomResult::refused(clip(room), Some(reply::RoomStatus::Rejected), refusal)
}
