//! From the text of a frame to a request, or to the refusal that says what is wrong with it.

mod ack;
mod fields;
mod wanted;

pub use ack::Ack;
pub use wanted::{Terms, Wanted};

use super::{
    Code, Refusal,
    json::{self, Unfit},
};
use fields::{clip, object, required, string, wrong};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;
use wanted::{position, wanted};

/// Bytes of `event`.
pub const MAX_EVENT: usize = 64;
/// Bytes of the idempotency `key`.
pub const MAX_KEY: usize = 128;
/// Rooms that one frame may name.
pub const MAX_ROOMS: usize = 1000;
/// Messages of one `history` answer, and how many it has when `limit` is absent.
pub const MAX_HISTORY: usize = 1000;
const DEFAULT_HISTORY: usize = 100;

/// A client's request number or name, repeated as it was written.
pub type Id<'a> = &'a RawValue;

/// A place in a room's history: everything up to and including `offset` is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Position {
    pub epoch: Arc<str>,
    pub offset: u64,
}

#[derive(Debug)]
pub enum Request<'a> {
    /// The key is looked at only where none came with the upgrade.
    Connect {
        api_key: Result<Option<Cow<'a, str>>, Refusal>,
        session: Option<Cow<'a, str>>,
    },
    Subscribe {
        rooms: Vec<Wanted<'a>>,
    },
    Unsubscribe {
        rooms: Vec<Cow<'a, str>>,
    },
    Publish(Publish<'a>),
    /// A wrong one is told only to who asks with an id.
    Ack {
        acks: Result<Vec<Ack<'a>>, Refusal>,
    },
    Members {
        room: Cow<'a, str>,
    },
    History {
        room: Cow<'a, str>,
        since: Option<Position>,
        limit: usize,
    },
    Ping,
}

/// A message to publish, over a WebSocket or HTTP. Its room is not looked at yet.
#[derive(Debug)]
pub struct Publish<'a> {
    pub room: Cow<'a, str>,
    pub event: Option<Cow<'a, str>>,
    /// JSON text that every parser takes: [`json::check`].
    pub data: &'a str,
    pub key: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    auth: Option<&'a RawValue>,
    #[serde(borrow)]
    session: Option<&'a RawValue>,
    #[serde(borrow)]
    rooms: Option<&'a RawValue>,
    #[serde(borrow)]
    room: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    since: Option<&'a RawValue>,
    #[serde(borrow)]
    limit: Option<&'a RawValue>,
    #[serde(borrow)]
    epoch: Option<&'a RawValue>,
    #[serde(borrow)]
    offset: Option<&'a RawValue>,
    #[serde(borrow)]
    offsets: Option<&'a RawValue>,
}

/// `"data":null` is data and `"id":null` is wrong, unlike missing fields.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// A request with its id, or the refusal with the id that the answer repeats.
pub type Parsed<'a> = Result<(Option<Id<'a>>, Request<'a>), (Option<Id<'a>>, Refusal)>;

pub fn parse(text: &str) -> Parsed<'_> {
    let fields: Fields = match object(text) {
        Ok(fields) => fields,
        Err(error) => {
            let message = format!("a frame is one JSON object: {error}");
            return Err((None, Refusal::new(Code::BadFrame, message)));
        }
    };
    if let Some(id) = fields.id
        && !matches!(id.get().as_bytes()[0], b'"' | b'-' | b'0'..=b'9')
    {
        return Err((None, wrong("id", id, "a string or a number")));
    }
    // It is repeated in the answer.
    if let Some(Err(unfit)) = fields.id.map(|id| json::check(id.get())) {
        return Err((None, Refusal::new(Code::BadFrame, format!("id {unfit}"))));
    }
    request(&fields).map(|request| (fields.id, request)).map_err(|refusal| (fields.id, refusal))
}

