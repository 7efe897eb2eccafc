//! What a client asks for: from the text of a frame to a request, or to the refusal that says what is wrong
//! with it. Whether the client may do it is decided elsewhere.

mod ack;
mod credentials;
pub(crate) mod fields;
mod publish;
mod subscribe;

pub use ack::Ack;
pub use credentials::Credentials;
pub use publish::{Publish, parse_publish, parse_publish_to};
pub use subscribe::{RequestedRoom, SubscribeOptions};

use crate::{ErrorCode, Position, Refusal, json};
use fields::{clip, invalid, object, required, string};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use subscribe::position;

/// The longest `event`, in bytes.
pub const MAX_EVENT_BYTES: usize = 64;
/// The longest idempotency `key`, in bytes.
pub const MAX_KEY_BYTES: usize = 128;
/// How many rooms one frame may name.
pub const MAX_ROOMS_PER_FRAME: usize = 1000;
/// The largest `limit` of a `history`: how many messages an answer may have.
pub const MAX_HISTORY_MESSAGES: usize = 1000;
/// The `limit` of a `history` that names none.
pub const DEFAULT_HISTORY_MESSAGES: usize = 100;

/// The `id` of a request: a JSON string or number, which the answer repeats byte for byte.
pub type Id<'a> = &'a RawValue;

/// A request as the server reads it. Names of rooms are not parsed yet.
#[derive(Debug)]
pub enum Request<'a> {
    /// `connect`: the first frame.
    Connect {
        /// `auth`. The server looks at it, and at errors in it, only if the upgrade presented no key or token.
        credentials: Result<Option<Credentials<'a>>, Refusal>,
        /// The token of the session to resume. The error says that it is not a string.
        session: Result<Option<Cow<'a, str>>, Refusal>,
    },
    /// `refresh`: go on with another key or token of the same principal.
    Refresh {
        /// `auth`.
        credentials: Credentials<'a>,
    },
    /// `subscribe`: join rooms.
    Subscribe {
        /// 1 to [`MAX_ROOMS_PER_FRAME`] entries.
        rooms: Vec<RequestedRoom<'a>>,
    },
    /// `unsubscribe`: leave rooms.
    Unsubscribe {
        /// 1 to [`MAX_ROOMS_PER_FRAME`] names.
        rooms: Vec<Cow<'a, str>>,
    },
    /// `publish`: send a message to a room.
    Publish(Publish<'a>),
    /// `ack`: messages are handled.
    Ack {
        /// An error in it is answered only if the request has an `id`.
        acks: Result<Vec<Ack<'a>>, Refusal>,
    },
    /// `members`: list who is in a room.
    Members {
        /// The name of the room.
        room: Cow<'a, str>,
    },
    /// `history`: read stored messages of a room.
    History {
        /// The name of the room.
        room: Cow<'a, str>,
        /// The position to start after; absent for the oldest stored message.
        since: Option<Position>,
        /// How many messages to return, 1 to [`MAX_HISTORY_MESSAGES`].
        limit: usize,
    },
    /// `ping`: answer with `pong`.
    Ping,
}

/// All fields of all requests, unparsed. So a frame is read once, whatever its type is.
#[derive(Deserialize)]
struct RequestFields<'a> {
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

/// For a field where `null` is a value: `"data":null` is data, and `"id":null` is an error, unlike a missing
/// field.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// A request, or a refusal; either with the `id` that the answer repeats, if the request has a valid one.
pub type ParseResult<'a> = Result<(Option<Id<'a>>, Request<'a>), (Option<Id<'a>>, Refusal)>;

