//! What hooks are asked and what they answer, in the host's own types.

use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Bytes of a guest's reason that a client is shown: a sentence or two, never a dump.
const MAX_REASON: usize = 512;

/// Who is asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principal {
    pub id: String,
    /// `default` for a key without one.
    pub tier: String,
    pub tags: Vec<(String, String)>,
}

/// A connection whose key was found good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connecting {
    pub principal: Principal,
    /// The peer's address, as the host wants plugins to see it.
    pub remote: String,
    /// The `Origin` header, of a browser.
    pub origin: Option<String>,
}

/// What there is beside a subscription: other rooms of this plugin held by the connection, the same held by all
/// connections of the principal, members in the room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub of_connection: u32,
    pub of_principal: u32,
    pub in_room: u32,
}

/// Narrows what the configuration allows; `None` leaves it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    pub rooms: Option<u32>,
    pub publishes_per_second: Option<u32>,
    /// Bytes of one message's data.
    pub message_bytes: Option<u32>,
}

/// An instance's answer about a room name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomVerdict {
    /// The name to use instead.
    pub canonical: Option<String>,
    /// For how long the answer may be given again; zero is never.
    pub cache: Duration,
}

/// An instance's answer about a subscription: the filter as text, not yet compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// The canonical form; `None` is every message.
    pub filter: Option<String>,
    pub limits: Limits,
}

/// A subscription that the plugin allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The interned filter, of which the receiver holds one reference, to be given back with
    /// [`Governor::release`](super::Governor::release); `None` is every message.
    pub filter: Option<super::FilterId>,
    pub limits: Limits,
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// The JSON to send instead.
    Replace(Vec<u8>),
    /// The publisher is answered well and nothing is sent.
    Discard,
}

/// Why something is refused. The host turns it into the wire's code for the hook that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    Denied,
    Invalid,
    Limit,
    TooLarge,
    /// The plugin could not answer: it failed, is quarantined, or said so itself.
    Failed,
}

/// A refusal whose message may be shown to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub code: RefusalCode,
    pub message: String,
}

impl Refusal {
    pub(super) fn new(code: RefusalCode, message: impl fmt::Display) -> Self {
        Self { code, message: clip(&message.to_string(), MAX_REASON) }
    }

    pub(super) fn failed(message: impl fmt::Display) -> Self {
        Self::new(RefusalCode::Failed, message)
    }
}

/// `text` on one line and at most `max` bytes long, cut between characters: text of a guest cannot forge
/// lines of a log or fill it.
pub(super) fn clip(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut clipped = text[..end].replace(char::is_control, " ");
    if end < text.len() {
        clipped.push('…');
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters_and_kept_on_one_line() {
        assert_eq!(clip("short", 512), "short");
        assert_eq!(clip("a\nb\x1b[31m", 512), "a b [31m");
        assert_eq!(clip("ääää", 3), "ä…");
        assert_eq!(Refusal::failed("é".repeat(600)).message.len(), 512 + '…'.len_utf8());
    }
}
