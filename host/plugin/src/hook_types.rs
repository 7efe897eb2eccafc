//! What hooks are asked and what they answer, in the host's own types. The generated types of the contract
//! are in `bindings.rs`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Maximum length, in bytes, of a plugin's reason as it is shown to a client: a sentence or two, never a dump.
const MAX_REASON_BYTES: usize = 512;

/// The principal on whose behalf a hook is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Principal {
    /// The principal's name, as the configuration of its keys gives it.
    pub id: Arc<str>,
    /// The id of the key that was presented.
    pub key_id: Arc<str>,
    /// The tier of the key; `default` for a key without one.
    pub tier: Arc<str>,
    /// Key and value of each tag.
    pub tags: Vec<(String, String)>,
}

impl Principal {
    /// A principal without tags.
    pub fn new(id: impl Into<Arc<str>>, key_id: impl Into<Arc<str>>, tier: impl Into<Arc<str>>) -> Self {
        Self { id: id.into(), key_id: key_id.into(), tier: tier.into(), tags: vec![] }
    }
}

/// A connection whose API key is valid: the input of the `connect` hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct ConnectRequest {
    /// The principal that owns the key.
    pub principal: Principal,
    /// The peer's address, in the form in which the host shows it to plugins.
    pub remote: String,
    /// The `Origin` header, which browsers send.
    pub origin: Option<String>,
    /// Names, in lower case, and values of further headers. A plugin sees only those that its configuration
    /// lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

impl ConnectRequest {
    /// A request without `Origin` and further headers.
    pub fn new(principal: Principal, remote: impl Into<String>) -> Self {
        Self { principal, remote: remote.into(), origin: None, headers: vec![] }
    }

    /// How many bytes of text it has.
    pub(crate) fn size(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        self.principal.id.len() + self.remote.len() + self.origin.as_ref().map_or(0, String::len) + headers
    }
}

/// How a message reached the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// Over the publisher's WebSocket.
    #[default]
    WebSocket,
    /// Over the HTTP API.
    Http,
}

/// A message that is about to be published: the input of the `publish` hook.
#[derive(Clone, Copy, Debug)]
pub struct PublishRequest<'a> {
    /// The publisher.
    pub principal: &'a Principal,
    /// The canonical name of the room.
    pub room: &'a str,
    /// Empty for a message without an event.
    pub event: &'a str,
    /// JSON.
    pub data: &'a [u8],
    /// How the message came.
    pub via: Via,
    /// The key under which the publisher may repeat the message.
    pub idempotency_key: Option<&'a str>,
}

impl<'a> PublishRequest<'a> {
    /// A message that came over a WebSocket, without an idempotency key.
    pub fn new(principal: &'a Principal, room: &'a str, event: &'a str, data: &'a [u8]) -> Self {
        Self { principal, room, event, data, via: Via::WebSocket, idempotency_key: None }
    }
}

/// How many rooms and members there are besides the subscription in question, on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Counts {
    /// Other rooms of this plugin that the connection holds.
    pub of_connection: u32,
    /// Other rooms of this plugin that all connections of the principal hold.
    pub of_principal: u32,
    /// Members of the room.
    pub in_room: u32,
}

/// Limits that a plugin sets. They narrow what the configuration allows; `None` leaves it unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Maximum number of rooms of a connection. In a subscription's answer, only rooms of this plugin count.
    pub rooms: Option<u32>,
    /// Maximum number of messages published per second.
    pub publishes_per_second: Option<u32>,
    /// Maximum size of one message's data, in bytes.
    pub message_bytes: Option<u32>,
}

/// An instance's answer about a room name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomVerdict {
    /// The name to use instead; `None` keeps the name.
    pub canonical: Option<String>,
    /// How long the host may reuse the answer; zero means never.
    pub cache: Duration,
}

/// An instance's answer about a subscription. The filter is still text; a [`Governor`](super::Governor)
/// compiles it and returns a [`SubscriptionGrant`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UncompiledGrant {
    /// The filter in canonical form; `None` lets every message through.
    pub filter: Option<String>,
    /// What the plugin allows the principal in this room.
    pub limits: Limits,
}

/// A subscription that the plugin allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionGrant {
    /// The compiled filter; `None` lets every message through. The receiver owns one reference to it, and
    /// returns it with [`Governor::release`](super::Governor::release).
    pub filter: Option<super::FilterId>,
    /// What the plugin allows the principal in this room.
    pub limits: Limits,
}

/// What becomes of a published message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The message is sent unchanged.
    Pass,
    /// This JSON is sent instead of the message's data.
    Replace(Vec<u8>),
    /// The publisher gets a positive answer, and nothing is sent.
    Discard,
}

/// The reason for a [`Rejection`]. The host translates it into an error code of the wire protocol, which
/// depends on the hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectionCode {
    /// The principal may not do this.
    Denied,
    /// The input is not valid.
    Invalid,
    /// A limit is reached.
    Limit,
    /// The input is too large.
    TooLarge,
    /// The plugin could not answer: it failed, is quarantined, or reported an internal error.
    Failed,
}

/// A negative answer, from the plugin or from the host in its place. The message may be shown to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// Why the request is rejected.
    pub code: RejectionCode,
    /// What is wrong, in at most 512 bytes on one line.
    pub message: String,
}

impl Rejection {
    pub(super) fn new(code: RejectionCode, message: impl fmt::Display) -> Self {
        Self { code, message: clip(&message.to_string(), MAX_REASON_BYTES) }
    }

    pub(super) fn failed(message: impl fmt::Display) -> Self {
        Self::new(RejectionCode::Failed, message)
    }
}

/// `text` on one line and cut to `max` bytes, at a character boundary. Text from a plugin can therefore
/// neither forge lines of the log nor fill it.
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
    fn text_is_cut_at_a_character_boundary_and_kept_on_one_line() {
        assert_eq!(clip("short", 512), "short");
        assert_eq!(clip("a\nb\x1b[31m", 512), "a b [31m");
        assert_eq!(clip("ääää", 3), "ä…");
        assert_eq!(Rejection::failed("é".repeat(600)).message.len(), 512 + '…'.len_utf8());
    }
}
