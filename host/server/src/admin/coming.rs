//! A call whose body is on its way. Until the body is there, or not wanted, it is the peer who keeps the node waiting; from then on the
//! connection is at work for it.

use crate::limits::{Busy, Slot};
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

/// What is kept of the connection while it is at work; nothing before.
pub(super) type AtWork = Arc<Mutex<Option<Busy>>>;

pub(super) struct Coming {
    body: Incoming,
    slot: Arc<Slot>,
    at_work: AtWork,
}

impl Coming {
    /// The body of a call, and whether the connection is at work for it by now.
    pub(super) fn watch(body: Incoming, slot: &Arc<Slot>) -> (Body, AtWork) {
        let at_work = AtWork::default();
        let coming = Self { body, slot: slot.clone(), at_work: at_work.clone() };
        (Body::new(coming), at_work)
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        *self.at_work.lock().expect("no code panics while it holds this") = Some(self.slot.busy());
    }
}

impl HttpBody for Coming {
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
