//! The memory store as a broker: publishing to rooms, and reading their history. How a room keeps its
//! messages is in `room_log`.

use super::{MemoryStore, RoomLog};
use crate::{Broker, Event, History, Message, PageLimit, PendingPublish, Reader, Stored, Unavailable};
use switchyard_process::memory::MemoryShare;
use switchyard_protocol::{Position, room::RoomName};
use tokio::time::Instant;

#[async_trait::async_trait]
impl Broker for MemoryStore {
    fn subscribe(&self, room: &RoomName) {
        self.with_room(room, |log| {
            log.is_subscribed = true;
            (self.feed)(Event::Subscribed { room: log.name.clone(), position: log.newest() });
        });
    }

    fn unsubscribe(&self, room: &RoomName) {
        self.with_existing_room(room, RoomLog::unsubscribe);
    }

    fn publish(&self, message: Message<'_>) -> PendingPublish {
        let publish = |log: &mut RoomLog| {
            let now = Instant::now();
            if let Some(offset) = message.scoped_key().and_then(|key| log.find_duplicate(key, now)) {
                return Some(Stored { position: log.position(offset), duplicate: true });
            }
            if message.needs_member && log.members.is_empty() {
                return None;
            }
            let publication = log.append(&message, &self.retention, now);
            let position = log.position(publication.offset);
            if log.is_subscribed {
                // Under the lock, so that the feed receives the messages in the order of their offsets.
                (self.feed)(Event::Published(publication));
            }
            Some(Stored { position, duplicate: false })
        };
        let stored = match message.needs_member {
            true => self.with_existing_room(message.room, publish).flatten(),
            false => self.with_room(message.room, publish),
        };
        if self.account.is_under_pressure() {
            self.evict();
        }
        PendingPublish::Ready(Some(Ok(stored)))
    }

    fn find_stored(&self, room: &RoomName, principal: &str, idempotency_key: &str) -> Option<Position> {
        let find = |log: &mut RoomLog| {
            let offset = log.find_duplicate((principal, idempotency_key), Instant::now())?;
            Some(log.position(offset))
        };
        self.with_existing_room(room, find).flatten()
    }

    async fn history(
        &self,
        room: &RoomName,
        after: Option<&Position>,
        limit: PageLimit,
        reader: Reader,
    ) -> Result<History, Unavailable> {
        let read = match reader {
            Reader::Member => Some(self.with_room(room, |log| log.read(after, limit))),
            Reader::Other => self.with_existing_room(room, |log| log.read(after, limit)),
        };
        // Reading creates no room. No other answer will name the epoch of this temporary one.
        Ok(read
            .unwrap_or_else(|| RoomLog::new(room.shared(), Instant::now(), &self.account).read(after, limit)))
    }

    async fn clear_history(&self, room: &RoomName, epoch: &str) -> Result<(), Unavailable> {
        self.with_existing_room(room, |log| {
            if *log.epoch != *epoch {
                return;
            }
            log.begin_epoch();
            if log.is_subscribed {
                (self.feed)(Event::Lost { room: log.name.clone(), position: log.newest() });
            }
        });
        Ok(())
    }

    fn has_capacity_for(&self, share: &MemoryShare) -> bool {
        if !self.account.is_under_pressure() {
            return true;
        }
        self.evict();
        share.may_grow()
    }
}
