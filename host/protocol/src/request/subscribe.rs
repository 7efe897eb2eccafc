//! The entries of a `subscribe`. Does not know whether the rooms exist.

use super::{
    Request, RequestFields,
    fields::{PositionFields, clip, integer, invalid, object, required, string},
    rooms,
};
use crate::{ErrorCode, Position, Refusal, json};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// One entry of a `subscribe`: a room name, or
/// `{"room":"prices","filter":{…},"since":{"epoch":"k3f9","offset":42}}`.
#[derive(Debug)]
pub struct RequestedRoom<'a> {
    /// The name as it was sent; not checked yet.
    pub room: Cow<'a, str>,
    /// How to join the room. An error in it refuses this room alone, not the whole request.
    pub options: Result<SubscribeOptions<'a>, Refusal>,
}

/// How a client wants to join a room.
#[derive(Debug)]
pub struct SubscribeOptions<'a> {
    /// A JSON object, as it was sent: portable JSON, whose meaning the room's plugin defines.
    pub filter: Option<&'a str>,
    /// The position up to which the client has everything; what came after it is replayed.
    pub since: Option<Position>,
}

pub(super) fn subscribe<'a>(fields: &RequestFields<'a>) -> Result<Request<'a>, Refusal> {
    let rooms = rooms(fields)?.into_iter().map(requested_room).collect::<Result<_, _>>()?;
    Ok(Request::Subscribe { rooms })
}

fn requested_room(raw: &RawValue) -> Result<RequestedRoom<'_>, Refusal> {
    #[derive(Deserialize)]
    struct RoomFields<'a> {
        #[serde(borrow)]
        room: Option<&'a RawValue>,
        #[serde(borrow)]
        filter: Option<&'a RawValue>,
        #[serde(borrow)]
        since: Option<&'a RawValue>,
    }
    if raw.get().starts_with('"') {
        let options = Ok(SubscribeOptions { filter: None, since: None });
        return Ok(RequestedRoom { room: string("an entry of rooms", raw)?, options });
    }
    let entry: RoomFields = match object(raw.get()) {
        Ok(entry) => entry,
        _ => return Err(invalid("an entry of rooms", raw, "a name or an object with a room")),
    };
    let room = string("room", required(entry.room, "room")?)?;
    let filter = entry.filter.map(|raw| {
        if !raw.get().starts_with('{') {
            let message = format!("filter must be an object, got {}", clip(raw.get()));
            Err(Refusal::new(ErrorCode::FilterInvalid, message))
        } else if let Err(reason) = json::check_portable(raw.get()) {
            Err(Refusal::new(ErrorCode::FilterInvalid, format!("filter {reason}")))
        } else {
            Ok(raw.get())
        }
    });
    let options = filter
        .transpose()
        .and_then(|filter| Ok(SubscribeOptions { filter, since: entry.since.map(position).transpose()? }));
    Ok(RequestedRoom { room, options })
}

pub(super) fn position(raw: &RawValue) -> Result<Position, Refusal> {
    match object(raw.get()) {
        Ok(PositionFields { epoch: Some(epoch), offset }) => {
            Ok(Position { epoch, offset: integer("since.offset", offset)? })
        }
        _ => Err(invalid("since", raw, r#"an object {"epoch": string, "offset": integer}"#)),
    }
}
