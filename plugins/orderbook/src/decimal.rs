//! Prices and sizes: decimals of 0 or more.

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// A price or a size, 0 or more. In JSON it is a number or, as exchanges write it to keep every digit, a
/// string such as `"13.34"`. It is only compared: the plugin passes the original bytes on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Decimal(pub(crate) switchyard_sdk::Decimal);

impl Decimal {
    /// Reads a value; `None` if it is not a decimal of 0 or more.
    pub(crate) fn of(value: &RawValue) -> Option<Self> {
        switchyard_sdk::Decimal::of(value).filter(|number| !number.is_negative()).map(Self)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = <&RawValue>::deserialize(deserializer)?;
        Self::of(value).ok_or_else(|| D::Error::custom("not a decimal of 0 or more"))
    }
}

/// Like [`Decimal`], but only validates. Its errors have a position, which serde_json no longer knows once a
/// value was read as raw text.
pub(crate) struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl Visitor<'_> for Checked {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a decimal of 0 or more, such as \"13.34\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self, E> {
        match switchyard_sdk::Decimal::parse(text) {
            Some(number) if !number.is_negative() => Ok(self),
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self, E> {
        match number < 0.0 {
            true => Err(E::invalid_value(Unexpected::Float(number), &self)),
            false => Ok(self),
        }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self, E> {
        match number < 0 {
            true => Err(E::invalid_value(Unexpected::Signed(number), &self)),
            false => Ok(self),
        }
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }
}
