//! Ends handshakes when the node drains: a client that has not completed its request must not delay the end of
//! the node. Does not end open WebSockets.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// When the node drains, how long a client may still take to complete its request.
const DRAIN_HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(400);

/// Whether a request of one connection is being answered: from the moment at which it is complete until there
/// is an answer to it.
#[derive(Default)]
pub(super) struct RequestState {
    is_answering: AtomicBool,
    has_answered: AtomicBool,
    /// Notified when an answer is ready.
    answered: Notify,
}

impl RequestState {
    pub(super) fn begin_answer(&self) {
        self.is_answering.store(true, Ordering::Relaxed);
    }

    pub(super) fn end_answer(&self) {
        self.has_answered.store(true, Ordering::Relaxed);
        self.is_answering.store(false, Ordering::Relaxed);
        self.answered.notify_waiters();
    }

    /// Whether a request was answered. Its client may not have read the answer yet.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// Waits until no request is being answered.
    async fn idle(&self) {
        loop {
            let answered = self.answered.notified();
            tokio::pin!(answered);
            answered.as_mut().enable();
            if !self.is_answering.load(Ordering::Relaxed) {
                return;
            }
            answered.await;
        }
    }
}

/// Runs a part of a handshake. Once `draining`, the client has [`DRAIN_HANDSHAKE_TIMEOUT`] to complete its
/// request. A request that is being answered is not interrupted.
pub(super) async fn unless_draining<T>(
    draining: &CancellationToken,
    request: &RequestState,
    part: impl Future<Output = T>,
) -> io::Result<T> {
    let given_up = async {
        draining.cancelled().await;
        tokio::time::sleep(DRAIN_HANDSHAKE_TIMEOUT).await;
        request.idle().await;
    };
    tokio::select! {
        // An answer is ready and written in the same step of `part`, so it comes first.
        biased;
        done = part => Ok(done),
        () = given_up => Err(io::Error::other("the node is draining")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn draining_ends_a_handshake_whose_request_is_not_complete() {
        let (draining, request) = (CancellationToken::new(), RequestState::default());
        request.begin_answer();
        let handshake = unless_draining(&draining, &request, std::future::pending::<()>());
        tokio::pin!(handshake);
        let wait = Duration::from_millis(5100);
        assert!(tokio::time::timeout(wait, &mut handshake).await.is_err(), "the node serves");
        draining.cancel();
        assert!(tokio::time::timeout(wait, &mut handshake).await.is_err(), "its request is being answered");
        let answered = Instant::now();
        request.end_answer();
        assert!(handshake.await.is_err());
        assert_eq!(answered.elapsed(), Duration::ZERO, "at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_has_a_moment_after_the_drain_begins() {
        let (draining, request) = (CancellationToken::new(), RequestState::default());
        draining.cancel();
        let began = Instant::now();
        let ended = unless_draining(&draining, &request, std::future::pending::<()>()).await;
        assert!(ended.is_err());
        assert_eq!(began.elapsed(), DRAIN_HANDSHAKE_TIMEOUT);
    }
}
