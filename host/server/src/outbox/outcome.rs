//! The outcome of putting a frame into an outbox. Decides nothing.

/// The outcome of enqueueing a frame at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutOutcome {
    /// The outbox is closed, or was closed because the frame did not fit.
    Rejected,
    /// The frame is alone in the outbox, so the caller has to flush it.
    First,
    /// The frame is behind others. The task that put the first one flushes them all.
    Queued,
}

/// The outcome of enqueueing a frame once there is space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PacedOutcome {
    /// The frame was enqueued.
    Sent,
    /// When there was space, the caller no longer wanted to send the frame.
    Unwanted,
    /// The outbox closed.
    Closed,
}
