//! Why something is refused.

use std::fmt;

/// A reason's most bytes: clients' input is repeated in reasons, and must not come back at its own length.
const REASON_BYTES: usize = 512;

/// The host turns it into the wire's code for the hook that was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Not to this principal.
    Denied,
    /// Not to anybody: the input is wrong.
    Invalid,
    /// Not now: something is used up.
    Limit,
    TooLarge,
    /// The plugin's own fault.
    Internal,
}

/// A refusal. The client reads `reason`: say what was wrong with which input and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    pub code: Code,
    pub reason: String,
}

impl Reject {
    fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { code, reason: shortened(reason.into()) }
    }

    pub fn denied(reason: impl Into<String>) -> Self {
        Self::new(Code::Denied, reason)
    }

    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::new(Code::Invalid, reason)
    }

    pub fn limit(reason: impl Into<String>) -> Self {
        Self::new(Code::Limit, reason)
    }

    pub fn too_large(reason: impl Into<String>) -> Self {
        Self::new(Code::TooLarge, reason)
    }

    pub fn internal(reason: impl Into<String>) -> Self {
        Self::new(Code::Internal, reason)
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Reject {}

/// Cuts a text to what a reason may hold.
pub(crate) fn shortened(mut text: String) -> String {
    if text.len() > REASON_BYTES {
        text.truncate(text.floor_char_boundary(REASON_BYTES - '…'.len_utf8()));
        text.push('…');
    }
    text
}
