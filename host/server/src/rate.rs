//! How often something may happen, and how many bytes there may be, as written in the configuration: "100/s",
//! "20/m", "1MiB/s". Does not count.

use serde::Deserialize;
use std::time::Duration;
use switchyard_process::unit::{InvalidSize, parse_size};

/// A number of times in a period. They may all happen at once.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate {
    /// Not zero in a configuration. Zero allows nothing.
    pub(crate) times: u32,
    pub(crate) period: Duration,
}

/// A text that is not a rate.
#[derive(Debug, thiserror::Error)]
#[error(r#"invalid rate '{0}'; expected something like "100/s" or "20/m""#)]
pub struct InvalidRate(String);

impl Rate {
    pub(crate) const fn per_second(times: u32) -> Self {
        Self { times, period: Duration::from_secs(1) }
    }

    pub(crate) const fn per_minute(times: u32) -> Self {
        Self { times, period: Duration::from_secs(60) }
    }
}

impl TryFrom<String> for Rate {
    type Error = InvalidRate;

    fn try_from(text: String) -> Result<Self, InvalidRate> {
        let parsed = text.split_once('/').and_then(|(times, unit)| {
            let times = times.parse().ok().filter(|times| *times > 0)?;
            Some(Self { times, period: period(unit)? })
        });
        parsed.ok_or(InvalidRate(text))
    }
}

/// A number of bytes in a period, less than 4 GiB. They may all come at once.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct ByteRate(
    /// Each time is a byte.
    pub(crate) Rate,
);

/// A text that is not a rate of bytes.
#[derive(Debug, thiserror::Error)]
pub enum InvalidByteRate {
    /// It is not of the form "1MiB/s".
    #[error(r#"invalid rate of bytes '{0}'; expected something like "64KiB/s", "1MiB/s" or "10MiB/m""#)]
    Syntax(String),
    /// It is 4 GiB or more.
    #[error("'{0}' is too much: expected less than 4GiB")]
    TooLarge(String),
}

impl TryFrom<String> for ByteRate {
    type Error = InvalidByteRate;

    fn try_from(text: String) -> Result<Self, InvalidByteRate> {
        let parsed = text.split_once('/').and_then(|(size, unit)| Some((parse_size(size), period(unit)?)));
        let (times, period) = match parsed {
            Some((Ok(size @ 1..), period)) => (u32::try_from(size), period),
            Some((Err(InvalidSize::TooLarge(_)), _)) => return Err(InvalidByteRate::TooLarge(text)),
            Some((Ok(_) | Err(InvalidSize::Syntax(_)), _)) | None => {
                return Err(InvalidByteRate::Syntax(text));
            }
        };
        match times {
            Ok(times) => Ok(Self(Rate { times, period })),
            Err(_) => Err(InvalidByteRate::TooLarge(text)),
        }
    }
}

/// The period that a rate ends with.
fn period(unit: &str) -> Option<Duration> {
    match unit {
        "s" => Some(Duration::from_secs(1)),
        "m" => Some(Duration::from_secs(60)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_per_second_or_minute() {
        let parse = |text: &str| Rate::try_from(text.to_owned());
        assert_eq!(parse("100/s").unwrap(), Rate::per_second(100));
        assert_eq!(parse("20/m").unwrap(), Rate { times: 20, period: Duration::from_secs(60) });
        for wrong in ["", "20", "0/s", "-1/s", "20/h", "1.5/s", "/s", "20 / m"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_rate_of_bytes_is_a_size_per_second_or_minute() {
        let parse = |text: &str| ByteRate::try_from(text.to_owned());
        assert_eq!(parse("1MiB/s").unwrap(), ByteRate(Rate::per_second(1 << 20)));
        assert_eq!(parse("64kB/s").unwrap(), ByteRate(Rate::per_second(64_000)));
        assert_eq!(parse("100/m").unwrap().0, Rate { times: 100, period: Duration::from_secs(60) });
        for wrong in ["", "1MiB", "0/s", "0KiB/s", "-1KiB/s", "1MiB/h", "much/s", "/s"] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("invalid rate of bytes '{wrong}'; expected ")), "{error}");
        }
        for wrong in ["4GiB/s", "5GiB/m"] {
            let error = parse(wrong).unwrap_err().to_string();
            assert_eq!(error, format!("'{wrong}' is too much: expected less than 4GiB"));
        }
        assert_eq!(parse("4095MiB/s").unwrap().0.times, 4095 << 20);
    }
}
