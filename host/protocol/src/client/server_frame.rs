//! What the server sends, as a client reads it. Does not match answers to requests.

use super::{RequestId, ServerError};
use crate::{
    reply::{Connected, MembersReply, Pong, Published, Refreshed, RoomResults},
    request::fields::{JsonString, object},
};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::{borrow::Cow, sync::Arc};

/// A frame that the server sent.
pub enum ServerFrame<'a> {
    /// `connected`: the answer to `connect`.
    Connected(Connected<ServerError>),
    /// `refreshed`: the answer to `refresh`.
    Refreshed(Refreshed),
    /// `subscribed`: the answer to `subscribe`, room by room.
    Subscribed(RoomResults<ServerError>),
    /// `unsubscribed`: the answer to `unsubscribe`, room by room.
    Unsubscribed(RoomResults<ServerError>),
    /// `published`: the answer to `publish`.
    Published(Published),
    /// `members`: the answer to `members`.
    Members(MembersReply),
    /// `history`: the answer to `history`.
    History(HistoryPage<'a>),
    /// `pong`: the answer to `ping`.
    Pong(Pong),
    /// `message`: a delivery.
    Message(Delivery<'a>),
    /// `gap`: messages were lost to this connection.
    Gap(Gap<'a>),
    /// `error`: the request was refused.
    Error(ServerError),
    /// A frame of a type that this version does not know, which a client ignores. Its `type`.
    Unknown(Cow<'a, str>),
}

/// A message, as `message` delivers it and `history` returns it. The epoch of the offset is the one in the
/// most recent `subscribed`, `connected`, `gap` or `history` for the room.
#[derive(Clone, Debug, Deserialize)]
pub struct Delivery<'a> {
    /// The name of the room.
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    /// Rises from message to message in one room and epoch.
    pub offset: u64,
    /// The kind of message, if the publisher named one.
    #[serde(borrow, default, deserialize_with = "optional_string")]
    pub event: Option<Cow<'a, str>>,
    /// The principal that published the message, in rooms whose deliveries name it.
    #[serde(borrow, default, deserialize_with = "optional_string")]
    pub from: Option<Cow<'a, str>>,
    /// When the server stored the message, in Unix milliseconds.
    pub time: u64,
    /// The JSON text of `data`, byte for byte.
    #[serde(borrow)]
    pub data: &'a RawValue,
}

/// The body of `history`.
#[derive(Clone, Debug, Deserialize)]
pub struct HistoryPage<'a> {
    /// The name of the room.
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    /// The epoch of the offsets.
    pub epoch: Arc<str>,
    /// Oldest first.
    #[serde(borrow)]
    pub messages: Vec<Delivery<'a>>,
    /// Whether more messages are stored after the last of these. Continue with its offset as `since`.
    pub more: bool,
    /// `Some(false)` if the position in `since` is no longer stored, or if the filter failed on messages,
    /// which are left out.
    pub recovered: Option<bool>,
}

/// The body of `gap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap<'a> {
    /// The name of the room.
    pub room: Cow<'a, str>,
    /// The epoch of the room from now on.
    pub epoch: Arc<str>,
    /// The first offset that may still arrive: everything before it was delivered or is lost.
    pub offset: u64,
}

/// A text that is not a frame of this protocol.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the {} frame: {source}", kind.as_deref().unwrap_or("server's"))]
pub struct InvalidFrame {
    /// The `type`, which this version knows; `None` if the text has no `type`.
    pub kind: Option<String>,
    source: serde_json::Error,
}

/// The fields of the frames that come most often. So each of them is read in one pass.
#[derive(Deserialize)]
struct FrameFields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    id: Option<RequestId>,
    #[serde(borrow, default, deserialize_with = "optional_string")]
    room: Option<Cow<'a, str>>,
    epoch: Option<Arc<str>>,
    offset: Option<u64>,
    #[serde(borrow, default, deserialize_with = "optional_string")]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "optional_string")]
    from: Option<Cow<'a, str>>,
    time: Option<u64>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default)]
    duplicate: bool,
    #[serde(default)]
    discarded: bool,
    error: Option<ServerError>,
}

