//! The key of the bucket that a message is counted in.

use crate::Rule;
use crate::config::{KEY, PRINCIPAL, ROOM};
use serde_json::{Number, Value};
use std::borrow::Cow;
use std::fmt::Write;
use switchyard_sdk::{Publication, Reject};

/// Whole numbers up to here are exact in every JSON parser.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// The key for a message. `data` is there if the rule reads it.
pub(crate) fn key(
    rule: &Rule,
    publication: &Publication<'_>,
    data: Option<&Value>,
) -> Result<String, Reject> {
    let mut key = rule.identity();
    for part in &rule.by {
        let value = match part.as_str() {
            PRINCIPAL => Cow::Borrowed(publication.who.id.as_str()),
            KEY => Cow::Borrowed(publication.who.key_id.as_str()),
            ROOM => Cow::Borrowed(publication.message.room),
            pointer if rule.ignore_case => Cow::Owned(field(pointer, data)?.to_lowercase()),
            pointer => field(pointer, data)?,
        };
        // With its length, so that no value can pretend to be two.
        let _ = write!(key, " {}:{value}", value.len());
    }
    Ok(key)
}

/// The text of a field. Equal values have equal texts, however they are written: otherwise a publisher
/// would have a bucket for each way to write its wallet.
fn field<'a>(pointer: &str, data: Option<&'a Value>) -> Result<Cow<'a, str>, Reject> {
    let expected =
        |found: &str| Reject::invalid(format!("data{pointer} must be a string or a number, got {found}"));
    match data.and_then(|data| data.pointer(pointer)) {
        Some(Value::String(text)) => Ok(Cow::Borrowed(text)),
        Some(Value::Number(number)) => Ok(Cow::Owned(canonical(number))),
        Some(Value::Bool(_)) => Err(expected("true or false")),
        Some(Value::Null) => Err(expected("null")),
        Some(Value::Array(_)) => Err(expected("a list")),
        Some(Value::Object(_)) => Err(expected("an object")),
        None => Err(expected("nothing")),
    }
}

fn canonical(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if float.fract() == 0.0 && float.abs() <= MAX_EXACT => format!("{}", float as i64),
        _ => number.to_string(),
    }
}
