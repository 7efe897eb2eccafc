//! Messages of rooms by way of Redis: published in order, received, and read from the log where some were missed. Of
//! sessions it knows only that they are to be told when a room may have forgotten its members.

pub(super) mod listener;
pub(super) mod listener_request;
pub(super) mod publish_queue;
pub(super) mod resync_queue;
pub(super) mod room_subscription;
pub(super) mod schedule;
pub(super) mod unconfirmed_scripts;
