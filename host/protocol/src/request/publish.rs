//! The fields of a `publish`, which WebSocket and HTTP share. Does not know whether the room exists.

use super::{
    MAX_EVENT_BYTES, MAX_KEY_BYTES, RequestFields,
    fields::{clip, object, required, string},
    room,
};
use crate::{
    ErrorCode, Refusal,
    json::{self, NotPortable},
};
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A message to publish: `{"room":"prices","event":"price","data":{"usd":3150},"key":"evt-81"}`. A client
/// writes it with [`crate::client::ClientRequest::Publish`].
#[derive(Clone, Debug, Serialize)]
pub struct Publish<'a> {
    /// The room to publish to. The server parses the name later.
    pub room: Cow<'a, str>,
    /// The kind of message, at most [`MAX_EVENT_BYTES`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Cow<'a, str>>,
    /// Any JSON value, which reaches subscribers byte for byte. The server accepts only portable JSON:
    /// [`json::check_portable`].
    pub data: &'a RawValue,
    /// An idempotency key, 1 to [`MAX_KEY_BYTES`]: publishing again with the same key within 5 minutes sends
    /// nothing and answers the first offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Cow<'a, str>>,
}

/// Parses a message of an HTTP request.
///
/// # Errors
///
/// [`ErrorCode::InvalidRequest`] if it is not an object or a field is missing or wrong,
/// [`ErrorCode::BadFrame`] if `data` is not portable JSON.
pub fn parse_publish(raw: &RawValue) -> Result<Publish<'_>, Refusal> {
    let fields = message_fields(raw, r#"{"room","event","data","key"}"#)?;
    publish(&fields, room(&fields)?)
}

/// Parses a message of an HTTP request that must not name a room, because the path does.
///
/// # Errors
///
/// Those of [`parse_publish`].
pub fn parse_publish_to<'a>(room: &'static str, raw: &'a RawValue) -> Result<Publish<'a>, Refusal> {
    let fields = message_fields(raw, r#"{"event","data","key"}"#)?;
    if let Some(named) = fields.room {
        let message = format!("this call publishes to '{room}' and takes no room, got {}", clip(named.get()));
        return Err(Refusal::invalid(message));
    }
    publish(&fields, Cow::Borrowed(room))
}

/// The fields of a message, which must be an object like `expected`.
fn message_fields<'a>(raw: &'a RawValue, expected: &str) -> Result<RequestFields<'a>, Refusal> {
    object(raw.get()).map_err(|error| match raw.get().starts_with('{') {
        // The value is valid JSON, so a field is given twice. The error names it, and no data.
        true => Refusal::invalid(format!("invalid message: {error}")),
        false => Refusal::invalid(format!("a message must be an object {expected}")),
    })
}

pub(super) fn publish<'a>(fields: &RequestFields<'a>, room: Cow<'a, str>) -> Result<Publish<'a>, Refusal> {
    let data = required(fields.data, "data")?;
    json::check_portable(data.get()).map_err(|reason| {
        let code = match reason {
            NotPortable::TooDeep => ErrorCode::InvalidRequest,
            NotPortable::LoneSurrogate | NotPortable::HugeNumber => ErrorCode::BadFrame,
        };
        Refusal::new(code, format!("data {reason}"))
    })?;
    let event = bounded_string("event", fields.event, MAX_EVENT_BYTES)?;
    let key = bounded_string("key", fields.key, MAX_KEY_BYTES)?;
    if key.as_ref().is_some_and(|key| key.is_empty()) {
        return Err(Refusal::invalid("key must not be empty; omit it to publish without one"));
    }
    Ok(Publish { room, event, data, key })
}

fn bounded_string<'a>(
    name: &str,
    raw: Option<&'a RawValue>,
    max_bytes: usize,
) -> Result<Option<Cow<'a, str>>, Refusal> {
    let Some(raw) = raw else { return Ok(None) };
    let text = string(name, raw)?;
    if text.len() > max_bytes {
        let message = format!("{name} has {} bytes, at most {max_bytes} are allowed", text.len());
        return Err(Refusal::invalid(message));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_given_twice_is_named_without_the_data() {
        let refused = |text: &str| {
            let raw: &RawValue = serde_json::from_str(text).unwrap();
            [parse_publish(raw), parse_publish_to("*", raw)].map(|parsed| parsed.unwrap_err().message)
        };
        for message in refused(r#" {"room":"a","data":"secret","data":2}"#) {
            assert!(message.starts_with("invalid message: duplicate field `data`"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
        for message in refused(r#"["a"]"#) {
            assert!(message.starts_with("a message must be an object {"), "{message}");
        }
    }
}
