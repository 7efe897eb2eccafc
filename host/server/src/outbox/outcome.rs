//! What became of a frame that was put into an outbox.

/// What became of a frame that was enqueued at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutOutcome {
    /// The outbox is closed, or was closed because the frame did not fit.
    Rejected,
    /// The frame is alone in the outbox, so somebody has to flush it.
    First,
    /// The frame is behind others. Whoever put the first one flushes them all.
    Queued,
}

/// What became of a frame that waited for space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PacedOutcome {
    Sent,
    /// Once there was space, the caller no longer wanted to send it.
    Unwanted,
    /// The outbox closed.
    Closed,
}