/// Parses a frame of the server, with the `id` of the request that it answers.
///
/// # Errors
///
/// If the text is not a JSON object with a `type`, or a field is missing or wrong in a frame of a known type.
pub fn parse(text: &str) -> Result<(Option<RequestId>, ServerFrame<'_>), InvalidFrame> {
    let fields: FrameFields = match object(text) {
        Ok(fields) => fields,
        Err(source) => return of_unknown_kind(text, source),
    };
    let (id, kind) = (fields.id.clone(), fields.kind.clone());
    match frame(text, fields) {
        Ok(frame) => Ok((id, frame)),
        Err(source) => Err(InvalidFrame { kind: Some(kind.into_owned()), source }),
    }
}

fn frame<'a>(text: &'a str, fields: FrameFields<'a>) -> serde_json::Result<ServerFrame<'a>> {
    let FrameFields {
        kind, room, epoch, offset, event, from, time, data, duplicate, discarded, error, ..
    } = fields;
    Ok(match &*kind {
        "message" => ServerFrame::Message(Delivery {
            room: required(room, "room")?,
            offset: required(offset, "offset")?,
            event,
            from,
            time: required(time, "time")?,
            data: required(data, "data")?,
        }),
        "published" => ServerFrame::Published(Published {
            room: required(room, "room")?.into(),
            epoch: required(epoch, "epoch")?,
            offset: required(offset, "offset")?,
            duplicate,
            discarded,
        }),
        "gap" => ServerFrame::Gap(Gap {
            room: required(room, "room")?,
            epoch: required(epoch, "epoch")?,
            offset: required(offset, "offset")?,
        }),
        "pong" => ServerFrame::Pong(Pong { time: required(time, "time")? }),
        "error" => ServerFrame::Error(required(error, "error")?),
        "connected" => ServerFrame::Connected(serde_json::from_str(text)?),
        "refreshed" => ServerFrame::Refreshed(serde_json::from_str(text)?),
        "subscribed" => ServerFrame::Subscribed(serde_json::from_str(text)?),
        "unsubscribed" => ServerFrame::Unsubscribed(serde_json::from_str(text)?),
        "members" => ServerFrame::Members(serde_json::from_str(text)?),
        "history" => ServerFrame::History(serde_json::from_str(text)?),
        _ => ServerFrame::Unknown(kind),
    })
}

/// Fields of a frame that this version does not know may be of any kind.
fn of_unknown_kind(
    text: &str,
    source: serde_json::Error,
) -> Result<(Option<RequestId>, ServerFrame<'_>), InvalidFrame> {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(borrow, rename = "type")]
        kind: Cow<'a, str>,
    }
    let kinds = [
        "connected",
        "refreshed",
        "subscribed",
        "unsubscribed",
        "published",
        "members",
        "history",
        "pong",
        "message",
        "gap",
        "error",
    ];
    match object::<Kind>(text) {
        Ok(Kind { kind }) if kinds.contains(&&*kind) => {
            Err(InvalidFrame { kind: Some(kind.into_owned()), source })
        }
        Ok(Kind { kind }) => Ok((None, ServerFrame::Unknown(kind))),
        Err(_) => Err(InvalidFrame { kind: None, source }),
    }
}

fn required<T>(value: Option<T>, name: &str) -> serde_json::Result<T> {
    let missing = || serde::de::Error::custom(format_args!("the field '{name}' is missing"));
    value.ok_or_else(missing)
}

/// An optional string, borrowed where it has no escapes.
fn optional_string<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    Ok(Option::<JsonString>::deserialize(from)?.map(|text| text.0))
}

/// `null` is data, unlike a missing field.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}