fn request<'a>(fields: &Fields<'a>) -> Result<Request<'a>, Refusal> {
    let kind = required(fields.kind, "type").and_then(|raw| string("type", raw))?;
    Ok(match &*kind {
        "connect" => connect(fields)?,
        "subscribe" => {
            Request::Subscribe { rooms: list(fields)?.into_iter().map(wanted).collect::<Result<_, _>>()? }
        }
        "unsubscribe" => Request::Unsubscribe {
            rooms: list(fields)?.into_iter().map(|raw| string("rooms", raw)).collect::<Result<_, _>>()?,
        },
        "publish" => Request::Publish(publish(fields, room(fields)?)?),
        "ack" => Request::Ack { acks: ack::acks(fields) },
        "members" => Request::Members { room: room(fields)? },
        "history" => Request::History {
            room: room(fields)?,
            since: fields.since.map(position).transpose()?,
            limit: match fields.limit {
                None => DEFAULT_HISTORY,
                Some(raw) => match raw.get().parse() {
                    Ok(limit @ 1..=MAX_HISTORY) => limit,
                    _ => return Err(wrong("limit", raw, "an integer from 1 to 1000")),
                },
            },
        },
        "ping" => Request::Ping,
        other => {
            let known = "connect, subscribe, unsubscribe, publish, ack, members, history or ping";
            let message = format!("type is '{}', but would be one of {known}", clip(other));
            return Err(Refusal::new(Code::UnknownType, message));
        }
    })
}

fn connect<'a>(fields: &Fields<'a>) -> Result<Request<'a>, Refusal> {
    #[derive(Deserialize)]
    struct Auth<'a> {
        #[serde(borrow, rename = "apiKey")]
        api_key: Option<&'a RawValue>,
    }
    // Never echoed: it holds the key.
    let wrong = || Refusal::invalid("auth is not an object with the string apiKey");
    let api_key = fields.auth.map(|raw| {
        let auth: Auth = object(raw.get()).map_err(|_| wrong())?;
        auth.api_key.map(|raw| string("apiKey", raw).map_err(|_| wrong())).transpose()
    });
    let session = fields.session.map(|raw| match string("session", raw) {
        Ok(token) => Ok(token),
        Err(_) => Err(Refusal::invalid("session is not a string")),
    });
    Ok(Request::Connect { api_key: api_key.unwrap_or(Ok(None)), session: session.transpose()? })
}

/// The fields of a publish, which HTTP shares: `{"room","event","data","key"}`.
pub fn parse_publish(raw: &RawValue) -> Result<Publish<'_>, Refusal> {
    match object(raw.get()) {
        Ok(fields) => publish(&fields, room(&fields)?),
        Err(_) => Err(wrong("a message", raw, r#"an object {"room","event","data","key"}"#)),
    }
}

/// A publish that says no room, as it is known.
pub fn parse_publish_to<'a>(room: &'static str, raw: &'a RawValue) -> Result<Publish<'a>, Refusal> {
    match object(raw.get()) {
        Ok(fields) => publish(&fields, Cow::Borrowed(room)),
        Err(_) => Err(wrong("a message", raw, r#"an object {"event","data","key"}"#)),
    }
}

fn publish<'a>(fields: &Fields<'a>, room: Cow<'a, str>) -> Result<Publish<'a>, Refusal> {
    let data = required(fields.data, "data")?.get();
    json::check(data).map_err(|unfit| {
        let code = if unfit == Unfit::Deep { Code::InvalidRequest } else { Code::BadFrame };
        Refusal::new(code, format!("data {unfit}"))
    })?;
    let bounded = |name: &str, raw: Option<&'a RawValue>, most: usize| {
        let Some(raw) = raw else { return Ok(None) };
        let text = string(name, raw)?;
        if text.len() > most {
            let message = format!("{name} has {} bytes, at most {most} are allowed", text.len());
            return Err(Refusal::invalid(message));
        }
        Ok(Some(text))
    };
    let (event, key) = (bounded("event", fields.event, MAX_EVENT)?, bounded("key", fields.key, MAX_KEY)?);
    if key.as_ref().is_some_and(|key| key.is_empty()) {
        return Err(Refusal::invalid("key is empty; leave it out where there is none"));
    }
    Ok(Publish { room, event, data, key })
}

fn list<'a>(fields: &Fields<'a>) -> Result<Vec<&'a RawValue>, Refusal> {
    let raw = required(fields.rooms, "rooms")?;
    match serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
        Ok(rooms) if rooms.len() > MAX_ROOMS => Err(too_many("rooms", rooms.len())),
        Ok(rooms) if !rooms.is_empty() => Ok(rooms),
        _ => Err(wrong("rooms", raw, "an array of at least one room")),
    }
}

fn too_many(name: &str, count: usize) -> Refusal {
    Refusal::invalid(format!("{name} names {count} rooms; a frame may name {MAX_ROOMS}, so send several"))
}

