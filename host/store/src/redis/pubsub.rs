//! Messages of rooms by way of Redis: published in order, listened to, and read again where some were missed. Knows members only as
//! somebody to be told that a room has forgotten them.

pub(super) mod interest;
pub(super) mod listener;
pub(super) mod looks;
pub(super) mod publishing;
pub(super) mod rounds;
pub(super) mod unsure;
