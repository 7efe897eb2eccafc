//! What the server sends besides deliveries: the bodies of its answers, and their encoding. Decides nothing.
//!
//! The types of this module are what `serde` reads and writes between `type` and `id`; [`encode`] adds those
//! two. A client reads the frames with [`crate::client::parse`], into the same types.

mod history;

pub use history::HistoryReply;

pub use crate::envelope::encode;

use crate::{Id, Refusal};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{sync::Arc, time::Duration};

/// What became of a room: an entry of `results` in `subscribed` and `unsubscribed`, and of `rooms` in
/// `connected`.
///
/// `E` is the error object: the server writes a [`Refusal`], a client reads a [`crate::client::ServerError`].
#[derive(Debug, Serialize, Deserialize)]
pub struct RoomResult<E = Refusal> {
    /// The name that deliveries carry.
    pub room: Arc<str>,
    /// Only in `subscribed` and `unsubscribed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<RoomStatus>,
    /// The name that the client sent, if a plugin knows the room by another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested: Option<String>,
    /// The epoch of the room, if the client is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Arc<str>>,
    /// The newest offset of the room, if the client is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Whether everything that the client has missed follows as deliveries. In `subscribed` only if the
    /// request had a position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
    /// The filter in effect, as JSON text. Only in `connected`, and absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Box<RawValue>>,
    /// Why the room was rejected, or could not be rejoined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<E>,
}

/// What became of one room of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoomStatus {
    /// The connection is in the room.
    Subscribed,
    /// The connection has left the room.
    Unsubscribed,
    /// Nothing has changed; the result has an `error`.
    Rejected,
    /// The connection had to leave the room, although the client did not ask for it. The result has an `error`
    /// with the reason. Only in an `unsubscribed` that answers no request.
    Removed,
    /// A status that this version does not know. The server never writes it.
    #[serde(other)]
    Unknown,
}

impl<E> RoomResult<E> {
    /// A result that says nothing but the name.
    pub fn new(room: Arc<str>) -> Self {
        Self {
            room,
            status: None,
            requested: None,
            epoch: None,
            offset: None,
            recovered: None,
            filter: None,
            error: None,
        }
    }

    /// The connection has left the room.
    pub fn unsubscribed(room: &str) -> Self {
        Self { status: Some(RoomStatus::Unsubscribed), ..Self::new(room.into()) }
    }

    /// The request for this room was refused. `status` is that of the answer, `None` in `connected`.
    pub fn refused(room: &str, status: Option<RoomStatus>, error: E) -> Self {
        Self { status, error: Some(error), ..Self::new(room.into()) }
    }
}

/// The body of `connected`.
///
/// It has no `Debug`, because it contains the session token.
#[derive(Serialize, Deserialize)]
pub struct Connected<E = Refusal> {
    /// Identifies the connection to operators.
    pub connection: String,
    /// The secret token that resumes the session.
    pub session: String,
    /// Whether the session that the client asked for was restored.
    pub resumed: bool,
    /// Whose key it is.
    pub principal: PrincipalInfo,
    /// How both sides notice that the other one is gone.
    pub heartbeat: HeartbeatInfo,
    /// What this connection may do.
    pub limits: ConnectionLimits,
    /// When the key or token expires, in Unix milliseconds. Absent if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// The server's clock, in Unix milliseconds: the client's may differ. Present if `expires` is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
    /// All rooms of the session; empty for a new one.
    #[serde(default = "Vec::new")]
    pub rooms: Vec<RoomResult<E>>,
}

/// The body of `refreshed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// When the new key or token expires, in Unix milliseconds. Absent if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// The server's clock, in Unix milliseconds. Present if `expires` is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
}

/// The principal that owns the key of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalInfo {
    /// Its name.
    pub id: Arc<str>,
    /// The tier of the key.
    pub tier: Arc<str>,
}

/// The times of the heartbeat, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatInfo {
    /// How often the server pings.
    pub interval: u64,
    /// How much longer than the interval a peer may be silent.
    pub timeout: u64,
}

impl HeartbeatInfo {
    /// How long a peer may be silent before the other side considers the connection dead: `interval + timeout`.
    pub fn max_silence(&self) -> Duration {
        Duration::from_millis(self.interval.saturating_add(self.timeout))
    }
}

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionLimits {
    /// How many rooms it may subscribe to.
    pub rooms: u32,
    /// How many bytes the `data` of a message may have.
    #[serde(rename = "messageBytes")]
    pub message_bytes: usize,
}

/// The body of `subscribed` and `unsubscribed`.
#[derive(Debug, Serialize, Deserialize)]
pub struct RoomResults<E = Refusal> {
    /// One result for each entry of the request, in the same order.
    pub results: Vec<RoomResult<E>>,
}

/// The body of `published`, and of the answer to the same request over HTTP: the message is stored and handed
/// to routing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The name of the room.
    pub room: Arc<str>,
    /// The epoch of the offset.
    pub epoch: Arc<str>,
    /// The offset of the message.
    pub offset: u64,
    /// A message with the same `key` was published before: `offset` is that of the first one, and nothing was
    /// sent.
    #[serde(default, skip_serializing_if = "is_false")]
    pub duplicate: bool,
    /// The room's plugin accepted the message and dropped it: `offset` is the room's newest.
    #[serde(default, skip_serializing_if = "is_false")]
    pub discarded: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The body of `members`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersReply {
    /// The name of the room.
    pub room: Arc<str>,
    /// The number of sessions in the room, including those that are disconnected but can be resumed.
    pub count: usize,
    /// At most 100 principals, sorted and without duplicates.
    pub principals: Vec<Arc<str>>,
    /// Whether there are other principals.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
}

/// The body of `pong`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The server's time in Unix milliseconds.
    pub time: u64,
}

/// The body of `error`, and of every HTTP error.
#[derive(Serialize)]
pub struct ErrorBody<'a> {
    /// The error object.
    pub error: &'a Refusal,
}

/// The text of an `error`.
pub fn error(id: Option<Id>, refusal: &Refusal) -> String {
    encode("error", id, ErrorBody { error: refusal })
}

/// The text of a `pong`. `time` is the current time in Unix milliseconds.
pub fn pong(id: Option<Id>, time: u64) -> String {
    encode("pong", id, Pong { time })
}

/// The text of a `gap`: messages of the room before `offset` were lost to this connection. `room` and `epoch`
/// must not need escaping in JSON.
pub fn gap(room: &str, epoch: &str, offset: u64) -> String {
    format!(r#"{{"type":"gap","room":"{room}","epoch":"{epoch}","offset":{offset}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;

    #[test]
    fn an_error_repeats_the_id() {
        let parsed = crate::request::parse(r#"{"type":"ping","id":"a"}"#).unwrap();
        let text = error(parsed.0, &Refusal::new(ErrorCode::Forbidden, "no"));
        assert_eq!(text, r#"{"type":"error","id":"a","error":{"code":"forbidden","message":"no"}}"#);
    }
}
