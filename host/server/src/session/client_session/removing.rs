//! Tells the client which rooms it had to leave because of somebody else, such as a plugin that governs a room now.
//! The room itself has let the connection go already. Does not decide who has to leave.

use super::ClientSession;
use crate::hub::{RemovedSeat, Seat};
use switchyard_protocol::{
    Id, Refusal,
    reply::{self, RoomResult, RoomStatus},
    room::RoomName,
};

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
        if results.is_empty() {
            return;
        }
        let rooms = results.iter().map(|(room, _)| room.clone()).collect();
        // If the store does not answer, a resume finds the rooms, and their plugin judges again.
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
