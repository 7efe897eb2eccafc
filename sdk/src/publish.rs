//! The hook `publish`: whether a message is sent, and with which data.

use crate::{Message, Plugin, Reject};
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

/// The hook `publish`. List it in [`crate::export!`].
pub trait Publish: Plugin {
    /// Decides about a message. The host calls this once per message, before it assigns an offset. `who` is
    /// the publisher's principal id.
    ///
    /// # Errors
    /// With a reject, the message is not sent and the publisher receives the reason.
    fn publish(&self, who: &str, message: Message<'_>) -> Result<Verdict, Reject>;
}
