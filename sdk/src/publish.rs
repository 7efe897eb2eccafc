//! The hook `publish`: whether a message is sent, and with which data.

use crate::{Message, Plugin, Principal, Reject};
use serde::Serialize;

/// What happens to a published message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The message is sent as it is, byte for byte.
    Pass,
    /// The message is sent with this JSON text as its data.
    Replace(Vec<u8>),
    /// The message is not sent, and the host reports success to the publisher.
    Discard,
}

impl Verdict {
    /// A [`Verdict::Replace`] with `value` as JSON.
    ///
    /// # Errors
    /// A [`Reject`] with [`crate::Code::Internal`] if `value` cannot be serialized to JSON.
    pub fn replace(value: &impl Serialize) -> Result<Self, Reject> {
        serde_json::to_vec(value).map(Self::Replace).map_err(|error| Reject::internal(error.to_string()))
    }
}

/// How a message came to the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Via {
    /// Over the publisher's WebSocket.
    #[default]
    WebSocket,
    /// Over the HTTP API.
    Http,
}

/// A message that a principal publishes.
#[derive(Debug, Clone, Copy)]
pub struct Publication<'a> {
    /// The publisher.
    pub who: &'a Principal,
    /// The message.
    pub message: Message<'a>,
    /// How the message came.
    pub via: Via,
    /// The key with which the publisher may repeat the message; `None` if it has none. The host usually
    /// answers a repetition itself, but not always: another node may have stored the message.
    pub idempotency_key: Option<&'a str>,
}

/// The hook `publish`. List it in [`crate::export!`].
pub trait Publish: Plugin {
    /// Decides about a message. The host calls this once per message, before it assigns an offset.
    ///
    /// # Errors
    /// With a reject, the message is not sent and the publisher receives the reason.
    fn publish(&self, publication: &Publication<'_>) -> Result<Verdict, Reject>;
}
