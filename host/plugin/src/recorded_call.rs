//! A call of a hook as a line of JSON: when, what the hook was asked, and what it answered. The same lines are
//! recorded on a node and replayed by an author.

use super::hook_types::{ConnectRequest, Counts, Limits, Principal, Rejection, Verdict, Via};
use super::mirrored_call::{MirroredCall, MirroredMessage, PublishCall, SubscribeCall};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

/// A recorded call: `{"time":…,"ask":{"publish":{…}},"answer":{…}}`.
#[derive(Debug, Deserialize, Serialize)]
pub struct RecordedCall {
    /// When it was answered, in Unix milliseconds.
    pub time: u64,
    /// What the hook was asked.
    pub ask: Question,
    /// What it answered.
    pub answer: Value,
}

/// What a hook was asked, under the name of the hook.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// The hook `connect`.
    Connect(ConnectRequest),
    /// The hook `room`.
    Room(RoomQuestion),
    /// The hook `subscribe`.
    Subscribe(SubscribeQuestion),
    /// The hook `publish`.
    Publish(PublishQuestion),
    /// The hook `deliver`.
    Deliver(DeliverQuestion),
}

/// What the hook `room` was asked.
#[derive(Debug, Deserialize, Serialize)]
pub struct RoomQuestion {
    /// The id of the principal whose request named the room.
    pub principal: String,
    /// The name as the client sent it.
    pub room: String,
}

/// What the hook `subscribe` was asked.
#[derive(Debug, Deserialize, Serialize)]
pub struct SubscribeQuestion {
    /// Who subscribes.
    pub principal: Principal,
    /// The room.
    pub room: String,
    /// The filter as the client sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Box<RawValue>>,
    /// How many rooms and members there were.
    #[serde(default)]
    pub counts: Counts,
}

/// What the hook `publish` was asked.
#[derive(Debug, Deserialize, Serialize)]
pub struct PublishQuestion {
    /// Who publishes.
    pub principal: Principal,
    /// How the message came.
    #[serde(default)]
    pub via: Via,
    /// The idempotency key of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The message.
    pub message: RecordedMessage,
}

/// What the hook `deliver` was asked.
#[derive(Debug, Deserialize, Serialize)]
pub struct DeliverQuestion {
    /// The filters in canonical form.
    pub filters: Vec<String>,
    /// The message.
    pub message: RecordedMessage,
}

/// A message of a recorded call.
#[derive(Debug, Deserialize, Serialize)]
pub struct RecordedMessage {
    /// The room's canonical name.
    pub room: String,
    /// Empty for a message without an event.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub event: String,
    /// The size of the data.
    pub bytes: usize,
    /// The data; absent unless it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

impl Question {
    /// The name of the hook.
    pub fn hook(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Room(_) => "room",
            Self::Subscribe(_) => "subscribe",
            Self::Publish(_) => "publish",
            Self::Deliver(_) => "deliver",
        }
    }

    /// The room in question. A connection has none.
    pub fn room(&self) -> Option<&str> {
        match self {
            Self::Connect(_) => None,
            Self::Room(question) => Some(&question.room),
            Self::Subscribe(question) => Some(&question.room),
            Self::Publish(PublishQuestion { message, .. })
            | Self::Deliver(DeliverQuestion { message, .. }) => Some(&message.room),
        }
    }
}

impl RecordedCall {
    /// Messages have their data only if `has_data`.
    pub(super) fn new(time: u64, call: MirroredCall, has_data: bool) -> Self {
        let message = |message: MirroredMessage| RecordedMessage::new(message, has_data);
        let (ask, answer) = match call {
            MirroredCall::Connect(request, answer) => (Question::Connect(request), connect_answer(answer)),
            MirroredCall::Room(principal, room, answer) => {
                (Question::Room(RoomQuestion { principal, room }), room_answer(answer))
            }
            MirroredCall::Subscribe(call) => {
                let SubscribeCall { principal, room, filter, counts, answer } = *call;
                let filter = filter.and_then(|filter| to_line(filter.into_bytes()));
                (
                    Question::Subscribe(SubscribeQuestion { principal, room, filter, counts }),
                    subscribe_answer(answer),
                )
            }
            MirroredCall::Publish(call) => {
                let PublishCall { principal, message: published, via, idempotency_key, answer } = *call;
                let message = message(published);
                (
                    Question::Publish(PublishQuestion { principal, via, idempotency_key, message }),
                    publish_answer(answer, has_data),
                )
            }
            MirroredCall::Deliver(delivered, results) => {
                let (filters, passes) =
                    results.into_iter().map(|(filter, passes)| (filter.to_string(), passes)).unzip();
                (
                    Question::Deliver(DeliverQuestion { filters, message: message(delivered) }),
                    deliver_answer(Ok(passes)),
                )
            }
        };
        Self { time, ask, answer }
    }
}

