//! How much memory the node may keep, as configured. Does not count what it keeps.

use super::available::available_bytes;
use crate::unit;
use serde::{Deserialize, Deserializer, de::Error};

/// The section `[memory]` of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// How much memory the node may keep for others.
    pub limit: MemoryLimit,
}

/// How much memory the node may keep: "2GiB", or "60%" (the default) of the memory that is available to the
/// process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MemoryLimit {
    /// 1 to 100 percent of the memory that is available to the process.
    Percent(u8),
    /// So many bytes, at least 1 MiB.
    Bytes(usize),
}

/// The smallest limit: with less, a node is of no use.
const MIN_BYTES: usize = 1 << 20;

impl Default for MemoryLimit {
    fn default() -> Self {
        Self::Percent(60)
    }
}

impl<'de> Deserialize<'de> for MemoryLimit {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = unit::string(from, r#"a limit such as "60%" or "2GiB""#)?;
        let invalid = || {
            let expected = r#"at least 1MiB, such as "2GiB", or 1% to 100% of the available memory"#;
            D::Error::custom(format!("invalid limit '{text}'; expected {expected}"))
        };
        if let Some(percent) = text.strip_suffix('%') {
            return match percent.trim().parse() {
                Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
                _ => Err(invalid()),
            };
        }
        let size = text.parse::<bytesize::ByteSize>().map_err(|_| invalid())?;
        match usize::try_from(size.as_u64()) {
            Ok(bytes @ MIN_BYTES..) => Ok(Self::Bytes(bytes)),
            _ => Err(invalid()),
        }
    }
}

impl MemoryLimit {
    /// The limit in bytes, on this machine and within the cgroups of this process.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => available_bytes() / 100 * usize::from(percent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_percentage_or_a_size() {
        let read = |text: &str| toml::from_str::<MemoryConfig>(&format!("limit = \"{text}\""));
        for (text, limit) in [
            ("1%", MemoryLimit::Percent(1)),
            ("100%", MemoryLimit::Percent(100)),
            ("2GiB", MemoryLimit::Bytes(2 << 30)),
        ] {
            assert_eq!(read(text).unwrap().limit, limit);
        }
        for text in ["0%", "101%", "-5%", "6.5%", "%", "much", "", "64KiB"] {
            let error = read(text).unwrap_err().message().to_owned();
            assert!(
                error.starts_with(&format!("invalid limit '{text}'; expected at least 1MiB,")),
                "{error}"
            );
        }
        assert_eq!(toml::from_str::<MemoryConfig>("").unwrap().limit, MemoryLimit::Percent(60));
    }
}
