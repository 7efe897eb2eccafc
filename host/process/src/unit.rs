//! Durations and sizes as a configuration writes them: "25s", "10m", "64KiB".

use serde::{Deserialize, Deserializer, de::Error};
use std::{net::SocketAddr, time::Duration};

/// The longest duration that is taken anywhere: no time that it is added to, and no unit that it is counted in, overflows.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// The largest size: all that Wasm can address.
const LARGEST: u64 = 4 << 30;

/// "250ms", "2m", "1h 30m".
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    // Only this letter stands for a month, and most who write it mean minutes.
    if text.split(|c: char| !c.is_alphabetic()).any(|unit| unit == "M") {
        let count: String = text.chars().filter(char::is_ascii_digit).collect();
        return Err(format!(
            "'{text}' could be minutes or months: write \"{count}m\" for minutes or \"{count}months\" for months"
        ));
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) | Err(humantime::DurationError::NumberOverflow) => {
            Err(format!("'{text}' is too long: at most 100 years"))
        }
        Err(_) => Err(format!("'{text}' is no duration, such as \"250ms\", \"25s\" or \"10m\"")),
    }
}

/// For `#[serde(deserialize_with = …)]`.
pub fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
}

/// For `#[serde(deserialize_with = …)]`: "64KiB", "1MiB" (1024-based) or "64kB" (1000-based), in bytes.
pub fn size<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    let text = String::deserialize(from)?;
    match text.parse::<bytesize::ByteSize>().map(|size| size.as_u64()) {
        Ok(size) if size <= LARGEST => Ok(size as usize),
        Ok(_) => Err(D::Error::custom(format!("'{text}' is too large: at most 4GiB"))),
        Err(_) => Err(D::Error::custom(format!("'{text}' is no size, such as \"64KiB\" or \"1MiB\""))),
    }
}

/// For `#[serde(deserialize_with = …)]`: where to listen.
pub fn address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| D::Error::custom(format!("'{text}' is no address, such as \"127.0.0.1:8080\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_what_was_meant_or_an_error() {
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
            ("10", "is no duration, such as"),
            ("-1s", "is no duration, such as"),
            ("soon", "is no duration, such as"),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
