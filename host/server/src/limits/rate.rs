//! How often something may happen, as written in the configuration: "100/s", "20/m". Does not count.

use serde::Deserialize;
use std::time::Duration;

/// A number of times in a period. They may all happen at once.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate {
    /// Not zero in a configuration. Zero allows nothing.
    pub(super) times: u32,
    pub(super) period: Duration,
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
            match unit {
                "s" => Some(Self::per_second(times)),
                "m" => Some(Self { times, period: Duration::from_secs(60) }),
                _ => None,
            }
        });
        parsed.ok_or(InvalidRate(text))
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
}
