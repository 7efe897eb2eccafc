//! The messages of rooms in Redis: publishing them in order, receiving them, and reading missed ones from the
//! log. Knows nothing about sessions, except that they need to know when a room may have lost its members.

pub(super) mod listener;
pub(super) mod listener_request;
pub(super) mod publish_queue;
pub(super) mod resync_queue;
pub(super) mod room_subscription;
pub(super) mod schedule;
pub(super) mod unconfirmed_scripts;
