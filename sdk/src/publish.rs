//! The hook `publish`: may this message be sent, and as what.

use crate::{Message, Plugin, Reject};
use serde::Serialize;

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is sent byte for byte as it came.
    Pass,
    /// This JSON text is sent instead.
    Replace(Vec<u8>),
    /// Nothing is sent, and the publisher is answered well.
    Discard,
}

impl Verdict {
    /// Sends `value` instead.
    ///
    /// # Errors
    /// A [`Reject`] with [`crate::Code::Internal`] when `value` has no JSON form.
    pub fn replace(value: &impl Serialize) -> Result<Self, Reject> {
        serde_json::to_vec(value).map(Self::Replace).map_err(|error| Reject::internal(error.to_string()))
    }
}

pub trait Publish: Plugin {
    /// `who` is the id of the publishing principal. Asked once a message, before it gets its offset.
    ///
    /// # Errors
    /// A reject goes to the publisher; nobody else notices.
    fn publish(&self, who: &str, message: Message<'_>) -> Result<Verdict, Reject>;
}
