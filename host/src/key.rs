//! API keys: what a key may do and until when. Only digests are kept; a key itself is seen while it is checked.

use crate::{
    protocol::{Code, Refusal, unix_ms},
    room::is_principal,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use subtle::ConstantTimeEq;

/// SHA-256 of a key's text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
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
        match is_principal(&name) {
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

/// `[tier.NAME]`: what a principal with such a key may hold.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tier {
    /// Live connections of one principal on this node.
    pub connections: u32,
    /// Rooms of one connection, `*` and the inbox not counted.
    pub rooms: u32,
}

impl Default for Tier {
    fn default() -> Self {
        Self { connections: 100, rooms: 100 }
    }
}

pub const DEFAULT_TIER: &str = "default";

/// What a key was found to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub digest: Digest,
    pub principal: Arc<str>,
    pub tier: Arc<str>,
    pub limits: Tier,
    scopes: Vec<Scope>,
    /// Unix milliseconds.
    expires: Option<u64>,
}

impl Key {
    /// Refuses what the key has no scope for; `what` completes "may not …".
    pub fn require(&self, scope: Scope, what: impl fmt::Display) -> Result<(), Refusal> {
        if self.may(scope) {
            return Ok(());
        }
        let message =
            format!("key '{}' may not {what}: it lacks the scope '{}'", self.principal, scope.as_str());
        Err(Refusal::new(Code::Forbidden, message))
    }

    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    fn live(&self, now: u64) -> Result<(), Refusal> {
        match self.expires {
            Some(at) if at <= now => {
                let at = Expiry(at);
                Err(Refusal::new(Code::ExpiredKey, format!("key '{}' expired at {at}", self.principal)))
            }
            _ => Ok(()),
        }
    }
}

/// All keys. Looked up by the first bytes of the digest, compared whole in constant time.
#[derive(Default)]
pub struct Keys {
    by_prefix: HashMap<[u8; 8], Vec<Arc<Key>>>,
    principals: HashSet<Arc<str>>,
}

impl Keys {
    /// Every tier that a key names must be in `tiers`, which the configuration's check sees to.
    pub fn new(keys: &[KeyConfig], tiers: &HashMap<String, Tier>) -> Self {
        let mut all = Self::default();
        for config in keys {
            let tier = config.tier.as_ref().map_or(DEFAULT_TIER, |tier| tier.get_ref().as_str());
            all.insert(Key {
                digest: config.digest,
                principal: config.principal.0.clone(),
                tier: tier.into(),
                limits: tiers.get(tier).copied().unwrap_or_default(),
                scopes: config.scopes.clone(),
                expires: config.expires.map(|expires| expires.0),
            });
        }
        all
    }

    fn insert(&mut self, key: Key) {
        let prefix = key.digest.0[..8].try_into().expect("eight bytes");
        self.principals.insert(key.principal.clone());
        self.by_prefix.entry(prefix).or_default().push(Arc::new(key));
    }

    /// Whether a principal has a key, be it a good one or not.
    pub fn name(&self, principal: &str) -> bool {
        self.principals.contains(principal)
    }

    /// The key that a client presented.
    pub fn check(&self, key: &str) -> Result<Arc<Key>, Refusal> {
        self.find(&Digest::of(key))
    }

    /// What a known key is now: keys change while connections live.
    pub fn find(&self, digest: &Digest) -> Result<Arc<Key>, Refusal> {
        let same = |key: &&Arc<Key>| bool::from(key.digest.0.ct_eq(&digest.0));
        let found = self.by_prefix.get(&digest.0[..8]).and_then(|keys| keys.iter().find(same));
        let Some(key) = found else {
            return Err(Refusal::new(
                Code::InvalidKey,
                "the key is not known here; present one that is configured",
            ));
        };
        key.live(unix_ms())?;
        Ok(key.clone())
    }
}

/// A new key: 160 random bits, readable by its prefix.
pub fn generate() -> String {
    let mut bits = [0u8; 20];
    getrandom::fill(&mut bits).expect("the system has entropy");
    bits.iter().fold("sk_".to_owned(), |key, byte| key + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(expires: Option<u64>) -> Keys {
        let config = KeyConfig {
            digest: Digest::of("secret"),
            principal: PrincipalName("acme".into()),
            tier: None,
            scopes: vec![Scope::Publish],
            expires: expires.map(Expiry),
        };
        Keys::new(&[config], &HashMap::new())
    }

    #[test]
    fn a_key_is_known_by_its_digest_until_it_expires() {
        let key = keys(None).check("secret").unwrap();
        assert_eq!(&*key.principal, "acme");
        assert!(key.require(Scope::Publish, "publish").is_ok());
        let refusal = key.require(Scope::Admin, "see rooms").unwrap_err();
        assert!(refusal.message.contains("'acme' may not see rooms") && refusal.message.contains("admin"));
        assert_eq!(keys(None).check("secreT").unwrap_err().code, Code::InvalidKey);
        assert_eq!(keys(Some(unix_ms() - 1)).check("secret").unwrap_err().code, Code::ExpiredKey);
    }

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
