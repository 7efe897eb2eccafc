//! What is stored about an API key: its digest and id, its principal, what it permits, and when it expires.
//! Never the key itself.

use crate::grant::Grants;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use switchyard_protocol::room::is_valid_word;

/// The SHA-256 of an API key's text. Displayed and parsed as `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of an API key.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// The 32 bytes of the digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A text that is not a digest. The error does not repeat it, because it may be a key.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("invalid digest; expected 'sha256:' and 64 hexadecimal digits, as printed by `switchyard key new`")]
pub struct InvalidDigest;

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64 && hex.is_ascii());
        let hex = hex.ok_or(InvalidDigest)?;
        let mut digest = [0; 32];
        for (n, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).map_err(|_| InvalidDigest)?;
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

/// What an API key permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Joining rooms and reading them.
    Subscribe,
    /// Publishing to rooms.
    Publish,
    /// Publishing to the room `*`, which every client is in.
    Broadcast,
    /// The HTTP API for operators.
    Admin,
}

impl Scope {
    /// The scope as it is written in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Subscribe => "subscribe",
            Scope::Publish => "publish",
            Scope::Broadcast => "broadcast",
            Scope::Admin => "admin",
        }
    }

    /// All scopes.
    pub const ALL: [Self; 4] = [Self::Subscribe, Self::Publish, Self::Broadcast, Self::Admin];
}

/// An API key, as `[[key]]` of the configuration or as an entry of the store.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// What the key is called in logs, errors and `/v1`, and what plugins know it by. Without it, `key-` and the first
    /// 8 digits of its digest; see [`KeyConfig::id`].
    pub id: Option<KeyId>,
    /// The digest of the key's text.
    pub digest: Digest,
    /// The principal that the key authenticates.
    pub principal: PrincipalName,
    /// The name of a `[tier.NAME]`. Without it, the tier is `default`.
    pub tier: Option<toml::Spanned<String>>,
    /// Which kinds of requests the key permits.
    pub scopes: Vec<Scope>,
    /// In which rooms the key permits what. Without it, everything that its scopes permit in every ordinary room, and in
    /// the inbox of its principal.
    pub rooms: Option<Grants>,
    /// What plugins are told about the key.
    #[serde(default)]
    pub tags: Tags,
    /// When it stops being valid. Without it, never.
    pub expires: Option<Expiry>,
}

impl KeyConfig {
    /// A key with these scopes, without restrictions and without an expiry.
    pub fn new(digest: Digest, principal: PrincipalName, scopes: Vec<Scope>) -> Self {
        let (id, tier, rooms, tags, expires) = (None, None, None, Tags::default(), None);
        Self { id, digest, principal, tier, scopes, rooms, tags, expires }
    }

    /// The id of the key, also if the configuration does not name one.
    pub fn id(&self) -> Arc<str> {
        match &self.id {
            Some(id) => id.0.clone(),
            None => format!("key-{}", &self.digest.to_string()["sha256:".len()..][..8]).into(),
        }
    }
}

/// The id of a key: 1 to 64 of the characters `A-Z a-z 0-9 . _ -`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyId(pub Arc<str>);

/// A text that cannot be the id of a key.
#[derive(Clone, Debug, thiserror::Error)]
#[error("invalid id; expected 1 to 64 of the characters A-Z a-z 0-9 . _ -")]
pub struct InvalidKeyId;

impl TryFrom<String> for KeyId {
    type Error = InvalidKeyId;

    /// The error does not repeat the text, because it may be a key.
    fn try_from(id: String) -> Result<Self, InvalidKeyId> {
        if is_valid_word(&id) { Ok(Self(id.into())) } else { Err(InvalidKeyId) }
    }
}

/// Maximum number of tags of a key.
const MAX_TAGS: usize = 16;
/// Maximum length of the value of a tag, in bytes.
const MAX_TAG_BYTES: usize = 256;

/// The tags of a key: `key.tags`. Their names have the form of a [`KeyId`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Tags(BTreeMap<String, String>);

/// A table that cannot be the tags of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTags {
    /// There are too many.
    #[error("{0} tags; at most {MAX_TAGS} are allowed")]
    TooMany(usize),
    /// A name is wrong.
    #[error("invalid name of a tag '{0}'; expected 1 to 64 of the characters A-Z a-z 0-9 . _ -")]
    Name(String),
    /// A value is too long.
    #[error("the value of tag '{0}' has {1} bytes; at most {MAX_TAG_BYTES} are allowed")]
    Value(String, usize),
}

impl TryFrom<BTreeMap<String, String>> for Tags {
    type Error = InvalidTags;

