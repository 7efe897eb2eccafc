//! Rejects: the errors that a plugin returns to clients.

use std::fmt;

/// The maximum size of a reason, in bytes. Reasons often quote input, and must not grow with it.
const MAX_REASON_BYTES: usize = 512;

/// The kind of a reject. The host translates it into an error code of the wire protocol, depending on the
/// hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// This principal may not do this.
    Denied,
    /// The input is invalid, whoever sends it.
    Invalid,
    /// A limit is reached. The request may succeed later.
    Limit,
    /// The input is too large.
    TooLarge,
    /// The plugin has a bug.
    Internal,
}

/// A refusal of a request.
///
/// The constructors cut the reason to 512 bytes; a cut reason ends with `…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The kind of the reject.
    pub code: Code,
    /// A sentence for the client: what is wrong with which input, and what would be right.
    pub reason: String,
}

impl Reject {
    fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { code, reason: truncated(reason.into()) }
    }

    /// A reject with [`Code::Denied`].
    pub fn denied(reason: impl Into<String>) -> Self {
        Self::new(Code::Denied, reason)
    }

    /// A reject with [`Code::Invalid`].
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::new(Code::Invalid, reason)
    }

    /// A reject with [`Code::Limit`].
    pub fn limit(reason: impl Into<String>) -> Self {
        Self::new(Code::Limit, reason)
    }

    /// A reject with [`Code::TooLarge`].
    pub fn too_large(reason: impl Into<String>) -> Self {
        Self::new(Code::TooLarge, reason)
    }

    /// A reject with [`Code::Internal`].
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

/// Cuts a text to [`MAX_REASON_BYTES`].
pub(crate) fn truncated(mut text: String) -> String {
    if text.len() > MAX_REASON_BYTES {
        text.truncate(text.floor_char_boundary(MAX_REASON_BYTES - '…'.len_utf8()));
        text.push('…');
    }
    text
}
