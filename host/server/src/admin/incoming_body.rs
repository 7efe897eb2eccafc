//! The body of a call that is still being received. Until it is complete, or is not wanted, the node waits
//! for the peer, and the connection may be closed to make room for another. After that the node works for the
//! peer.

use crate::limits::{EvictionGuard, Slot};
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};
use switchyard_process::lock::LockExt;

/// Keeps the connection from being closed; `None` while the body is being received.
pub(super) type BusyGuard = Arc<Mutex<Option<EvictionGuard>>>;

pub(super) struct IncomingBody {
    body: Incoming,
    slot: Arc<Slot>,
    busy: BusyGuard,
}

impl IncomingBody {
    /// The body, and a guard that marks the connection as busy from the end of the body until it is dropped.
    pub(super) fn watch(body: Incoming, slot: &Arc<Slot>) -> (Body, BusyGuard) {
        let busy = BusyGuard::default();
        let incoming = Self { body, slot: slot.clone(), busy: busy.clone() };
        (Body::new(incoming), busy)
    }
}

impl Drop for IncomingBody {
    fn drop(&mut self) {
        *self.busy.locked() = Some(self.slot.busy());
    }
}

impl HttpBody for IncomingBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
