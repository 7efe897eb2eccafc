//! Single fields of a frame: of the kind that is wanted, or refused by name.

use super::Refusal;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Offsets fit 53 bits, so that every client's numbers hold them.
const MAX_OFFSET: u64 = (1 << 53) - 1;

/// A derived struct would read an array of its fields as well.
pub(super) fn object<'a, T: Deserialize<'a>>(text: &'a str) -> serde_json::Result<T> {
    match text.trim_ascii_start().starts_with('{') {
        true => serde_json::from_str(text),
        false => Err(serde::de::Error::custom("it does not start with {")),
    }
}

pub(super) fn required<'a>(raw: Option<&'a RawValue>, name: &str) -> Result<&'a RawValue, Refusal> {
    raw.ok_or_else(|| Refusal::invalid(format!("the field '{name}' is missing")))
}

pub(super) fn string<'a>(name: &str, raw: &'a RawValue) -> Result<Cow<'a, str>, Refusal> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    match serde_json::from_str::<Text>(raw.get()) {
        Ok(text) => Ok(text.0),
        Err(_) => Err(wrong(name, raw, "a string")),
    }
}

pub(super) fn integer(name: &str, raw: &RawValue) -> Result<u64, Refusal> {
    match raw.get().parse() {
        Ok(value @ 0..=MAX_OFFSET) => Ok(value),
        _ => Err(wrong(name, raw, "an integer from 0 to 2^53 - 1")),
    }
}

pub(super) fn wrong(name: &str, raw: &RawValue, right: &str) -> Refusal {
    Refusal::invalid(format!("{name} is {}, but would be {right}", clip(raw.get())))
}

/// The start of a client's own text, short enough to be sent back.
pub(super) fn clip(text: &str) -> &str {
    let end = (0..=40.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}
