//! A message, as the hooks `publish` and `deliver` receive it.

use crate::{Reject, json};
use serde::Deserialize;

/// A published message, borrowed for the duration of a call.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The room's canonical name.
    pub room: &'a str,
    /// The event name; empty if the message has none.
    pub event: &'a str,
    /// The data as JSON text. In `publish` it is as the publisher wrote it; in `deliver`, what `publish` may
    /// have replaced it with.
    pub data: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads the data as a `T`, which may borrow from it.
    ///
    /// # Errors
    /// A [`Reject::invalid`] that names the invalid field and says what was expected.
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T, Reject> {
        json::typed("data", self.data).map_err(Reject::invalid)
    }

    /// Reads the data as a `T`, or returns `None` if it does not fit. Use this where nobody sees the error,
    /// as in [`crate::Deliver::parse`]: it is cheaper than [`json`](Self::json).
    pub fn read<T: Deserialize<'a>>(&self) -> Option<T> {
        serde_json::from_slice(self.data).ok()
    }
}