/// Parses the text of a client's frame.
///
/// # Errors
///
/// [`ErrorCode::BadFrame`] if the text is not one JSON object or contains JSON that is not portable,
/// [`ErrorCode::UnknownType`] if there is no such request, [`ErrorCode::InvalidRequest`] if a field is
/// missing or wrong. The errors of single rooms, of `auth`, `session` and `ack` are in the [`Request`].
///
/// ```
/// use switchyard_protocol::{ErrorCode, Request, request::parse};
///
/// let parsed = parse(r#"{"type":"members","id":5,"room":"prices"}"#);
/// let Ok((Some(id), Request::Members { room })) = parsed else { panic!("a valid request") };
/// assert_eq!((id.get(), &*room), ("5", "prices"));
///
/// let (_, refusal) = parse(r#"{"type":"shout"}"#).err().expect("there is no such request");
/// assert_eq!(refusal.code, ErrorCode::UnknownType);
/// ```
pub fn parse(text: &str) -> ParseResult<'_> {
    let fields: RequestFields = match object(text) {
        Ok(fields) => fields,
        Err(error) => {
            let message = format!("a frame must be one JSON object: {error}");
            return Err((None, Refusal::new(ErrorCode::BadFrame, message)));
        }
    };
    let id = valid_id(&fields).map_err(|refusal| (None, refusal))?;
    let kind = match required(fields.kind, "type").and_then(|raw| string("type", raw)) {
        Ok(kind) => kind,
        Err(refusal) => return Err((id, refusal)),
    };
    let request = match &*kind {
        "connect" => connect(&fields),
        "refresh" => refresh(&fields),
        "subscribe" => subscribe::subscribe(&fields),
        "unsubscribe" => unsubscribe(&fields),
        "publish" => room(&fields).and_then(|room| publish::publish(&fields, room)).map(Request::Publish),
        "ack" => Ok(Request::Ack { acks: ack::acks(&fields) }),
        "members" => room(&fields).map(|room| Request::Members { room }),
        "history" => history(&fields),
        "ping" => Ok(Request::Ping),
        other => {
            let known = "connect, refresh, subscribe, unsubscribe, publish, ack, members, history or ping";
            let message = format!("unknown type '{}'; expected one of {known}", clip(other));
            Err(Refusal::new(ErrorCode::UnknownType, message))
        }
    };
    request.map(|request| (id, request)).map_err(|refusal| (id, refusal))
}

fn valid_id<'a>(fields: &RequestFields<'a>) -> Result<Option<Id<'a>>, Refusal> {
    let Some(id) = fields.id else { return Ok(None) };
    if !matches!(id.get().as_bytes()[0], b'"' | b'-' | b'0'..=b'9') {
        return Err(invalid("id", id, "a string or a number"));
    }
    // The answer repeats the id, so it must be portable.
    json::check_portable(id.get())
        .map_err(|reason| Refusal::new(ErrorCode::BadFrame, format!("id {reason}")))?;
    Ok(Some(id))
}

fn unsubscribe<'a>(fields: &RequestFields<'a>) -> Result<Request<'a>, Refusal> {
    let name = |raw| string("an entry of rooms", raw);
    Ok(Request::Unsubscribe { rooms: rooms(fields)?.into_iter().map(name).collect::<Result<_, _>>()? })
}

fn history<'a>(fields: &RequestFields<'a>) -> Result<Request<'a>, Refusal> {
    Ok(Request::History {
        room: room(fields)?,
        since: fields.since.map(position).transpose()?,
        limit: match fields.limit {
            None => DEFAULT_HISTORY_MESSAGES,
            Some(raw) => match raw.get().parse() {
                Ok(limit @ 1..=MAX_HISTORY_MESSAGES) => limit,
                _ => return Err(invalid("limit", raw, "an integer from 1 to 1000")),
            },
        },
    })
}

fn connect<'a>(fields: &RequestFields<'a>) -> Result<Request<'a>, Refusal> {
    // Does not repeat the value of a wrong one, which is secret.
    let session = fields.session.map(|raw| match string("session", raw) {
        Ok(token) => Ok(token),
        Err(_) => Err(Refusal::invalid("session must be a string")),
    });
    let credentials = fields.auth.map_or(Ok(None), credentials::parse);
    Ok(Request::Connect { credentials, session: session.transpose() })
}

fn refresh<'a>(fields: &RequestFields<'a>) -> Result<Request<'a>, Refusal> {
    let credentials = credentials::parse(required(fields.auth, "auth")?)?;
    Ok(Request::Refresh { credentials: credentials.ok_or_else(credentials::expected)? })
}

fn rooms<'a>(fields: &RequestFields<'a>) -> Result<Vec<&'a RawValue>, Refusal> {
    let raw = required(fields.rooms, "rooms")?;
    match serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
        Ok(rooms) if rooms.len() > MAX_ROOMS_PER_FRAME => Err(too_many_rooms("rooms", rooms.len())),
        Ok(rooms) if !rooms.is_empty() => Ok(rooms),
        _ => Err(invalid("rooms", raw, "an array of at least one room")),
    }
}

fn too_many_rooms(name: &str, count: usize) -> Refusal {
    Refusal::invalid(format!(
        "{name} names {count} rooms; a frame may name at most {MAX_ROOMS_PER_FRAME}, so send several frames"
    ))
}

