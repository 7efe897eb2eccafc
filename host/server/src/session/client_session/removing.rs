//! Rooms that the client has to leave because of somebody else: a plugin that governs a room now, or a key that does
//! not allow it any more. Tells the client so. Does not decide which rooms these are.

use super::ClientSession;
use crate::hub::{RemovedSeat, Seat};
use futures_util::future::join_all;
use switchyard_protocol::{
    Id, Refusal,
    reply::{self, RoomResult, RoomStatus},
    room::RoomName,
};
use switchyard_store::grant::Verb;

impl ClientSession {
    /// Leaves rooms in which the connection has no seat any more, and tells the client with `unsubscribed`.
    pub(super) async fn leave_removed(&mut self, removed: Vec<RemovedSeat>) {
        let mut results = vec![];
        for RemovedSeat { room, seat, reason } in removed {
            // Otherwise the client has left the room, or joined it again.
            if self.state.seat(&room).map(|seat: &Seat| seat.id) != Some(seat) {
                continue;
            }
            self.stop_replay(&room).await;
            drop(self.state.release(&room));
            self.services.hub.metrics.count_error(reason.code);
            results.push((room, reason));
        }
        self.tell_removed(results).await;
    }

    /// If the key has changed, leaves the rooms that it does not allow any more, and tells the client with
    /// `unsubscribed`.
    pub(super) async fn check_key(&mut self) {
        let Some(change) = self.connection.removals.key_change() else { return };
        let key = self.connection.key.load_full();
        let forbidden = self.state.rooms().filter_map(|room| {
            let refusal = key.require_in(Verb::Subscribe, room).err()?;
            Some((room.clone(), refusal))
        });
        let forbidden: Vec<_> = forbidden.collect();
        let mut seats = vec![];
        for (room, refusal) in &forbidden {
            self.stop_replay(room).await;
            seats.extend(self.state.release(room));
            self.services.hub.metrics.count_error(refusal.code);
        }
        // All at once, because a shard may be calling its plugin.
        join_all(seats.into_iter().map(Seat::leave)).await;
        self.connection.removals.confirm_key_check(change);
        self.tell_removed(forbidden).await;
    }

    async fn tell_removed(&self, results: Vec<(RoomName, Refusal)>) {
        if results.is_empty() {
            return;
        }
        let rooms = results.iter().map(|(room, _)| room.clone()).collect();
        // If the store does not answer, a resume finds the rooms, and they are judged again.
        self.services.hub.record_leaves(&self.connection, rooms).await.ok();
        self.count_rooms();
        let result = |(room, reason): (RoomName, Refusal)| {
            RoomResult::refused(&room, Some(RoomStatus::Removed), reason)
        };
        let results = results.into_iter().map(result).collect();
        let frame = reply::encode("unsubscribed", None::<Id<'_>>, reply::RoomResults { results });
        self.connection.outbox.answer(frame.into()).await;
    }
}
