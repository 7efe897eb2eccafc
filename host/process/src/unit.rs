//! Durations, sizes and addresses as the configuration and the command line spell them: "25s", "10m",
//! "64KiB". Knows no key of the configuration.

use serde::{
    Deserializer,
    de::{Error, Visitor},
};
use std::{fmt, net::SocketAddr, time::Duration};

/// The longest duration that is accepted anywhere. Adding it to any time, or converting it to any unit,
/// cannot overflow.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// The largest size that is accepted anywhere: all the memory that Wasm can address.
const MAX_SIZE_BYTES: u64 = 4 << 30;

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// It is not of the form "250ms", "25s" or "1h 30m".
    #[error(r#"invalid duration '{0}'; expected something like "250ms", "25s", "10m""#)]
    Syntax(String),
    /// It uses `M`, which stands for months, and most people who write it mean minutes.
    #[error(
        "'{text}' could be minutes or months: write \"{count}m\" for minutes or \"{count}months\" for months"
    )]
    Ambiguous {
        /// The text.
        text: String,
        /// The digits in it.
        count: String,
    },
    /// It is longer than 100 years.
    #[error("'{0}' is too long: at most 100 years")]
    TooLong(String),
}

/// Parses a duration such as "250ms", "2m" or "1h 30m", of at most 100 years.
///
/// # Errors
///
/// If the text is not a duration, is longer than that, or uses the unit `M`.
///
/// ```
/// use std::time::Duration;
/// use switchyard_process::unit::parse_duration;
///
/// assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
/// assert!(parse_duration("10M").is_err());
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    if text.split(|c: char| !c.is_alphabetic()).any(|unit| unit == "M") {
        let count = text.chars().filter(char::is_ascii_digit).collect();
        return Err(InvalidDuration::Ambiguous { text: text.to_owned(), count });
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= MAX_DURATION => Ok(duration),
        Ok(_) | Err(humantime::DurationError::NumberOverflow) => {
            Err(InvalidDuration::TooLong(text.to_owned()))
        }
        Err(_) => Err(InvalidDuration::Syntax(text.to_owned())),
    }
}

/// Reads a duration, as [`parse_duration`] does. For `#[serde(deserialize_with = …)]`.
///
/// # Errors
///
/// If the value is not a string of this form.
pub fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse_duration(&string(from, r#"a duration such as "5s""#)?).map_err(D::Error::custom)
}

/// A text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSize {
    /// It is not of the form "64KiB".
    #[error(r#"invalid size '{0}'; expected something like "64KiB", "1MiB""#)]
    Syntax(String),
    /// It is larger than 4 GiB.
    #[error("'{0}' is too large: at most 4GiB")]
    TooLarge(String),
}

/// Parses a size of at most 4 GiB, such as "64KiB" or "1MiB" (1024-based) or "64kB" (1000-based), into bytes.
///
/// # Errors
///
/// If the text is not a size, or is larger than that.
pub fn parse_size(text: &str) -> Result<usize, InvalidSize> {
    match text.parse::<bytesize::ByteSize>().map(|size| size.as_u64()) {
        Ok(size) if size <= MAX_SIZE_BYTES => Ok(size as usize),
        Ok(_) => Err(InvalidSize::TooLarge(text.to_owned())),
        Err(_) => Err(InvalidSize::Syntax(text.to_owned())),
    }
}

/// A size with the largest unit in which it is a whole number.
///
/// ```
/// use switchyard_process::unit::show_size;
///
/// assert_eq!((show_size(1 << 20), show_size(1536), show_size(1000)), ("1MiB".into(), "1536B".into(), "1000B".into()));
/// ```
pub fn show_size(bytes: usize) -> String {
    let unit = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = unit.into_iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    unit.map_or(format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

/// Reads a size, as [`parse_size`] does. For `#[serde(deserialize_with = …)]`.
///
/// # Errors
///
/// If the value is not a string of this form.
pub fn size<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    parse_size(&string(from, r#"a size such as "64KiB""#)?).map_err(D::Error::custom)
}

/// Reads an IP address with a port, to listen on. For `#[serde(deserialize_with = …)]`.
///
/// # Errors
///
/// If the value is not a string of this form.
pub fn address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = string(from, r#"an address such as "127.0.0.1:8080""#)?;
    text.parse().map_err(|_| {
        D::Error::custom(format!(
            r#"invalid address '{text}'; expected an IP address, not a host name, and a port, such as "127.0.0.1:8080""#
        ))
    })
}

/// Reads a string. If the value has another type, the error says that `expected` was expected, such as `a
/// duration such as "5s"`.
///
/// # Errors
///
/// If the value is not a string.
pub fn string<'de, D: Deserializer<'de>>(from: D, expected: &'static str) -> Result<String, D::Error> {
    struct StringVisitor(&'static str);

    impl Visitor<'_> for StringVisitor {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
    }

    from.deserialize_str(StringVisitor(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_unambiguous_or_an_error() {
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("1month"), Ok(Duration::from_secs(2_630_016)));
        for (text, expected) in [
            ("10M", "write \"10m\" for minutes or \"10months\" for months"),
            ("1h 30M", "could be minutes or months"),
            ("8000y", "'8000y' is too long: at most 100 years"),
            ("500000000y", "too long"),
            ("99999999999999999999y", "too long"),
            ("18446744073709551615s", "too long"),
            ("10", "invalid duration '10'; expected something like \"250ms\", \"25s\", \"10m\""),
            ("-1s", "invalid duration '-1s'"),
            ("soon", "invalid duration 'soon'"),
        ] {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_value_of_another_type_is_told_what_it_should_be() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(default)]
        struct Values {
            #[serde(deserialize_with = "duration")]
            duration: Duration,
            #[serde(deserialize_with = "size")]
            size: usize,
            #[serde(deserialize_with = "address")]
            address: SocketAddr,
        }
        impl Default for Values {
            fn default() -> Self {
                Self { duration: Duration::ZERO, size: 0, address: ([127, 0, 0, 1], 1).into() }
            }
        }
        let values: Values =
            toml::from_str("duration = \"5s\"\nsize = \"1KiB\"\naddress = \"[::1]:80\"").unwrap();
        assert_eq!((values.duration, values.size, values.address.port()), (Duration::from_secs(5), 1024, 80));
        for (text, expected) in [
            ("duration = 5", r#"invalid type: integer `5`, expected a duration such as "5s""#),
            ("size = 5", r#"invalid type: integer `5`, expected a size such as "64KiB""#),
            ("address = 5", r#"invalid type: integer `5`, expected an address such as "127.0.0.1:8080""#),
            (
                "address = \"localhost:8080\"",
                "invalid address 'localhost:8080'; expected an IP address, not a host name, and a port, such as ",
            ),
        ] {
            let error = toml::from_str::<Values>(text).unwrap_err();
            assert!(error.message().starts_with(expected), "{text}: {error}");
        }
    }
}
