//! Publishing to rooms in memory and reading them. How a room keeps its messages is `log`'s affair.

use super::{Log, Memory};
use crate::{Broker, Event, History, Message, PageLimit, Reader, Stored, Storing, Unavailable};
use switchyard_process::memory::MemoryShare;
use switchyard_protocol::{Position, room::RoomName};
use tokio::time::Instant;

#[async_trait::async_trait]
impl Broker for Memory {
    fn subscribe(&self, room: &RoomName) {
        self.with(room, |log| {
            log.is_subscribed = true;
            (self.feed)(Event::Subscribed { room: log.name.clone(), position: log.newest() });
        });
    }

    fn unsubscribe(&self, room: &RoomName) {
        self.existing(room, Log::unsubscribe);
    }

    fn publish(&self, message: Message<'_>) -> Storing {
        let publish = |log: &mut Log| {
            let now = Instant::now();
            if let Some(offset) = message.once().and_then(|once| log.known(once, now)) {
                return Some(Stored { position: log.position(offset), duplicate: true });
            }
            if message.needs_member && log.members.is_empty() {
                return None;
            }
            let publication = log.append(&message, &self.retention, now);
            let position = log.position(publication.offset);
            if log.is_subscribed {
                // Under the lock, so that the feed has the order of the offsets.
                (self.feed)(Event::Published(publication));
            }
            Some(Stored { position, duplicate: false })
        };
        let stored = match message.needs_member {
            true => self.existing(message.room, publish).flatten(),
            false => self.with(message.room, publish),
        };
        if self.account.is_under_pressure() {
            self.relieve();
        }
        Storing::Done(Some(Ok(stored)))
    }

    async fn history(
        &self,
        room: &RoomName,
        after: Option<&Position>,
        limit: PageLimit,
        reader: Reader,
    ) -> Result<History, Unavailable> {
        let read = match reader {
            Reader::Member => Some(self.with(room, |log| log.read(after, limit))),
            Reader::Other => self.existing(room, |log| log.read(after, limit)),
        };
        // Whoever only reads makes no room: the epoch of this one nobody else is told.
        Ok(read.unwrap_or_else(|| Log::new(room.shared(), Instant::now(), &self.account).read(after, limit)))
    }

    fn has_capacity_for(&self, share: &MemoryShare) -> bool {
        if !self.account.is_under_pressure() {
            return true;
        }
        self.relieve();
        share.may_grow()
    }
}