fn room<'a>(fields: &Fields<'a>) -> Result<Cow<'a, str>, Refusal> {
    string("room", required(fields.room, "room")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> (Option<String>, Refusal) {
        let (id, refusal) = parse(text).unwrap_err();
        (id.map(|id| id.get().to_owned()), refusal)
    }

    #[test]
    fn a_subscribe_keeps_what_each_room_asked() {
        let text = r#"{"type":"subscribe","id":2,"rooms":["a:b",{"room":"c","filter":{"x": 1}},
            {"room":"d","since":{"epoch":"k3f9","offset":17}},{"room":"e","filter":[1]}]}"#;
        let (id, Request::Subscribe { rooms }) = parse(text).unwrap() else { panic!("not a subscribe") };
        assert_eq!(id.unwrap().get(), "2");
        assert_eq!(rooms.iter().map(|r| &*r.room).collect::<Vec<_>>(), ["a:b", "c", "d", "e"]);
        assert_eq!(rooms[1].terms.as_ref().unwrap().filter, Some(r#"{"x": 1}"#));
        let since = rooms[2].terms.as_ref().unwrap().since.as_ref().unwrap();
        assert_eq!((&*since.epoch, since.offset), ("k3f9", 17));
        assert_eq!(rooms[3].terms.as_ref().unwrap_err().code, Code::FilterInvalid);
    }

    /// A frame with one entry more than is allowed.
    fn many(start: &str, open: &str, entry: &str, close: &str) -> String {
        format!("{start}:{open}{}{close}}}", vec![entry; MAX_ROOMS + 1].join(","))
    }

    #[test]
    fn errors_name_the_field_and_what_would_be_right() {
        for (text, code, part) in [
            ("[1]", Code::BadFrame, "one JSON object"),
            ("{", Code::BadFrame, "one JSON object"),
            ("{}", Code::InvalidRequest, "'type' is missing"),
            (r#"{"type":7}"#, Code::InvalidRequest, "type is 7, but would be a string"),
            (r#"{"type":"shout"}"#, Code::UnknownType, "'shout'"),
            (r#"{"type":"publish","room":"a"}"#, Code::InvalidRequest, "'data' is missing"),
            (
                r#"{"type":"publish","room":"a","data":"\ud800"}"#,
                Code::BadFrame,
                "data has half of a surrogate pair",
            ),
            (
                r#"{"type":"publish","room":"a","data":[1e400]}"#,
                Code::BadFrame,
                "data has a number beyond 1.8e308",
            ),
            (r#"{"type":"ping","id":"\udfff"}"#, Code::BadFrame, "id has half of a surrogate pair"),
            (r#"{"type":"subscribe","rooms":[]}"#, Code::InvalidRequest, "at least one"),
            (
                &many(r#"{"type":"subscribe","rooms""#, "[", r#""a""#, "]"),
                Code::InvalidRequest,
                "names 1001 rooms",
            ),
            (
                &many(r#"{"type":"unsubscribe","rooms""#, "[", r#""a""#, "]"),
                Code::InvalidRequest,
                "names 1001",
            ),
            (r#"{"type":"history","room":"a","limit":1001}"#, Code::InvalidRequest, "1 to 1000"),
        ] {
            let (_, refusal) = refused(text);
            assert_eq!(refusal.code, code, "{text}");
            assert!(refusal.message.contains(part), "{text}: {}", refusal.message);
        }
    }

    #[test]
    fn an_id_is_repeated_as_it_was_written_and_only_when_it_may_be() {
        assert_eq!(refused(r#"{"id":"\u0041","type":"x"}"#).0.as_deref(), Some(r#""\u0041""#));
        assert_eq!(refused(r#"{"id":-1.50,"type":"x"}"#).0.as_deref(), Some("-1.50"));
        for id in ["true", "{}", "[1]"] {
            let (echoed, refusal) = refused(&format!(r#"{{"id":{id},"type":"ping"}}"#));
            assert_eq!((echoed, refusal.code), (None, Code::InvalidRequest), "{id}");
        }
    }

    #[test]
    fn null_is_data() {
        let (_, Request::Publish(publish)) = parse(r#"{"type":"publish","room":"a","data":null}"#).unwrap()
        else {
            panic!("not a publish")
        };
        assert_eq!(publish.data, "null");
    }

    #[test]
    fn a_key_is_never_echoed() {
        let text = r#"{"type":"connect","auth":{"apiKey":["sk_secret"]}}"#;
        let (_, Request::Connect { api_key, .. }) = parse(text).unwrap() else { panic!("not a connect") };
        assert!(!api_key.unwrap_err().message.contains("sk_secret"));
    }
}
