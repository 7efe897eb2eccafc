//! The rooms that a connection had to leave without having asked for it. Shards add them, and the session of
//! the connection tells its client. Removes nobody.

use super::command::RemovedSeat;
use futures_util::task::AtomicWaker;
use std::{
    mem,
    sync::Mutex,
    task::{Context, Poll},
};
use switchyard_process::lock::LockExt;

/// Removed seats that the client has not been told about. There are at most as many as the connection has
/// joined rooms.
#[derive(Default)]
pub(crate) struct Removals {
    seats: Mutex<Vec<RemovedSeat>>,
    waker: AtomicWaker,
}

impl Removals {
    pub(super) fn push(&self, removed: RemovedSeat) {
        self.seats.locked().push(removed);
        self.waker.wake();
    }

    /// All that were added since the last call. Waits until there are some. One task may wait.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Vec<RemovedSeat>> {
        self.waker.register(cx.waker());
        let seats = mem::take(&mut *self.seats.locked());
        if seats.is_empty() { Poll::Pending } else { Poll::Ready(seats) }
    }
}