fn room<'a>(fields: &RequestFields<'a>) -> Result<Cow<'a, str>, Refusal> {
    string("room", required(fields.room, "room")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal_of(text: &str) -> (Option<String>, Refusal) {
        let (id, refusal) = parse(text).unwrap_err();
        (id.map(|id| id.get().to_owned()), refusal)
    }

    #[test]
    fn each_room_of_a_subscribe_has_its_own_options() {
        let text = r#"{"type":"subscribe","id":2,"rooms":["a:b",{"room":"c","filter":{"x": 1}},
            {"room":"d","since":{"epoch":"k3f9","offset":17}},{"room":"e","filter":[1]}]}"#;
        let (id, Request::Subscribe { rooms }) = parse(text).unwrap() else { panic!("not a subscribe") };
        assert_eq!(id.unwrap().get(), "2");
        assert_eq!(rooms.iter().map(|r| &*r.room).collect::<Vec<_>>(), ["a:b", "c", "d", "e"]);
        assert_eq!(rooms[1].options.as_ref().unwrap().filter, Some(r#"{"x": 1}"#));
        let since = rooms[2].options.as_ref().unwrap().since.as_ref().unwrap();
        assert_eq!((&*since.epoch, since.offset), ("k3f9", 17));
        assert_eq!(rooms[3].options.as_ref().unwrap_err().code, ErrorCode::FilterInvalid);
    }

    /// A frame with one entry more than is allowed.
    fn too_many(start: &str, open: &str, entry: &str, close: &str) -> String {
        format!("{start}:{open}{}{close}}}", vec![entry; MAX_ROOMS_PER_FRAME + 1].join(","))
    }

    #[test]
    fn errors_name_the_field_and_the_expected_value() {
        for (text, code, part) in [
            ("[1]", ErrorCode::BadFrame, "one JSON object"),
            ("{", ErrorCode::BadFrame, "one JSON object"),
            ("{}", ErrorCode::InvalidRequest, "'type' is missing"),
            (r#"{"type":7}"#, ErrorCode::InvalidRequest, "type must be a string, got 7"),
            (r#"{"type":"shout"}"#, ErrorCode::UnknownType, "unknown type 'shout'; expected one of connect,"),
            (r#"{"type":"publish","room":"a"}"#, ErrorCode::InvalidRequest, "'data' is missing"),
            (
                r#"{"type":"publish","room":"a","data":"\ud800"}"#,
                ErrorCode::BadFrame,
                "data has half of a surrogate pair",
            ),
            (
                r#"{"type":"publish","room":"a","data":[1e400]}"#,
                ErrorCode::BadFrame,
                "data has a number beyond 1.8e308",
            ),
            (r#"{"type":"ping","id":"\udfff"}"#, ErrorCode::BadFrame, "id has half of a surrogate pair"),
            (r#"{"type":"subscribe","rooms":[]}"#, ErrorCode::InvalidRequest, "at least one"),
            (
                &too_many(r#"{"type":"subscribe","rooms""#, "[", r#""a""#, "]"),
                ErrorCode::InvalidRequest,
                "names 1001 rooms",
            ),
            (
                &too_many(r#"{"type":"unsubscribe","rooms""#, "[", r#""a""#, "]"),
                ErrorCode::InvalidRequest,
                "names 1001",
            ),
            (r#"{"type":"history","room":"a","limit":1001}"#, ErrorCode::InvalidRequest, "1 to 1000"),
        ] {
            let (_, refusal) = refusal_of(text);
            assert_eq!(refusal.code, code, "{text}");
            assert!(refusal.message.contains(part), "{text}: {}", refusal.message);
        }
    }

    #[test]
    fn an_id_is_repeated_byte_for_byte_if_it_is_valid() {
        assert_eq!(refusal_of(r#"{"id":"\u0041","type":"x"}"#).0.as_deref(), Some(r#""\u0041""#));
        assert_eq!(refusal_of(r#"{"id":-1.50,"type":"x"}"#).0.as_deref(), Some("-1.50"));
        for id in ["true", "{}", "[1]"] {
            let (echoed, refusal) = refusal_of(&format!(r#"{{"id":{id},"type":"ping"}}"#));
            assert_eq!((echoed, refusal.code), (None, ErrorCode::InvalidRequest), "{id}");
        }
    }

    #[test]
    fn null_is_valid_data() {
        let (_, Request::Publish(publish)) = parse(r#"{"type":"publish","room":"a","data":null}"#).unwrap()
        else {
            panic!("not a publish")
        };
        assert_eq!(publish.data.get(), "null");
    }

    #[test]
    fn a_key_is_never_repeated() {
        let text = r#"{"type":"connect","auth":{"apiKey":["sk_secret"]}}"#;
        let (_, Request::Connect { credentials, .. }) = parse(text).unwrap() else { panic!("not a connect") };
        assert!(!credentials.unwrap_err().message.contains("sk_secret"));
    }
}
