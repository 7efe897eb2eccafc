//! Messages of rooms: published, heard and read again. Knows no sessions and no members.

use crate::{History, Message, PageLimit, Reader, Storing, Unavailable};
use switchyard_process::memory::MemoryShare;
use switchyard_protocol::{Position, room::RoomName};

/// Orders the messages of each room, passes them on to this node and keeps the newest.
///
/// What is passed on comes through the [`Feed`](crate::Feed) that the store was made with, as [`Event`](crate::Event)s.
#[async_trait::async_trait]
pub trait Broker: Send + Sync {
    /// From now on the room's messages come through the feed: after one `Subscribed`, or else one `SubscribeFailed` comes,
    /// and then nothing. To subscribe to a room twice is the same as once, but `Subscribed` comes again.
    fn subscribe(&self, room: &RoomName);

    /// The room's messages are not needed any more. Some may still come that were on their way.
    fn unsubscribe(&self, room: &RoomName);

    /// Gives the message the next offset of its room and keeps it as long as [`Retention`](crate::Retention) says.
    ///
    /// The order of messages of one principal in one room is settled when this returns: the one that was published first has
    /// the smaller offset, whatever happens on their way. After an error the message may still be stored, but never behind
    /// one that was published later; with an idempotency key it can be published again.
    fn publish(&self, message: Message<'_>) -> Storing;

    /// The messages after `after`, or from the oldest held without it: at most as many as `limit` says.
    ///
    /// An `after` of another epoch is answered from the oldest held, with `whole` false. For [`Reader::Other`] nothing is
    /// made: a room that does not exist has no messages and an epoch that no other answer names.
    async fn history(
        &self,
        room: &RoomName,
        after: Option<&Position>,
        limit: PageLimit,
        reader: Reader,
    ) -> Result<History, Unavailable>;

    /// Whether the store may keep more for a principal than it does. Where it is nearly full, that is not so for those for whom
    /// it keeps most. The memory store first drops what clients can be told that they missed.
    fn has_capacity_for(&self, share: &MemoryShare) -> bool;
}
