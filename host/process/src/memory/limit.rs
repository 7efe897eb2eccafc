//! How much may be kept, as configured.

use super::machine;
use serde::{Deserialize, Deserializer, de::Error};

/// `[memory]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    pub limit: Limit,
}

/// How much may be kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// In percent of what the process may have.
    Percent(u8),
    Bytes(usize),
}

/// A node that may keep less is of no use.
const LEAST: usize = 1 << 20;

impl Default for Limit {
    fn default() -> Self {
        Self::Percent(60)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = |why: &str| {
            let right = "a size of at least 1MiB, such as \"2GiB\", or 1% to 100% of the memory there is";
            D::Error::custom(format!("'{text}' {why}; it is {right}"))
        };
        if let Some(share) = text.strip_suffix('%') {
            let share: u8 = share.trim().parse().map_err(|_| wrong("is no share"))?;
            return match share {
                1..=100 => Ok(Self::Percent(share)),
                _ => Err(wrong("is no share")),
            };
        }
        let size = text.parse::<bytesize::ByteSize>().map_err(|_| wrong("is no size"))?;
        match usize::try_from(size.as_u64()) {
            Ok(bytes @ LEAST..) => Ok(Self::Bytes(bytes)),
            _ => Err(wrong("is too little")),
        }
    }
}

impl Limit {
    /// In bytes, on this machine and within the limits of the process' cgroup.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(share) => machine::memory() / 100 * usize::from(share),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_share_or_a_size() {
        let read = |text: &str| toml::from_str::<MemoryConfig>(&format!("limit = \"{text}\""));
        for (text, limit) in
            [("1%", Limit::Percent(1)), ("100%", Limit::Percent(100)), ("2GiB", Limit::Bytes(2 << 30))]
        {
            assert_eq!(read(text).unwrap().limit, limit);
        }
        for (text, why) in [
            ("0%", "is no share"),
            ("101%", "is no share"),
            ("-5%", "is no share"),
            ("6.5%", "is no share"),
            ("%", "is no share"),
            ("much", "is no size"),
            ("", "is no size"),
            ("64KiB", "is too little"),
        ] {
            let error = read(text).unwrap_err().message().to_owned();
            assert!(error.starts_with(&format!("'{text}' {why}; it is a size of")), "{error}");
        }
        assert_eq!(toml::from_str::<MemoryConfig>("").unwrap().limit, Limit::Percent(60));
    }
}
