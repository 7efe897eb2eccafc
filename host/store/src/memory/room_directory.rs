//! Rooms in memory, as operators look at them.

use super::{HELD, Log, Memory};
use crate::{Members, Receipt, RoomDirectory, RoomSummary, Unavailable};

#[async_trait::async_trait]
impl RoomDirectory for Memory {
    async fn members(&self, room: &str, most: usize) -> Result<Members, Unavailable> {
        let members = self.existing(room, |log| log.members.list(most));
        Ok(members.unwrap_or(Members { count: 0, principals: vec![], more: false }))
    }

    async fn receipt(&self, room: &str, offset: u64) -> Result<Option<Receipt>, Unavailable> {
        let receipt = self.existing(room, |log| {
            let known = (1..=log.newest().offset).contains(&offset);
            known.then(|| log.members.receipt(&log.position(offset)))
        });
        Ok(receipt.flatten())
    }

    async fn summary(&self, room: &str) -> Result<Option<RoomSummary>, Unavailable> {
        Ok(self.existing(room, |log| log.summary()))
    }

    async fn list(&self, after: &str, limit: usize) -> Result<Vec<RoomSummary>, Unavailable> {
        let mut rooms = vec![];
        for stripe in &self.rooms {
            let logs = stripe.lock().expect(HELD);
            rooms.extend(logs.values().filter(|log| *log.name > *after).map(Log::summary));
        }
        rooms.sort_by(|a, b| a.room.cmp(&b.room));
        rooms.truncate(limit);
        Ok(rooms)
    }
}
