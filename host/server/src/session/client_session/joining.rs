//! Joins and leaves rooms: on connecting, subscribing and unsubscribing. The client is told only what the
//! store has recorded. Until it has, a change has no effect on this node. Does not decide who may join.

use super::ClientSession;
use crate::{
    hub::{self, JoinAnswer, JoinRequest, Joined, Recovered, Recovery, Replay, ReplayTurns},
    session::pending_join::{
        AnswerKind, CompletedJoin, GrantedJoin, JoinOptions, JoinState, PendingJoin, clip, named_twice,
    },
};
use futures_util::future::join_all;
use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
    time::Duration,
};
use switchyard_protocol::{Close, ErrorCode, Id, Refusal, reply, room::RoomName};
use tokio::time::{Instant, timeout_at};

/// How long a request to subscribe may take until its rooms are recorded.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_millis(2000);
/// Rooms that are not granted within this time are rejected, which leaves time to record the others.
const GRANT_TIMEOUT: Duration = Duration::from_millis(1200);

/// How many rooms of a long list are handled before other tasks of the core get their turn.
const ROOMS_PER_SLICE: usize = 32;

impl ClientSession {
    pub(super) async fn subscribe(&mut self, id: Option<Id<'_>>, joins: Vec<PendingJoin>) {
        let began = Instant::now();
        let (mut answered, until) = (joins, Some(began + GRANT_TIMEOUT));
        loop {
            answered = self.request_joins(answered, true, until).await;
            // If a plugin refused some entries, there is room for others.
            if !self.state.request_deferred(&mut answered) {
                break;
            }
        }
        refuse_duplicates(&mut answered);
        let records = answered.iter().filter_map(PendingJoin::record).collect();
        let recorded = self.services.hub.record_joins(&self.connection, records);
        let recorded = timeout_at(began + SUBSCRIBE_TIMEOUT, recorded).await;
        if let Err(refusal) = recorded.unwrap_or_else(|_| Err(hub::store_unavailable())) {
            answered = cancel_all(answered, &refusal).await;
        }
        let (mut results, mut gaps, mut replays) = (Vec::with_capacity(answered.len()), vec![], vec![]);
        for (n, join) in answered.into_iter().enumerate() {
            yield_between_slices(n).await;
            // The join is recorded, so the client finds it when it resumes.
            let Some(completed) = self.complete_join(join, AnswerKind::Subscribed).await else {
                return self.connection.outbox.close(Close::Overloaded);
            };
            results.push(completed.result);
            gaps.extend(completed.gap);
            replays.extend(completed.replay);
        }
        self.count_rooms();
        self.connection
            .outbox
            .answer(reply::encode("subscribed", id, reply::RoomResults { results }).into())
            .await;
        self.connection.ping_after_answer(gaps.iter());
        self.start_replays(replays);
    }

    /// Asks the shards of the rooms for the seats that are to be requested, and waits for their answers. If
    /// it `is_provisional`, a join may still fail to be recorded: no message is delivered before the client is told, and if
    /// the connection is in a room already, nothing changes yet.
    pub(super) async fn request_joins(
        &self,
        joins: Vec<PendingJoin>,
        is_provisional: bool,
        until: Option<Instant>,
    ) -> Vec<PendingJoin> {
        let requests = joins.iter().filter(|join| matches!(join.state, JoinState::Requested(_))).count();
        let turn = self.services.hub.acquire_long_request(&self.connection.principal, requests).await;
        // All requests are sent before the first answer is awaited.
        let mut asked = Vec::with_capacity(joins.len());
        for (n, join) in joins.into_iter().enumerate() {
            yield_between_slices(n).await;
            let state = match join.state {
                JoinState::Requested(options) => {
                    let request = self.join_request(&options, is_provisional, is_provisional);
                    let answer = self.services.hub.join(request);
                    JoinState::Asked(options, answer)
                }
                state => state,
            };
            asked.push(PendingJoin { name: join.name, state });
        }
        drop(turn);
        join_all(asked.into_iter().map(|join| self.await_join(join, until))).await
    }

