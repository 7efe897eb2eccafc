//! The frames as a client writes and reads them.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::BTreeMap, fmt, time::Duration};

/// What every frame of the server says of itself.
#[derive(Deserialize)]
pub struct Head<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Cow<'a, str>,
    /// Ours are numbers.
    pub id: Option<u64>,
    #[serde(borrow)]
    pub room: Option<Cow<'a, str>>,
    pub epoch: Option<String>,
    pub offset: Option<u64>,
    #[serde(borrow)]
    pub event: Option<Cow<'a, str>>,
    /// Unix milliseconds.
    pub time: Option<u64>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub data: Option<&'a RawValue>,
    #[serde(default)]
    pub duplicate: bool,
    pub error: Option<Refusal>,
}

/// `null` is data, unlike a missing field.
pub fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

impl<'a> Head<'a> {
    /// `None` for what is no frame of this protocol.
    pub fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    /// Milliseconds.
    #[serde(rename = "retryAfter", skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// The body of an HTTP answer, as far as it was read.
pub fn http_refusal(body: &[u8]) -> Option<Refusal> {
    #[derive(Deserialize)]
    struct Body {
        error: Refusal,
    }
    serde_json::from_slice::<Body>(body).ok().map(|body| body.error)
}

#[derive(Debug, Deserialize)]
pub struct Connected {
    pub session: String,
    pub resumed: bool,
    pub principal: Principal,
    pub heartbeat: Heartbeat,
    pub limits: Limits,
    #[serde(default)]
    pub rooms: Vec<RoomState>,
}

impl Connected {
    pub fn read(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("connected cannot be read: {error}"))
    }
}

#[derive(Debug, Deserialize)]
pub struct Principal {
    pub id: String,
}

/// Milliseconds.
#[derive(Debug, Deserialize)]
pub struct Heartbeat {
    interval: u64,
    timeout: u64,
}

impl Heartbeat {
    /// After so long without a byte the server, which pings, is gone.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.interval + self.timeout)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    pub message_bytes: usize,
}

/// A room as `connected` and `subscribed` tell of it.
#[derive(Debug, Deserialize)]
pub struct RoomState {
    pub room: String,
    /// What it was called in the request, where a plugin knows it by another name.
    pub requested: Option<String>,
    pub epoch: Option<String>,
    pub offset: Option<u64>,
    pub recovered: Option<bool>,
    pub error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
pub struct Subscribed {
    pub results: Vec<RoomState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    pub epoch: String,
    pub offset: u64,
}

#[derive(Serialize)]
pub struct Wanted<'a> {
    pub room: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Position>,
}

pub fn connect(key: &str, session: Option<&str>) -> String {
    let mut frame = serde_json::json!({"type": "connect", "id": 0, "auth": {"apiKey": key}});
    if let Some(session) = session {
        frame["session"] = session.into();
    }
    frame.to_string()
}

pub fn subscribe(id: u64, rooms: &[Wanted]) -> String {
    #[derive(Serialize)]
    struct Subscribe<'a> {
        r#type: &'a str,
        id: u64,
        rooms: &'a [Wanted<'a>],
    }
    written(&Subscribe { r#type: "subscribe", id, rooms })
}

/// `data` goes out byte for byte.
#[derive(Serialize)]
pub struct Publish<'a> {
    pub id: u64,
    pub room: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<&'a str>,
    /// Makes sending it again safe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
    pub data: &'a RawValue,
}

impl Publish<'_> {
    pub fn frame(&self) -> String {
        format!(r#"{{"type":"publish",{}"#, &written(self)[1..])
    }
}

/// What is acknowledged of a room, in an epoch where that is known.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Acknowledged<'a> {
    Position { epoch: &'a str, offset: u64 },
    Offset(u64),
}

pub fn ack(offsets: &BTreeMap<&str, Acknowledged>) -> String {
    format!(r#"{{"type":"ack","offsets":{}}}"#, written(offsets))
}

fn written(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("frames are plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_filters_go_out_as_they_were_written() {
        let data: Box<RawValue> = serde_json::from_str("{\"b\" : 1.10}").unwrap();
        let publish = Publish { id: 4, room: "a:b", event: None, key: Some("k"), data: &data };
        assert_eq!(
            publish.frame(),
            r#"{"type":"publish","id":4,"room":"a:b","key":"k","data":{"b" : 1.10}}"#
        );
        let since = Position { epoch: "e".into(), offset: 7 };
        let rooms = [
            Wanted { room: "a", filter: None, since: None },
            Wanted { room: "b", filter: Some(&data), since: Some(since) },
        ];
        let frame = r#"{"type":"subscribe","id":1,"rooms":[{"room":"a"},{"room":"b","filter":{"b" : 1.10},"since":{"epoch":"e","offset":7}}]}"#;
        assert_eq!(subscribe(1, &rooms), frame);
        assert_eq!(
            ack(&BTreeMap::from([
                ("a", Acknowledged::Offset(3)),
                ("b:c", Acknowledged::Position { epoch: "e", offset: 4 })
            ])),
            r#"{"type":"ack","offsets":{"a":3,"b:c":{"epoch":"e","offset":4}}}"#
        );
    }

    #[test]
    fn what_the_server_sends_is_read() {
        let connected = r#"{"type":"connected","id":1,"connection":"c_8f","session":"s_1","resumed":true,
            "principal":{"id":"acme","tier":"pro"},"heartbeat":{"interval":25000,"timeout":10000},
            "limits":{"rooms":100,"messageBytes":65536},
            "rooms":[{"room":"a","epoch":"k3f9","offset":42,"recovered":true}]}"#;
        let connected = Connected::read(connected).unwrap();
        assert_eq!(connected.heartbeat.silence(), Duration::from_secs(35));
        assert_eq!((connected.limits.message_bytes, connected.rooms[0].recovered), (65536, Some(true)));
        let error = r#"{"type":"error","id":4,"error":{"code":"forbidden","message":"no"}}"#;
        let head = Head::read(error).unwrap();
        assert_eq!((head.id, head.error.unwrap().to_string()), (Some(4), "forbidden: no".to_owned()));
        assert!(Head::read("[]").is_none());
        assert_eq!(http_refusal(br#"{"error":{"code":"a","message":"b"}}"#).unwrap().code, "a");
    }
}
