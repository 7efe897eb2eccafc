//! Coming into rooms and leaving them: on connecting, subscribing and unsubscribing. What a client is told is what the store has
//! recorded; until it has, nothing of what was asked rules here.

use super::Conversation;
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
const ROOMS_A_SLICE: usize = 32;

/// How the rooms of an answer are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Subscribed,
    /// With the filter that is in force.
    Resumed,
}

impl Conversation {
    pub(super) async fn subscribe(&mut self, id: Option<Id<'_>>, mut joins: Vec<PendingJoin>) {
        let began = Instant::now();
        let turn = self.services.hub.turn_of_list(&self.connection.principal, joins.len()).await;
        // All questions are on their way before the first answer is awaited.
        for (n, join) in joins.iter_mut().enumerate() {
            pass_on(n).await;
            self.ask(join, true);
        }
        drop(turn);
        let this = &*self;
        join_all(joins.iter_mut().map(|join| this.answered(join, Some(began + GRANT_TIMEOUT)))).await;
        each_once(&mut joins);
        self.record(&mut joins, began + SUBSCRIBE_TIMEOUT).await;
        for (n, join) in joins.iter_mut().enumerate() {
            pass_on(n).await;
            if self.come_in(join, Shown::Subscribed).await.is_none() {
                // It is recorded, and a resume will find it.
                return self.connection.outbox.close(Close::Overloaded);
            }
        }
        self.count_rooms();
        let results = joins.iter_mut().map(|join| join.result(Some(reply::RoomStatus::Rejected))).collect();
        self.send(reply::encode("subscribed", id, reply::RoomResults { results })).await;
        self.connection.told(joins.iter().filter_map(PendingJoin::moved));
        self.start(joins);
    }

    /// Asks the room's shard. `may_leave_again`: nothing is to be heard of it until it was told, and for a room that the
    /// connection is in nothing changes until it is recorded.
    pub(super) fn ask(&self, join: &mut PendingJoin, may_leave_again: bool) {
        join.ask(|terms| {
            self.services.hub.join(JoinRequest {
                room: terms.room.clone(),
                connection: self.connection.clone(),
                who: Policy::principal(&self.key.principal, &self.key.tier),
                filter: terms.filter.clone(),
                since: terms.since.clone(),
                keep_back: may_leave_again,
                offer: may_leave_again,
            })
        });
    }

    /// Awaits the shard's answer, and what the log says of the position that the room was joined with.
    pub(super) async fn answered(&self, join: &mut PendingJoin, until: Option<Instant>) {
        let (terms, answer) = match join.take() {
            JoinState::Asked(terms, answer) => (terms, answer),
            state => return join.state = state,
        };
        let answered = async {
            match hub::answered(answer).await? {
                JoinAnswer::Offered(offer) => Ok(JoinState::Offered(terms, offer)),
                JoinAnswer::Joined(joined) => {
                    self.seated(terms, joined).await.map(|seated| JoinState::Seated(Box::new(seated)))
                }
            }
        };
        let state = match until {
            Some(until) => timeout_at(until, answered).await.unwrap_or_else(|_| Err(hub::store_is_away())),
            None => answered.await,
        };
        join.state = state.unwrap_or_else(JoinState::Refused);
    }

    /// Records what was granted; where that fails, nothing was.
    async fn record(&self, joins: &mut [PendingJoin], until: Instant) {
        let recorded = joins.iter().filter_map(PendingJoin::record).collect();
        let recorded = timeout_at(until, self.services.hub.record_joins(&self.connection, recorded)).await;
        if let Err(refusal) = recorded.unwrap_or_else(|_| Err(hub::store_is_away())) {
            for join in joins {
                join.withdraw(&refusal).await;
            }
        }
    }

    /// A seat, with what the log says of the position that it came with.
    async fn seated(&self, terms: JoinTerms, joined: Joined) -> Result<Seated, Refusal> {
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
    pub(super) async fn come_in(&mut self, join: &mut PendingJoin, shown: Shown) -> Option<()> {
        let seated = match join.take() {
            JoinState::Seated(seated) => *seated,
            JoinState::Offered(terms, offer) => {
                self.cut_short(&offer.room).await;
                let joined = offer.accept(self.connection.clone(), terms.since.clone()).await?;
                self.seated(terms, joined).await.ok()?
            }
            state => {
                join.state = state;
                return Some(());
            }
        };
        // It may have been named before in this request, or be in the room by another name.
        self.cut_short(seated.room()).await;
        let moved = seated.moved();
        let Seated { terms, joined, replay, position, recovered } = seated;
        let room = joined.seat.room.clone();
        self.active.hold(&terms.room, joined.seat);
        let filter = terms.filter.filter(|_| shown == Shown::Resumed);
        let result = reply::RoomResult {
            status: (shown == Shown::Subscribed).then_some(reply::RoomStatus::Subscribed),
            requested: (room != terms.room).then(|| terms.room.to_string()),
            epoch: Some(position.epoch),
            offset: Some(position.offset),
            recovered,
            filter: filter.and_then(|filter| serde_json::from_str(&filter).ok()),
            ..reply::RoomResult::new(room.shared())
        };
        join.state = JoinState::Done(Box::new(Done { result, moved, replay }));
        Some(())
    }

    /// Starts the replays. They run beside the conversation and end with its outbox.
    pub(super) fn start(&mut self, joins: Vec<PendingJoin>) {
        self.replays.retain(|_, running| !running.is_finished());
        let patience = self.patience();
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
    async fn cut_short(&mut self, room: &RoomName) {
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
            pass_on(n).await;
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
        let Some(seat) = self.active.release(&room) else {
            // Named twice in one request.
            let message = format!("room '{}' was left already", &*room);
            return rejected(&room, Refusal::new(ErrorCode::NotSubscribed, message));
        };
        self.cut_short(&room).await;
        seat.leave().await;
        reply::RoomResult::unsubscribed(&room)
    }

    pub(super) fn count_rooms(&self) {
        // In one order with the keys: who changes them finds the rooms, or they are found here.
        self.connection.rooms.store(self.active.room_count() as u32, Ordering::SeqCst);
        if let Err(refusal) = self.connection.hears_by(&self.services.keys.load())
            && refusal.code == ErrorCode::Forbidden
        {
            self.connection.outbox.push(reply::error(None, &refusal).into());
            self.connection.outbox.close(hub::refused_by_key(&refusal));
        }
    }
}

/// Lets others at the core between rooms of a long list.
async fn pass_on(nth: usize) {
    if nth % ROOMS_A_SLICE == ROOMS_A_SLICE - 1 {
        tokio::task::yield_now().await;
    }
}

/// Rejects entries for a room that an earlier one is for, by another name that its plugin knows it by. The room said so itself where
/// it was not open yet.
fn each_once(joins: &mut [PendingJoin]) {
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
