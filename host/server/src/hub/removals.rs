//! The rooms that a connection had to leave without having asked for it. Shards add them, and the session of
//! the connection tells its client. Removes nobody.

use super::command::RemovedSeat;
use futures_util::task::AtomicWaker;
use std::{
    mem,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};
use switchyard_process::lock::LockExt;

/// Removed seats that the client has not been told about. There are at most as many as the connection has
/// joined rooms.
#[derive(Default)]
pub(crate) struct Removals {
    seats: Mutex<Vec<RemovedSeat>>,
    /// How often the key has changed, so that the session has to check its rooms.
    key_changes: AtomicU32,
    /// The changes after which the session has left the rooms that the key does not allow.
    checked_changes: AtomicU32,
    waker: AtomicWaker,
}

/// A change of the key of a connection.
#[derive(Clone, Copy)]
pub(crate) struct KeyChangeCount(u32);

impl Removals {
    pub(super) fn push(&self, removed: RemovedSeat) {
        self.seats.locked().push(removed);
        self.waker.wake();
    }

    /// Has the session check whether the connection may stay in its rooms.
    pub(super) fn request_key_check(&self) {
        self.key_changes.fetch_add(1, Ordering::AcqRel);
        self.waker.wake();
    }

    /// The change of the key after which the rooms were not checked yet. If this is called after
    /// [`poll_take`](Self::poll_take), the task wakes when the key changes.
    pub(crate) fn key_change(&self) -> Option<KeyChangeCount> {
        let change = self.key_changes.load(Ordering::Acquire);
        (change != self.checked_changes.load(Ordering::Acquire)).then_some(KeyChangeCount(change))
    }

    /// The session has left the rooms that the key does not allow after this change.
    pub(crate) fn confirm_key_check(&self, KeyChangeCount(change): KeyChangeCount) {
        self.checked_changes.store(change, Ordering::Release);
    }

    /// All that were added since the last call. Waits until there are some. One task may wait.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Vec<RemovedSeat>> {
        self.waker.register(cx.waker());
        let seats = mem::take(&mut *self.seats.locked());
        if seats.is_empty() { Poll::Pending } else { Poll::Ready(seats) }
    }
}
