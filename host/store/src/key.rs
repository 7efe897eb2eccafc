//! What is kept of an API key: its digest, whose it is, what it may do and until when. Never the key itself.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use switchyard_protocol::room::is_valid_principal;

/// SHA-256 of a key's text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            "a digest is 'sha256:' and 64 hexadecimal digits, as `switchyard key new` prints it".to_owned()
        };
        let hex =
            text.strip_prefix("sha256:").filter(|hex| hex.len() == 64 && hex.is_ascii()).ok_or_else(wrong)?;
        let mut digest = [0; 32];
        for (n, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(digest))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    Subscribe,
    Publish,
    Broadcast,
    Admin,
}

impl Scope {
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Subscribe => "subscribe",
            Scope::Publish => "publish",
            Scope::Broadcast => "broadcast",
            Scope::Admin => "admin",
        }
    }

    pub const ALL: [Self; 4] = [Self::Subscribe, Self::Publish, Self::Broadcast, Self::Admin];
}

/// `[[key]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    pub digest: Digest,
    pub principal: PrincipalName,
    /// The name of a `[tier.…]`; without one the tier `default` holds.
    pub tier: Option<toml::Spanned<String>>,
    pub scopes: Vec<Scope>,
    pub expires: Option<Expiry>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct PrincipalName(pub Arc<str>);

impl TryFrom<String> for PrincipalName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match is_valid_principal(&name) {
            true => Ok(Self(name.into())),
            false => Err(format!("'{name}' is no principal's name: 1 to 64 of A-Z a-z 0-9 . _ -")),
        }
    }
}

/// A TOML date and time in UTC, as Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "toml::value::Datetime")]
pub struct Expiry(pub u64);

/// The last moment that has a date of four digits for its year.
const LAST: u64 = 253_402_300_799_999;

impl fmt::Display for Expiry {
    /// As a configuration has it. A store may hold times beyond any calendar.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.0 > LAST {
            return f.write_str("after the year 9999");
        }
        let at = UNIX_EPOCH + std::time::Duration::from_millis(self.0);
        write!(f, "{}", humantime::format_rfc3339_seconds(at))
    }
}

impl TryFrom<toml::value::Datetime> for Expiry {
    type Error = String;

    fn try_from(at: toml::value::Datetime) -> Result<Self, String> {
        let wrong = |_| format!("'{at}' is no time in UTC, such as 2027-01-01T00:00:00Z");
        let time: SystemTime = humantime::parse_rfc3339(&at.to_string()).map_err(wrong)?;
        Ok(Self(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_can_be_shown() {
        let shown = |at| Expiry(at).to_string();
        assert_eq!(shown(1_798_761_600_000), "2027-01-01T00:00:00Z");
        assert_eq!(shown(LAST), "9999-12-31T23:59:59Z");
        for at in [LAST + 1, u64::MAX / 1000, u64::MAX] {
            assert_eq!(shown(at), "after the year 9999");
        }
    }

    #[test]
    fn a_digest_reads_what_it_writes() {
        let digest = Digest::of("x");
        assert_eq!(Digest::try_from(digest.to_string()).unwrap(), digest);
        assert!(Digest::try_from("sha256:12".to_owned()).unwrap_err().contains("64 hexadecimal"));
    }
}
