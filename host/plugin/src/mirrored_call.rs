//! A call of a hook with its answer, as a candidate and a recorder get it. Makes no calls.

use super::hook_types::{
    ConnectRequest, Counts, Limits, Principal, PublishRequest, Rejection, Verdict, Via, clip,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// How many bytes of a message or an answer are shown.
pub(super) const MAX_SHOWN_BYTES: usize = 1024;

/// A call to the active version, and its answer.
pub(super) enum MirroredCall {
    Connect(ConnectRequest, Result<Limits, Rejection>),
    /// The principal, the room's name, and the canonical name.
    Room(String, String, Result<Option<String>, Rejection>),
    Subscribe(Box<SubscribeCall>),
    Publish(Box<PublishCall>),
    /// The message, and the canonical form of each filter with its result.
    Deliver(MirroredMessage, Vec<(Arc<str>, bool)>),
}

pub(super) struct SubscribeCall {
    pub principal: Principal,
    pub room: String,
    pub filter: Option<String>,
    pub counts: Counts,
    /// The filter in canonical form, and the limits.
    pub answer: Result<(Option<String>, Limits), Rejection>,
}

pub(super) struct PublishCall {
    pub principal: Principal,
    pub message: MirroredMessage,
    pub via: Via,
    pub idempotency_key: Option<String>,
    pub answer: Result<Verdict, Rejection>,
}

pub(super) struct MirroredMessage {
    pub room: String,
    pub event: String,
    pub data: Vec<u8>,
}

impl MirroredCall {
    /// About how many bytes it has.
    pub(super) fn size(&self) -> usize {
        let content = match self {
            Self::Connect(request, _) => request.size(),
            Self::Room(principal, room, _) => principal.len() + room.len(),
            Self::Subscribe(call) => {
                let canonical = call.answer.as_ref().ok().and_then(|(filter, _)| filter.as_ref());
                call.room.len()
                    + [call.filter.as_ref(), canonical].into_iter().flatten().map(String::len).sum::<usize>()
            }
            Self::Publish(call) => call.size(),
            Self::Deliver(message, results) => {
                message.size()
                    + results
                        .iter()
                        .map(|(filter, _)| size_of::<(Arc<str>, bool)>() + filter.len())
                        .sum::<usize>()
            }
        };
        size_of::<Self>() + content
    }
}

impl PublishCall {
    pub(super) fn new(request: &PublishRequest<'_>, answer: Result<Verdict, Rejection>) -> Self {
        let PublishRequest { principal, room, event, data, via, idempotency_key } = *request;
        Self {
            principal: principal.clone(),
            message: MirroredMessage::new(room, event, data),
            via,
            idempotency_key: idempotency_key.map(str::to_owned),
            answer,
        }
    }

    pub(super) fn size(&self) -> usize {
        let replacement = if let Ok(Verdict::Replace(data)) = &self.answer { data.len() } else { 0 };
        let key = self.idempotency_key.as_ref().map_or(0, String::len);
        size_of::<Self>() + self.message.size() + self.principal.id.len() + key + replacement
    }

    pub(super) fn request(&self) -> PublishRequest<'_> {
        let MirroredMessage { room, event, data } = &self.message;
        let idempotency_key = self.idempotency_key.as_deref();
        PublishRequest { principal: &self.principal, room, event, data, via: self.via, idempotency_key }
    }
}

impl MirroredMessage {
    pub(super) fn new(room: &str, event: &str, data: &[u8]) -> Self {
        Self { room: room.to_owned(), event: event.to_owned(), data: data.to_owned() }
    }

    fn size(&self) -> usize {
        self.room.len() + self.event.len() + self.data.len()
    }

    pub(super) fn to_json(&self) -> Value {
        json!({ "room": self.room, "event": self.event, "data": excerpt(&self.data) })
    }
}

/// Short data as JSON, or else its beginning as text.
pub(super) fn excerpt(data: &[u8]) -> Value {
    let whole = (data.len() <= MAX_SHOWN_BYTES).then(|| serde_json::from_slice(data).ok()).flatten();
    whole.unwrap_or_else(|| json!(clip(&String::from_utf8_lossy(data), MAX_SHOWN_BYTES)))
}
