//! A publish that was handed to a store and is not answered yet.

use super::{Stored, Unavailable};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::sync::oneshot;

type Outcome = Result<Option<Stored>, Unavailable>;

/// A publish that was handed to a store: the result of [`Broker::publish`](crate::Broker::publish), as a future.
///
/// The message is stored even if this is dropped. The output is `None` if the message needs a member and the room has none.
pub enum Storing {
    /// The outcome, until it is taken.
    Done(Option<Outcome>),
    /// The outcome will be sent here.
    UnderWay(oneshot::Receiver<Outcome>),
}

impl Future for Storing {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match &mut *self {
            Self::Done(outcome) => Poll::Ready(outcome.take().expect("not polled after it was ready")),
            Self::UnderWay(outcome) => {
                let closing = |_| Err(Unavailable("the store is closing".to_owned()));
                Pin::new(outcome).poll(cx).map(|outcome| outcome.unwrap_or_else(closing))
            }
        }
    }
}
