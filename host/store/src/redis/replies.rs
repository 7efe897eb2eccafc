//! Converts replies of Redis to plain values. What commands are sent with is in `arguments`.

use crate::Unavailable;
use fred::types::{Value, ValueKind};
use std::{sync::Arc, vec};

/// A reply that does not have the expected form. Names the kind of the value but not the value, which may be
/// somebody's data.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum InvalidReply {
    #[error("unexpected reply of Redis: expected {expected}, got {found}")]
    Kind { expected: &'static str, found: ValueKind },
    #[error("unexpected reply of Redis: it is too short")]
    TooShort,
    #[error("unexpected reply of Redis: unknown status")]
    Status,
    #[error("unexpected reply of Redis: a message in the log of a room is malformed")]
    Message,
}

impl From<InvalidReply> for Unavailable {
    fn from(error: InvalidReply) -> Self {
        Self(error.to_string())
    }
}

/// The elements of a list, read one after another.
pub(super) struct Elements(vec::IntoIter<Value>);

impl Elements {
    pub(super) fn of(reply: Value) -> Result<Self, InvalidReply> {
        Ok(Self(list(reply)?.into_iter()))
    }

    pub(super) fn next(&mut self) -> Result<Value, InvalidReply> {
        self.0.next().ok_or(InvalidReply::TooShort)
    }

    pub(super) fn number(&mut self) -> Result<u64, InvalidReply> {
        number(&self.next()?)
    }

    /// A number that is 1 if true.
    pub(super) fn flag(&mut self) -> Result<bool, InvalidReply> {
        Ok(self.number()? == 1)
    }

    pub(super) fn text(&mut self) -> Result<Arc<str>, InvalidReply> {
        text(self.next()?)
    }

    pub(super) fn texts(&mut self) -> Result<Vec<Arc<str>>, InvalidReply> {
        texts(self.next()?)
    }

    /// All remaining elements.
    pub(super) fn rest(&mut self) -> Result<Vec<Arc<str>>, InvalidReply> {
        self.0.by_ref().map(text).collect()
    }
}

pub(super) fn list(value: Value) -> Result<Vec<Value>, InvalidReply> {
    match value {
        Value::Array(values) => Ok(values),
        other => Err(unexpected("a list", &other)),
    }
}

type Pair = (Arc<str>, Arc<str>);

/// The fields and values of a hash.
pub(super) fn pairs(value: Value) -> Result<Vec<Pair>, InvalidReply> {
    let flat = match value {
        Value::Map(map) => map.inner().into_iter().flat_map(|(k, v)| [k.into(), v]).collect(),
        other => list(other)?,
    };
    let texts: Vec<_> = flat.into_iter().map(text).collect::<Result<_, _>>()?;
    Ok(texts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
}

pub(super) fn texts(value: Value) -> Result<Vec<Arc<str>>, InvalidReply> {
    list(value)?.into_iter().map(text).collect()
}

pub(super) fn text(value: Value) -> Result<Arc<str>, InvalidReply> {
    match value.as_str() {
        Some(text) => Ok(text.as_ref().into()),
        None => Err(unexpected("a text", &value)),
    }
}

pub(super) fn number(value: &Value) -> Result<u64, InvalidReply> {
    let number = match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        Value::Double(number) => Some(*number as u64),
        other => other.as_str().and_then(|text| text.parse().ok()),
    };
    number.ok_or_else(|| unexpected("a number", value))
}

fn unexpected(expected: &'static str, found: &Value) -> InvalidReply {
    InvalidReply::Kind { expected, found: found.kind() }
}
