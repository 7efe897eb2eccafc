//! What goes to Redis and comes back, as plain values.

use crate::Unavailable;
use fred::types::Value;
use std::{sync::Arc, time::Duration};

pub(super) fn integer(value: u64) -> Value {
    // As text, since a script is given text in any case, and no number of ours has more than 53 bits.
    Value::from(value.to_string())
}

pub(super) fn millis(duration: Duration) -> Value {
    integer(duration.as_millis() as u64)
}

pub(super) fn list(value: Value) -> Result<Vec<Value>, Unavailable> {
    match value {
        Value::Array(values) => Ok(values),
        other => Err(unexpected(&other)),
    }
}

type Pair = (Arc<str>, Arc<str>);

/// Fields and values of a hash.
pub(super) fn pairs(value: Value) -> Result<Vec<Pair>, Unavailable> {
    let flat = match value {
        Value::Map(map) => map.inner().into_iter().flat_map(|(k, v)| [k.into(), v]).collect(),
        other => list(other)?,
    };
    let texts: Vec<_> = flat.into_iter().map(text).collect::<Result<_, _>>()?;
    Ok(texts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
}

pub(super) fn texts(value: Value) -> Result<Vec<Arc<str>>, Unavailable> {
    list(value)?.into_iter().map(text).collect()
}

pub(super) fn text(value: Value) -> Result<Arc<str>, Unavailable> {
    match value.as_str() {
        Some(text) => Ok(text.as_ref().into()),
        None => Err(unexpected(&value)),
    }
}

pub(super) fn number(value: &Value) -> Result<u64, Unavailable> {
    let number = match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        Value::Double(number) => Some(*number as u64),
        other => other.as_str().and_then(|text| text.parse().ok()),
    };
    number.ok_or_else(|| unexpected(value))
}

pub(super) fn nth(parts: &[Arc<str>], n: usize) -> Result<u64, Unavailable> {
    parts.get(n).and_then(|part| part.parse().ok()).ok_or_else(too_short)
}

pub(super) fn too_short() -> Unavailable {
    Unavailable("Redis answered less than was asked".to_owned())
}

/// Says what kind of value came and not the value, which may be somebody's data.
pub(super) fn unexpected(value: &Value) -> Unavailable {
    Unavailable(format!("Redis answered a {} where something else was expected", value.kind()))
}
