//! What the server sends besides deliveries, as text.

use super::{Id, Publication, Refusal};
use serde::Serialize;
use serde_json::value::RawValue;
use std::sync::Arc;

/// A room as `connected` lists it after a resume, and as `subscribed` answers it.
#[derive(Debug, Serialize)]
pub struct RoomResult {
    pub room: Arc<str>,
    /// Only in `subscribed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'static str>,
    /// What the client called the room, where a plugin knows it by another name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
    /// Only in `connected`: the filter that is in force, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Refusal>,
}

impl RoomResult {
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

    pub fn unsubscribed(room: &str) -> Self {
        Self { status: Some("unsubscribed"), ..Self::new(room.into()) }
    }

    /// A room that stays as it was, with the reason.
    pub fn refused(room: &str, status: Option<&'static str>, error: Refusal) -> Self {
        Self { status, error: Some(error), ..Self::new(room.into()) }
    }
}

#[derive(Serialize)]
pub struct Connected<'a> {
    pub connection: String,
    pub session: String,
    pub resumed: bool,
    pub principal: Principal<'a>,
    pub heartbeat: Heartbeat,
    pub limits: Limits,
    pub rooms: Vec<RoomResult>,
}

#[derive(Serialize)]
pub struct Principal<'a> {
    pub id: &'a str,
    pub tier: &'a str,
}

/// Milliseconds.
#[derive(Serialize)]
pub struct Heartbeat {
    pub interval: u64,
    pub timeout: u64,
}

#[derive(Serialize)]
pub struct Limits {
    pub rooms: u32,
    #[serde(rename = "messageBytes")]
    pub message_bytes: usize,
}

#[derive(Serialize)]
pub struct Results {
    pub results: Vec<RoomResult>,
}

/// A publish that was stored and handed to routing; also the HTTP answer.
#[derive(Debug, Clone, Serialize)]
pub struct Published {
    pub room: Arc<str>,
    pub epoch: Arc<str>,
    pub offset: u64,
    /// The key was used before: this is the first one's offset and nothing was sent again.
    #[serde(skip_serializing_if = "is_false")]
    pub duplicate: bool,
    /// The room's plugin dropped the message; `offset` is the room's newest.
    #[serde(skip_serializing_if = "is_false")]
    pub discarded: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Serialize)]
pub struct Members {
    pub room: Arc<str>,
    pub count: usize,
    pub principals: Vec<Arc<str>>,
    #[serde(skip_serializing_if = "is_false")]
    pub more: bool,
}

#[derive(Serialize)]
struct Reply<'a, T> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Id<'a>>,
    #[serde(flatten)]
    body: T,
}

pub fn reply(kind: &str, id: Option<Id>, body: impl Serialize) -> String {
    serde_json::to_string(&Reply { kind, id, body }).expect("replies are plain data")
}

#[derive(Serialize)]
pub struct ErrorBody<'a> {
    pub error: &'a Refusal,
}

pub fn error(id: Option<Id>, refusal: &Refusal) -> String {
    reply("error", id, ErrorBody { error: refusal })
}

pub fn pong(id: Option<Id>, time: u64) -> String {
    #[derive(Serialize)]
    struct Pong {
        time: u64,
    }
    reply("pong", id, Pong { time })
}

/// Messages before `offset` were lost to this connection.
pub fn gap(room: &str, epoch: &str, offset: u64) -> String {
    format!(r#"{{"type":"gap","room":"{room}","epoch":"{epoch}","offset":{offset}}}"#)
}

/// A page of a room's history that somebody may see.
pub struct History {
    pub room: Arc<str>,
    pub epoch: Arc<str>,
    pub messages: Vec<std::sync::Arc<Publication>>,
    /// More is held after the last of these.
    pub more: bool,
    /// Whether everything since the asked position is held; absent when none was asked.
    pub recovered: Option<bool>,
}

impl History {
    pub fn reply(&self, id: Option<Id>) -> String {
        let id = id.map_or(String::new(), |id| format!(r#","id":{}"#, id.get()));
        format!(r#"{{"type":"history"{id},{}"#, &self.body()[1..])
    }

    /// The object without `type` and `id`, as HTTP answers it.
    pub fn body(&self) -> String {
        let mut text = format!(r#"{{"room":"{}","epoch":"{}","messages":["#, self.room, self.epoch);
        for (n, message) in self.messages.iter().enumerate() {
            if n > 0 {
                text.push(',');
            }
            message.push_entry(&mut text);
        }
        text.push_str(&format!(r#"],"more":{}"#, self.more));
        if self.recovered == Some(false) {
            text.push_str(r#","recovered":false"#);
        }
        text.push('}');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn an_error_repeats_the_id() {
        let parsed = crate::request::parse(r#"{"type":"ping","id":"a"}"#).unwrap();
        let text = error(parsed.0, &Refusal::new(Code::Forbidden, "no"));
        assert_eq!(text, r#"{"type":"error","id":"a","error":{"code":"forbidden","message":"no"}}"#);
    }

    #[test]
    fn history_entries_are_deliveries_without_a_type() {
        let messages = vec![Arc::new(Publication::new("p".into(), "e".into(), 4, 5, Some("x"), "[ 1]"))];
        let (room, epoch) = ("p".into(), "e".into());
        let history = History { room, epoch, messages, more: false, recovered: Some(false) };
        let text = history.reply(None);
        let entry = r#"{"room":"p","offset":4,"event":"x","time":5,"data":[ 1]}"#;
        let whole = format!(
            r#"{{"type":"history","room":"p","epoch":"e","messages":[{entry}],"more":false,"recovered":false}}"#
        );
        assert_eq!(text, whole);
    }
}
