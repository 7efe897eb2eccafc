//! A message on its way through the host.

use crate::{Reject, json};
use serde::Deserialize;

/// What was published, borrowed for the time of a hook.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub room: &'a str,
    /// Empty for a message without one.
    pub event: &'a str,
    /// JSON text, as the publisher wrote it.
    pub data: &'a [u8],
}

impl<'a> Message<'a> {
    /// The data, typed; `T` may borrow from it.
    ///
    /// # Errors
    /// A [`Reject::invalid`] that names the field that is wrong and what was expected there.
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T, Reject> {
        json::typed("data", self.data).map_err(Reject::invalid)
    }

    /// The data, typed, where nobody reads why it does not fit: in [`crate::Deliver::parse`].
    pub fn read<T: Deserialize<'a>>(&self) -> Option<T> {
        serde_json::from_slice(self.data).ok()
    }
}
