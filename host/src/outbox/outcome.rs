//! What came of putting something into an outbox, or of waiting.

/// How a frame was enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It was not taken.
    Refused,
    /// Nothing waited before it, so somebody has to flush.
    First,
    /// Behind others, for which somebody flushes or will.
    Behind,
}

/// What became of a frame that waited for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paced {
    Taken,
    /// By then it was not wanted any more.
    Unwanted,
    Closed,
}

/// Frames that left, and bytes of the next that have not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress(pub(super) u64, pub(super) usize);
