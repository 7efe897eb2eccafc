//! The requests that a client sends, and the `id` that matches an answer to its request.

use crate::{
    Position, envelope,
    request::{Ack, Credentials, Publish},
};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

/// The `id` that a client gives to a request, which the answer repeats.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RequestId {
    /// A number, which is all that most clients need.
    Number(u64),
    /// A text.
    Text(String),
}

impl From<u64> for RequestId {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for RequestId {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl RequestId {
    /// The number, if it is one.
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(_) => None,
        }
    }
}

/// A request as a client writes it. The server reads it as [`crate::Request`].
///
/// It has no `Debug`, because it may contain the key and the session token.
#[derive(Serialize)]
#[serde(untagged)]
pub enum ClientRequest<'a> {
    /// `connect`: authenticate. Must be the first frame of a connection.
    Connect {
        /// The key or token; `None` if the upgrade presented it in a header.
        #[serde(rename = "auth", skip_serializing_if = "Option::is_none")]
        credentials: Option<Credentials<'a>>,
        /// The token of the session to resume.
        #[serde(skip_serializing_if = "Option::is_none")]
        session: Option<&'a str>,
    },
    /// `refresh`: go on with another key or token of the same principal.
    Refresh {
        /// The key or token.
        #[serde(rename = "auth")]
        credentials: Credentials<'a>,
    },
    /// `subscribe`: join rooms.
    Subscribe {
        /// 1 to [`MAX_ROOMS_PER_FRAME`](crate::request::MAX_ROOMS_PER_FRAME) entries.
        rooms: &'a [SubscribeEntry<'a>],
    },
    /// `unsubscribe`: leave rooms.
    Unsubscribe {
        /// 1 to [`MAX_ROOMS_PER_FRAME`](crate::request::MAX_ROOMS_PER_FRAME) names.
        rooms: &'a [&'a str],
    },
    /// `publish`: send a message to a room.
    Publish(Publish<'a>),
    /// `ack`: messages are handled.
    Ack {
        /// At most [`MAX_ROOMS_PER_FRAME`](crate::request::MAX_ROOMS_PER_FRAME) rooms, each of them once.
        #[serde(rename = "offsets", serialize_with = "offsets")]
        acks: &'a [Ack<'a>],
    },
    /// `members`: list who is in a room.
    Members {
        /// The name of the room.
        room: &'a str,
    },
    /// `history`: read stored messages of a room.
    History {
        /// The name of the room.
        room: &'a str,
        /// The position to start after; `None` for the oldest stored message.
        #[serde(skip_serializing_if = "Option::is_none")]
        since: Option<&'a Position>,
        /// How many messages to return, 1 to [`MAX_HISTORY_MESSAGES`](crate::request::MAX_HISTORY_MESSAGES);
        /// [`DEFAULT_HISTORY_MESSAGES`](crate::request::DEFAULT_HISTORY_MESSAGES) if it is `None`.
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// `ping`: check that the connection is alive, where WebSocket pings are not visible.
    Ping {},
}

/// A room to subscribe to.
#[derive(Clone, Debug, Serialize)]
pub struct SubscribeEntry<'a> {
    /// The name of the room.
    pub room: &'a str,
    /// A JSON object, whose meaning the room's plugin defines. It is sent byte for byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<&'a RawValue>,
    /// The position up to which the client has everything; what came after it is replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Position>,
}

impl ClientRequest<'_> {
    /// The text of the frame. Without an `id`, the answer has none either; an `ack` without one is never
    /// answered.
    pub fn encode(&self, id: Option<RequestId>) -> String {
        envelope::encode(self.kind(), id, self)
    }

    /// The `type` of the frame.
    fn kind(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Refresh { .. } => "refresh",
            Self::Subscribe { .. } => "subscribe",
            Self::Unsubscribe { .. } => "unsubscribe",
            Self::Publish(_) => "publish",
            Self::Ack { .. } => "ack",
            Self::Members { .. } => "members",
            Self::History { .. } => "history",
            Self::Ping {} => "ping",
        }
    }
}

fn offsets<S: Serializer>(acks: &&[Ack], to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Offset<'a> {
        Alone(u64),
        WithEpoch { epoch: &'a str, offset: u64 },
    }
    to.collect_map(acks.iter().map(|Ack { room, epoch, offset }| {
        let offset = match epoch {
            Some(epoch) => Offset::WithEpoch { epoch, offset: *offset },
            None => Offset::Alone(*offset),
        };
        (room, offset)
    }))
}
