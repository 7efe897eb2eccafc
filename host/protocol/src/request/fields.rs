//! Single fields of a request: their value, or a refusal that names the field.

use crate::Refusal;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{borrow::Cow, sync::Arc};

/// Offsets have 53 bits, which the numbers of every language can hold.
const MAX_OFFSET: u64 = (1 << 53) - 1;
/// Bytes of a client's own text that a refusal repeats.
const MAX_ECHOED_BYTES: usize = 40;

/// The object `{"epoch": string, "offset": integer}`, in which an `ack` may leave out the epoch.
#[derive(Deserialize)]
pub(super) struct PositionFields<'a> {
    pub(super) epoch: Option<Arc<str>>,
    #[serde(borrow)]
    pub(super) offset: &'a RawValue,
}

/// A JSON string, borrowed where it has no escapes. A `Cow<str>` alone would always be a copy.
#[derive(Deserialize)]
pub(crate) struct JsonString<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// Parses an object. A derived struct alone would also accept an array of its fields.
pub(crate) fn object<'a, T: Deserialize<'a>>(text: &'a str) -> serde_json::Result<T> {
    match text.trim_ascii_start().starts_with('{') {
        true => serde_json::from_str(text),
        false => Err(serde::de::Error::custom("it does not start with '{'")),
    }
}

pub(super) fn required<'a>(raw: Option<&'a RawValue>, name: &str) -> Result<&'a RawValue, Refusal> {
    raw.ok_or_else(|| Refusal::invalid(format!("the field '{name}' is missing")))
}

pub(super) fn string<'a>(name: &str, raw: &'a RawValue) -> Result<Cow<'a, str>, Refusal> {
    match serde_json::from_str::<JsonString>(raw.get()) {
        Ok(text) => Ok(text.0),
        Err(_) => Err(invalid(name, raw, "a string")),
    }
}

pub(super) fn integer(name: &str, raw: &RawValue) -> Result<u64, Refusal> {
    match raw.get().parse() {
        Ok(value @ 0..=MAX_OFFSET) => Ok(value),
        _ => Err(invalid(name, raw, "an integer from 0 to 2^53 - 1")),
    }
}

/// Refuses a field that has another value than `expected`.
pub(super) fn invalid(name: &str, raw: &RawValue, expected: &str) -> Refusal {
    Refusal::invalid(format!("{name} must be {expected}, got {}", clip(raw.get())))
}

/// The start of a client's own text, short enough to be sent back.
pub(super) fn clip(text: &str) -> &str {
    let most = MAX_ECHOED_BYTES.min(text.len());
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}
