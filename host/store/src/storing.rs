//! A message between being handed over to a store and being stored.

use super::{Stored, Unavailable};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::sync::oneshot;

type Outcome = Result<Option<Stored>, Unavailable>;

/// It gets into its room also if nobody waits for it. `None`: it needs a member, and the room has none.
pub enum Storing {
    /// What came of it, until that is taken.
    Done(Option<Outcome>),
    UnderWay(oneshot::Receiver<Outcome>),
}

impl Future for Storing {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match &mut *self {
            Self::Done(outcome) => Poll::Ready(outcome.take().expect("it is not polled after it was ready")),
            Self::UnderWay(outcome) => {
                let closing = |_| Err(Unavailable("the store is closing".to_owned()));
                Pin::new(outcome).poll(cx).map(|outcome| outcome.unwrap_or_else(closing))
            }
        }
    }
}
