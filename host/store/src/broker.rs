//! The trait of a store's messages: publishing them, receiving them and reading them again. Knows no sessions
//! and no members.

use crate::{History, Message, PageLimit, PendingPublish, Reader, Unavailable};
use switchyard_process::memory::MemoryShare;
use switchyard_protocol::{Position, room::RoomName};

/// Orders the messages of each room, delivers them to this node, and keeps the newest ones.
///
/// Messages are delivered as [`Event`](crate::Event)s, through the [`EventFeed`](crate::EventFeed) that the
/// store was created with.
#[async_trait::async_trait]
pub trait Broker: Send + Sync {
    /// Asks for the messages of a room. Returns at once.
    ///
    /// One [`Subscribed`](crate::Event::Subscribed) comes through the feed, and after it the messages; or one
    /// [`SubscribeFailed`](crate::Event::SubscribeFailed), and after it nothing. To subscribe to a room again
    /// changes nothing, except that another `Subscribed` comes.
    fn subscribe(&self, room: &RoomName);

    /// Ends the delivery of a room's messages. Those that are already on their way may still be delivered.
    fn unsubscribe(&self, room: &RoomName);

    /// Gives the message the next offset of its room, and keeps it as long as [`Retention`](crate::Retention)
    /// says.
    ///
    /// When this returns, before the result is awaited, the order of one principal's messages in one room is
    /// settled: what was published first gets the smaller offset, whatever happens on the way. The message is
    /// stored even if the result is dropped.
    ///
    /// # Errors
    ///
    /// The awaited result fails if the store did not confirm the message. It may still be stored, but never
    /// after a message that was published later. With an idempotency key it is safe to publish it again.
    fn publish(&self, message: Message<'_>) -> PendingPublish;

    /// The position of a message that this node knows to be stored with this idempotency key of a principal. A
    /// store outside of this process may know of more.
    fn find_stored(&self, room: &RoomName, principal: &str, idempotency_key: &str) -> Option<Position>;

    /// Reads the messages after `after`, or without it from the oldest one: at most as many as `limit`
    /// allows.
    ///
    /// If `after` is of another epoch than the room, the answer starts with the oldest message, and `whole`
    /// is false. [`Reader`] says what happens if the room does not exist.
    ///
    /// # Errors
    ///
    /// If the store does not answer in time.
    async fn history(
        &self,
        room: &RoomName,
        after: Option<&Position>,
        limit: PageLimit,
        reader: Reader,
    ) -> Result<History, Unavailable>;

    /// Ends this epoch of a room, and starts a new one without messages. Nodes that receive its messages are told with
    /// [`Lost`](crate::Event::Lost). Does nothing if the room has another epoch or does not exist.
    ///
    /// # Errors
    ///
    /// If the store does not answer in time. The history may be gone nevertheless.
    async fn clear_history(&self, room: &RoomName, epoch: &str) -> Result<(), Unavailable>;

    /// Whether the store may keep more for the principal of this share. A store that is nearly full refuses
    /// principals for which it keeps much. The memory store first evicts what clients can be told that they
    /// missed.
    fn has_capacity_for(&self, share: &MemoryShare) -> bool;
}
