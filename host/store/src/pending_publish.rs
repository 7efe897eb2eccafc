//! A message that was handed to a store and is not confirmed yet. Knows nothing of how the store publishes
//! it.

use super::{Stored, Unavailable};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::sync::oneshot;

/// Where the message was stored; `None` if it needs a member and the room has none.
pub(crate) type PublishResult = Result<Option<Stored>, Unavailable>;

/// The result of [`Broker::publish`](crate::Broker::publish), as a future.
///
/// The message is stored even if this is dropped. The output is `None` if the message needs a member and the
/// room has none.
pub enum PendingPublish {
    /// The result is known. It is `None` once it was taken.
    Ready(Option<Result<Option<Stored>, Unavailable>>),
    /// The result will be sent here.
    Pending(oneshot::Receiver<Result<Option<Stored>, Unavailable>>),
}

impl Future for PendingPublish {
    type Output = PublishResult;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<PublishResult> {
        match &mut *self {
            Self::Ready(result) => Poll::Ready(result.take().expect("not polled after it was ready")),
            Self::Pending(result) => {
                let closing = |_| Err(Unavailable("the store is closing".to_owned()));
                Pin::new(result).poll(cx).map(|result| result.unwrap_or_else(closing))
            }
        }
    }
}