    fn try_from(tags: BTreeMap<String, String>) -> Result<Self, InvalidTags> {
        if tags.len() > MAX_TAGS {
            return Err(InvalidTags::TooMany(tags.len()));
        }
        for (name, value) in &tags {
            if !is_valid_word(name) {
                return Err(InvalidTags::Name(name.clone()));
            }
            if value.len() > MAX_TAG_BYTES {
                return Err(InvalidTags::Value(name.clone(), value.len()));
            }
        }
        Ok(Self(tags))
    }
}

impl Tags {
    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The name of a principal: 1 to 64 of the characters `A-Z a-z 0-9 . _ -`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct PrincipalName(pub Arc<str>);

/// A text that cannot be the name of a principal.
#[derive(Clone, Debug, thiserror::Error)]
#[error("invalid principal '{0}'; expected 1 to 64 of the characters A-Z a-z 0-9 . _ -")]
pub struct InvalidPrincipal(pub String);

impl TryFrom<String> for PrincipalName {
    type Error = InvalidPrincipal;

    fn try_from(name: String) -> Result<Self, InvalidPrincipal> {
        match is_valid_word(&name) {
            true => Ok(Self(name.into())),
            false => Err(InvalidPrincipal(name)),
        }
    }
}

/// When an API key expires, in Unix milliseconds. In a configuration, a TOML date and time in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "toml::value::Datetime")]
pub struct Expiry(pub u64);

/// The last millisecond of the year 9999, in Unix milliseconds.
const LAST_DISPLAYABLE_MS: u64 = 253_402_300_799_999;

impl fmt::Display for Expiry {
    /// As in a configuration, with seconds. A store can hold times that have no such date.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.0 > LAST_DISPLAYABLE_MS {
            return f.write_str("after the year 9999");
        }
        let at = UNIX_EPOCH + std::time::Duration::from_millis(self.0);
        write!(f, "{}", humantime::format_rfc3339_seconds(at))
    }
}

/// A TOML date and time that is not in UTC, or has no date or no time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("invalid time '{0}'; expected a date and time in UTC, e.g. 2027-01-01T00:00:00Z")]
pub struct InvalidExpiry(toml::value::Datetime);

impl TryFrom<toml::value::Datetime> for Expiry {
    type Error = InvalidExpiry;

    fn try_from(at: toml::value::Datetime) -> Result<Self, InvalidExpiry> {
        let time: SystemTime = humantime::parse_rfc3339(&at.to_string()).map_err(|_| InvalidExpiry(at))?;
        Ok(Self(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expiry_can_be_displayed() {
        let shown = |at| Expiry(at).to_string();
        assert_eq!(shown(1_798_761_600_000), "2027-01-01T00:00:00Z");
        assert_eq!(shown(LAST_DISPLAYABLE_MS), "9999-12-31T23:59:59Z");
        for at in [LAST_DISPLAYABLE_MS + 1, u64::MAX / 1000, u64::MAX] {
            assert_eq!(shown(at), "after the year 9999");
        }
    }

    #[test]
    fn tags_are_bounded() {
        let tags = |count: usize, name: &str, value: usize| {
            let tags = (0..count).map(|n| (format!("{name}{n}"), "x".repeat(value)));
            Tags::try_from(tags.collect::<BTreeMap<_, _>>())
        };
        assert_eq!(tags(MAX_TAGS, "team", MAX_TAG_BYTES).unwrap().iter().count(), MAX_TAGS);
        assert_eq!(tags(MAX_TAGS + 1, "team", 1), Err(InvalidTags::TooMany(MAX_TAGS + 1)));
        assert_eq!(tags(1, "a b", 1), Err(InvalidTags::Name("a b0".to_owned())));
        let too_long = InvalidTags::Value("team0".to_owned(), MAX_TAG_BYTES + 1);
        assert_eq!(tags(1, "team", MAX_TAG_BYTES + 1), Err(too_long));
    }

    #[test]
    fn a_key_without_an_id_is_called_by_its_digest() {
        let key = |id: &str| {
            let digest = Digest::of("x");
            let text = format!("{id}digest = \"{digest}\"\nprincipal = \"acme\"\nscopes = []\n");
            toml::from_str::<KeyConfig>(&text).unwrap().id()
        };
        assert_eq!(&*key("id = \"acme-feed\"\n"), "acme-feed");
        assert_eq!(*key(""), format!("key-{}", &Digest::of("x").to_string()[7..15]));
    }

    #[test]
    fn a_digest_parses_what_it_displays() {
        let digest = Digest::of("x");
        assert_eq!(Digest::try_from(digest.to_string()).unwrap(), digest);
        assert!(Digest::try_from("sha256:12".to_owned()).unwrap_err().to_string().contains("64 hexadecimal"));
    }
}