    /// Waits for the shard's answer, and for the log if the room was joined with a position.
    async fn await_join(&self, join: PendingJoin, until: Option<Instant>) -> PendingJoin {
        let JoinState::Asked(options, answer) = join.state else { return join };
        let state = match answer.receive(until).await {
            Ok(JoinAnswer::Offered(offer)) => JoinState::Offered(options, offer),
            Ok(JoinAnswer::Joined(joined)) => {
                let room = joined.seat.room.clone();
                match within(until, self.prepare_recovery(options, joined)).await {
                    Ok(granted) => JoinState::Granted(Box::new(granted)),
                    Err(refusal) => JoinState::Refused(refusal, Some(room)),
                }
            }
            Err(refusal) => JoinState::Refused(refusal, None),
        };
        PendingJoin { name: join.name, state }
    }

    /// Finds out from the log whether everything after the client's position can be replayed.
    async fn prepare_recovery(&self, options: JoinOptions, joined: Joined) -> Result<GrantedJoin, Refusal> {
        let mut recovered = (joined.recovery == Recovery::Complete).then_some(true);
        let (mut position, mut replay) = (joined.position.clone(), None);
        if let Some(progress) = &joined.progress {
            let prepared = Replay::prepare(&self.services.hub, &self.connection, &joined, progress).await;
            let (mut prepared, found) = prepared.map_err(hub::unavailable)?;
            if let Some(Recovered { is_complete, position: at }) = found {
                if !is_complete {
                    prepared.skip_missed(options.since.is_some());
                }
                (recovered, position) = (Some(is_complete), at);
            }
            replay = Some(prepared);
        }
        // A replay that continues from an earlier join is not part of this answer.
        let recovered = recovered.filter(|_| options.since.is_some());
        Ok(GrantedJoin { options, joined, replay, position, recovered })
    }

    /// Takes over a seat that was recorded: from here on, the connection is in the room. Makes the result for
    /// the client, also for a join that was refused. `None` if the log cannot be read or the node is stopping.
    pub(super) async fn complete_join(
        &mut self,
        join: PendingJoin,
        kind: AnswerKind,
    ) -> Option<CompletedJoin> {
        let granted = match join.state {
            JoinState::Granted(granted) => *granted,
            JoinState::Offered(options, offer) => {
                let room = offer.room.clone();
                self.stop_replay(&room).await;
                let joined = match offer.accept(self.connection.clone(), options.since.clone()).await {
                    Some(joined) => joined,
                    // The room was handed over to another shard in the meantime.
                    None => self.join_again(&options).await.filter(|joined| joined.seat.room == room)?,
                };
                self.prepare_recovery(options, joined).await.ok()?
            }
            JoinState::Refused(refusal, _) => return Some(CompletedJoin::refused(&join.name, refusal, kind)),
            JoinState::Requested(_) | JoinState::Deferred(_) | JoinState::Asked(..) => {
                unreachable!("the shard has answered")
            }
        };
        // The connection may be in the room already, perhaps under another name.
        self.stop_replay(granted.room()).await;
        let gap = granted.gap();
        let GrantedJoin { options, joined, replay, position, recovered } = granted;
        let room = joined.seat.room.clone();
        self.state.keep_seat(&options.room, joined.seat);
        let filter = options.filter.filter(|_| kind == AnswerKind::Resumed);
        let result = reply::RoomResult {
            status: (kind == AnswerKind::Subscribed).then_some(reply::RoomStatus::Subscribed),
            requested: (room != options.room).then(|| options.room.to_string()),
            epoch: Some(position.epoch),
            offset: Some(position.offset),
            recovered,
            filter: filter.and_then(|filter| serde_json::from_str(&filter).ok()),
            ..reply::RoomResult::new(room.shared())
        };
        Some(CompletedJoin { result, gap, replay })
    }

    /// Joins a room of which the connection is a member, without an offer. `None` if the room is refused.
    async fn join_again(&self, options: &JoinOptions) -> Option<Joined> {
        let answer = self.services.hub.join(self.join_request(options, true, false));
        match answer.receive(Some(Instant::now() + GRANT_TIMEOUT)).await {
            Ok(JoinAnswer::Joined(joined)) => Some(joined),
            Ok(JoinAnswer::Offered(_)) | Err(_) => None,
        }
    }

    fn join_request(&self, options: &JoinOptions, buffer: bool, offer: bool) -> JoinRequest {
        JoinRequest {
            room: options.room.clone(),
            connection: self.connection.clone(),
            filter: options.filter.clone(),
            since: options.since.clone(),
            buffer,
            offer,
        }
    }

