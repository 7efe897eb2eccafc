//! What came of putting something into an outbox.

/// How a frame was enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It was not taken.
    Refused,
    /// Nothing waited before it, so somebody has to flush.
    First,
    /// Behind others, for which somebody flushes or will.
    Behind,
}
