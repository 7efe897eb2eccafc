//! A price or a size.

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use std::fmt;

/// Finite and not negative; a JSON number or, as exchanges write it to keep every digit, a text such as
/// `"13.34"`. -0 is 0. Only compared: what is sent on are the bytes that came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decimal(pub(crate) f64);

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Decimal;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a decimal of 0 or more, such as \"13.34\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Decimal, E> {
                // Read as a filter's number is, so that equal digits compare equal; std's parser would also take "inf".
                match serde_json::from_slice(text.as_bytes()) {
                    Ok(number) if number >= 0.0 => Ok(Decimal(f64::abs(number))),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Decimal, E> {
                if number < 0.0 {
                    return Err(E::invalid_value(Unexpected::Float(number), &self));
                }
                Ok(Decimal(number.abs()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Decimal, E> {
                Ok(Decimal(number as f64))
            }
        }
        deserializer.deserialize_any(Text)
    }
}