    /// Starts the replays. They run in tasks of their own and end with the outbox.
    pub(super) fn start_replays(&mut self, replays: Vec<Replay>) {
        self.replays.retain(|_, running| !running.is_finished());
        // If a room was joined under two names, the later seat is the valid one.
        let replays: HashMap<_, _> =
            replays.into_iter().map(|replay| (replay.room().clone(), replay)).collect();
        for (room, replay) in replays {
            let hub = self.services.hub.clone();
            let turns = self.turns.get_or_insert_with(ReplayTurns::new).clone();
            self.replays.insert(room, tokio::spawn(async move { replay.run(&hub, &turns).await }));
        }
    }

    /// Stops the replay of a room that is left or joined again. The room knows how far it got.
    pub(super) async fn stop_replay(&mut self, room: &RoomName) {
        if let Some(running) = self.replays.remove(room) {
            running.abort();
            // After this it puts nothing more into the outbox.
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
        self.connection
            .outbox
            .answer(reply::encode("unsubscribed", id, reply::RoomResults { results }).into())
            .await;
    }

    /// Leaves a room, once that is recorded.
    async fn leave(&mut self, room: RoomName) -> reply::RoomResult {
        let Some(seat) = self.state.release(&room) else {
            // The request named it twice.
            let message = format!("room '{}' has already been left", &*room);
            return rejected(&room, Refusal::new(ErrorCode::NotSubscribed, message));
        };
        self.stop_replay(&room).await;
        seat.leave().await;
        reply::RoomResult::unsubscribed(&room)
    }

    pub(super) fn count_rooms(&self) {
        self.connection.rooms.store(self.state.room_count() as u32, Ordering::Relaxed);
    }
}

/// Waits for the log until a point in time, if there is one.
async fn within<T>(
    until: Option<Instant>,
    step: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    match until {
        Some(until) => timeout_at(until, step).await.unwrap_or_else(|_| Err(hub::store_unavailable())),
        None => step.await,
    }
}

/// Cancels all joins that were granted, because they could not be recorded.
async fn cancel_all(joins: Vec<PendingJoin>, refusal: &Refusal) -> Vec<PendingJoin> {
    let mut cancelled = Vec::with_capacity(joins.len());
    for join in joins {
        cancelled.push(join.cancel(refusal).await);
    }
    cancelled
}

/// Lets other tasks run between the slices of a long list.
async fn yield_between_slices(nth: usize) {
    if nth % ROOMS_PER_SLICE == ROOMS_PER_SLICE - 1 {
        tokio::task::yield_now().await;
    }
}

/// Refuses entries whose canonical room is that of an earlier entry, even if the earlier one was refused: its
/// seat may have been the reason for the offer to the later one. If the room was not open yet, its shard has
/// done so.
fn refuse_duplicates(joins: &mut [PendingJoin]) {
    let mut rooms = HashSet::new();
    for join in joins {
        let Some(room) = join.room().cloned() else { continue };
        let is_first = rooms.insert(room.clone());
        if !is_first && matches!(join.state, JoinState::Offered(..)) {
            join.state = JoinState::Refused(named_twice(&room), Some(room));
        }
    }
}

/// The result for a room where nothing changes.
pub(in crate::session) fn rejected(room: &str, refusal: Refusal) -> reply::RoomResult {
    reply::RoomResult::refused(clip(room), Some(reply::RoomStatus::Rejected), refusal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hub::Offer, session::pending_join::JoinOptions};
    use switchyard_protocol::Position;
    use tokio::sync::mpsc;

    /// The log could not be read in time for the first entry. Its seat is gone, so the offer to the second
    /// entry has no seat that it could change.
    #[test]
    fn an_entry_that_failed_after_its_room_was_known_still_counts_as_the_first() {
        let room = RoomName::parse("curve:ethereum").unwrap();
        let failed = JoinState::Refused(hub::store_unavailable(), Some(room.clone()));
        let (queue, _commands) = mpsc::unbounded_channel();
        let position = Position { epoch: "e".into(), offset: 3 };
        let offer = Offer::new(room.clone(), position, (None, None), "acme".into(), queue);
        let options = JoinOptions { room: room.clone(), filter: None, since: None };
        let mut joins = [("CURVE:ethereum", failed), ("curve:ethereum", JoinState::Offered(options, offer))]
            .map(|(name, state)| PendingJoin { name: name.to_owned(), state });
        refuse_duplicates(&mut joins);
        let codes = joins.each_ref().map(|join| join.refusal().map(|refusal| refusal.code));
        assert_eq!(codes, [Some(ErrorCode::StoreUnavailable), Some(ErrorCode::InvalidRequest)]);
    }
}