impl RecordedMessage {
    fn new(message: MirroredMessage, has_data: bool) -> Self {
        let MirroredMessage { room, event, data } = message;
        let bytes = data.len();
        let data = has_data.then(|| to_line(data)).flatten();
        Self { room, event, bytes, data }
    }
}

/// JSON on one line. Line breaks in JSON are only white space. `None` if it is not JSON.
fn to_line(mut json: Vec<u8>) -> Option<Box<RawValue>> {
    json.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    RawValue::from_string(String::from_utf8(json).ok()?).ok()
}

pub(super) fn connect_answer(answer: Result<Limits, Rejection>) -> Value {
    or_reject(answer, |limits| json!({ "limits": limits_json(limits) }))
}

/// Only the limits that there are.
fn limits_json(limits: Limits) -> Value {
    let mut limits = json!(limits);
    limits.as_object_mut().into_iter().for_each(|limits| limits.retain(|_, limit| !limit.is_null()));
    limits
}

/// `None` keeps the name.
pub(super) fn room_answer(answer: Result<Option<String>, Rejection>) -> Value {
    or_reject(answer, |canonical| json!({ "canonical": canonical }))
}

/// The filter is in canonical form.
pub(super) fn subscribe_answer(answer: Result<(Option<String>, Limits), Rejection>) -> Value {
    or_reject(answer, |(filter, limits)| json!({ "filter": filter, "limits": limits_json(limits) }))
}

pub(super) fn publish_answer(answer: Result<Verdict, Rejection>, has_data: bool) -> Value {
    or_reject(answer, |verdict| match verdict {
        Verdict::Pass => json!({ "verdict": "pass" }),
        Verdict::Discard => json!({ "verdict": "discard" }),
        Verdict::Replace(_) if !has_data => json!({ "verdict": "replace" }),
        Verdict::Replace(data) => {
            let data =
                serde_json::from_slice(&data).unwrap_or_else(|_| json!(String::from_utf8_lossy(&data)));
            json!({ "verdict": "replace", "data": data })
        }
    })
}

/// For each filter, whether the message passes.
pub(super) fn deliver_answer(answer: Result<Vec<bool>, Rejection>) -> Value {
    or_reject(answer, |passes| json!({ "passes": passes }))
}

fn or_reject<T>(answer: Result<T, Rejection>, to_json: impl FnOnce(T) -> Value) -> Value {
    match answer {
        Ok(answer) => to_json(answer),
        Err(rejection) => json!({ "reject": rejection.code, "reason": rejection.message }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::hook_types::PublishRequest;
    use super::*;

    fn publish(data: &str) -> MirroredCall {
        let principal = Principal::new("acme", "0123456789abcdef", "pro");
        let request = PublishRequest::new(&principal, "prices", "", data.as_bytes());
        let answer = Ok(Verdict::Replace(b"{\"a\":1}".to_vec()));
        MirroredCall::Publish(Box::new(PublishCall::new(&request, answer)))
    }

    #[test]
    fn a_recorded_call_is_one_line_that_can_be_read_back() {
        let data = "{\"b\": 1.50,\r\n \"a\": 1e400}";
        let line = serde_json::to_string(&RecordedCall::new(7, publish(data), true)).unwrap();
        let expected = "{\"time\":7,\"ask\":{\"publish\":{\"principal\":{\"id\":\"acme\",\
                        \"key_id\":\"0123456789abcdef\",\"tier\":\"pro\",\"tags\":[]},\"via\":\"websocket\",\
                        \"message\":{\"room\":\"prices\",\"bytes\":25,\"data\":{\"b\": 1.50,   \"a\": 1e400}}}},\
                        \"answer\":{\"data\":{\"a\":1},\"verdict\":\"replace\"}}";
        assert_eq!(line, expected);
        let read: RecordedCall = serde_json::from_str(&line).unwrap();
        assert_eq!((read.ask.hook(), read.ask.room()), ("publish", Some("prices")));
        assert_eq!(serde_json::to_string(&read).unwrap(), line);
    }

    #[test]
    fn data_is_recorded_only_on_request() {
        let line = serde_json::to_string(&RecordedCall::new(7, publish("{\"secret\":1}"), false)).unwrap();
        assert!(
            line.contains("\"bytes\":12") && !line.contains("secret") && !line.contains("\"a\""),
            "{line}"
        );
    }
}
