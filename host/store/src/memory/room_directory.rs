//! The memory store as a room directory: lists, summaries, members and receipts.

use super::{MemoryStore, RoomLog};
use crate::{Members, Receipt, RoomDirectory, RoomSummary, Unavailable};
use switchyard_process::lock::LockExt;

#[async_trait::async_trait]
impl RoomDirectory for MemoryStore {
    async fn flush(&self) -> Result<(), Unavailable> {
        Ok(())
    }

    async fn members(&self, room: &str, max_principals: usize) -> Result<Members, Unavailable> {
        let members = self.with_existing_room(room, |log| log.members.list(max_principals));
        Ok(members.unwrap_or(Members { count: 0, principals: vec![], more: false }))
    }

    async fn receipt(&self, room: &str, offset: u64) -> Result<Option<Receipt>, Unavailable> {
        let receipt = self.with_existing_room(room, |log| {
            let exists = (1..=log.newest().offset).contains(&offset);
            exists.then(|| log.members.receipt(&log.position(offset)))
        });
        Ok(receipt.flatten())
    }

    async fn summary(&self, room: &str) -> Result<Option<RoomSummary>, Unavailable> {
        Ok(self.with_existing_room(room, |log| log.summary()))
    }

    async fn list(&self, after: &str, limit: usize) -> Result<Vec<RoomSummary>, Unavailable> {
        let mut rooms = vec![];
        for stripe in &self.stripes {
            let stripe = stripe.locked();
            rooms.extend(stripe.after(Some(after)).take(limit).map(RoomLog::summary));
        }
        rooms.sort_unstable_by(|a, b| a.room.cmp(&b.room));
        rooms.truncate(limit);
        Ok(rooms)
    }
}
