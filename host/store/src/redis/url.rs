//! `store.url` of a Redis: its address and how to talk to it. Its secrets are shown nowhere.

use fred::types::config::{Config, ServerConfig};
use percent_encoding::percent_decode_str;
use std::fmt;
use url::{ParseError, Url};

/// A checked URL of a Redis: standalone, behind Sentinels, or a Cluster.
///
/// `Debug` and `Display` show neither users nor passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// Without credentials.
    address: Url,
    user: Option<Vec<u8>>,
    password: Option<Vec<u8>>,
    sentinel_user: Option<String>,
    sentinel_password: Option<String>,
    /// The passwords in every form in which they may occur in a text.
    secrets: Secrets,
}

/// Texts that are removed from errors of others.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Secrets(Vec<String>);

const SCHEMES: [&str; 6] =
    ["redis", "rediss", "redis-cluster", "rediss-cluster", "redis-sentinel", "rediss-sentinel"];

/// Part of an error, because an unescaped character makes a part of a password look like a host or a port.
const HINT: &str =
    "in a user or a password, write each of / ? # @ : % as % and two hexadecimal digits, such as %2F for /";

/// Why a text is not a URL of a Redis. Shows nothing of it that could be part of a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisUrlError {
    /// Its scheme in quotes after a space, or nothing if the scheme could be a secret.
    #[error("store.url: unknown scheme{0}; expected memory, {schemes}", schemes = SCHEMES.map(|scheme| format!("{scheme}://")).join(", "))]
    UnknownScheme(String),
    /// It contains a tab, a line end or another control character.
    #[error("invalid store.url: write a tab, a line end or the like as % and two hexadecimal digits")]
    ControlCharacter,
    /// The port is not a number up to 65535.
    #[error("invalid store.url: the port must be a number up to 65535; {HINT}")]
    Port,
    /// There is no host.
    #[error("invalid store.url: it has no host; {HINT}")]
    NoHost,
    /// It is not a URL.
    #[error("invalid store.url: it is not a URL; {HINT}")]
    Syntax,
    /// It has a fragment, which begins with `#`.
    #[error("invalid store.url: it contains a #; {HINT}")]
    Fragment,
    /// The path is not the number of a database.
    #[error("invalid store.url: the database must be a number up to 255, as in /0; {HINT}")]
    Database,
    /// It names a database of a Cluster, which has only one.
    #[error("invalid store.url: a Cluster has only one database; remove it from the URL")]
    ClusterDatabase,
    /// It has `node=`, and its scheme, which this is, is that of a single server.
    #[error("invalid store.url: node= needs {0}-cluster:// or {0}-sentinel://")]
    NodeWithoutCluster(String),
    /// A node is not `HOST:PORT`.
    #[error("invalid store.url: node= must be HOST:PORT")]
    Node,
    /// It has parameters for Sentinels without a scheme for Sentinels.
    #[error("invalid store.url: parameters that begin with sentinel need redis-sentinel://")]
    SentinelParameter,
    /// The parameter of this name is not valid UTF-8.
    #[error("invalid store.url: {0} is not valid UTF-8")]
    NotUtf8(&'static str),
    /// It has a parameter of another name.
    #[error(
        "invalid store.url: unknown parameter behind the ?; expected node=, sentinelServiceName=, sentinelUsername= or \
         sentinelPassword=; a database is written as a path, as in /3; {HINT}"
    )]
    UnknownParameter,
    /// A scheme for Sentinels needs the name of the master.
    #[error("invalid store.url: redis-sentinel:// needs sentinelServiceName=, the name of the master")]
    NoServiceName,
    /// The client library rejects it with this error.
    #[error("invalid store.url: {0}")]
    Client(String),
}

impl RedisUrl {
    /// Reads a URL such as `redis://user:password@host:6379/0`.
    pub fn parse(text: &str) -> Result<Self, RedisUrlError> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        if !scheme.is_some_and(|scheme| SCHEMES.contains(&scheme)) {
            let is_word = |scheme: &&str| {
                scheme.len() <= 16 && scheme.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
            };
            let shown = scheme.filter(is_word).map_or(String::new(), |scheme| format!(" '{scheme}://…'"));
            return Err(RedisUrlError::UnknownScheme(shown));
        }
        let url = Self::read(text)?;
        url.config()?;
        Ok(url)
    }

    fn read(text: &str) -> Result<Self, RedisUrlError> {
        if text.contains(char::is_control) {
            return Err(RedisUrlError::ControlCharacter);
        }
        let mut url = Url::parse(text).map_err(|error| match error {
            ParseError::InvalidPort => RedisUrlError::Port,
            ParseError::EmptyHost => RedisUrlError::NoHost,
            _ => RedisUrlError::Syntax,
        })?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(RedisUrlError::NoHost);
        }
        if url.fragment().is_some() {
            return Err(RedisUrlError::Fragment);
        }
        let database = url.path().trim_start_matches('/');
        if !database.is_empty() && database.parse::<u8>().is_err() {
            return Err(RedisUrlError::Database);
        }
        if url.scheme().ends_with("-cluster") && !["", "0"].contains(&database) {
            return Err(RedisUrlError::ClusterDatabase);
        }
        let (mut rest, mut sentinel_user, mut sentinel_password, mut service) = (vec![], None, None, false);
        for pair in url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |name| {
                let text = percent_decode_str(value).decode_utf8().map(String::from);
                text.map_err(|_| RedisUrlError::NotUtf8(name))
            };
            let (is_sentinel, is_one) = (url.scheme().ends_with("-sentinel"), !url.scheme().contains('-'));
            match name {
                "node" if is_one => {
                    return Err(RedisUrlError::NodeWithoutCluster(url.scheme().to_owned()));
                }
                _ if name.starts_with("sentinel") && !is_sentinel => {
                    return Err(RedisUrlError::SentinelParameter);
                }
                "sentinelUsername" => sentinel_user = Some(text("sentinelUsername")?),
                "sentinelPassword" => sentinel_password = Some(text("sentinelPassword")?),
                "sentinelServiceName" => {
                    service |= !value.is_empty();
                    rest.push(pair);
                }
                "node" => {
                    let parts: Vec<_> = value.split(':').collect();
                    match parts[..] {
                        [host, port]
                            if !host.is_empty() && !host.contains('@') && port.parse::<u16>().is_ok() => {}
                        _ => return Err(RedisUrlError::Node),
                    }
                    rest.push(pair);
                }
                _ => return Err(RedisUrlError::UnknownParameter),
            }
        }
        if url.scheme().ends_with("-sentinel") && !service {
            return Err(RedisUrlError::NoServiceName);
        }
        let bytes =
            |text: &str| Some(percent_decode_str(text).collect::<Vec<u8>>()).filter(|b| !b.is_empty());
        let (user, password) = (bytes(url.username()), url.password().and_then(bytes));
        let mut secrets = Secrets::default();
        let written = url.password().into_iter().chain(
            url.query()
                .unwrap_or_default()
                .split('&')
                .filter_map(|pair| pair.strip_prefix("sentinelPassword=")),
        );
        written.for_each(|secret| secrets.add(secret));
        secrets.add(&password.as_deref().map(String::from_utf8_lossy).unwrap_or_default());
        secrets.add(&password.as_deref().map(word).unwrap_or_default());
        secrets.add(sentinel_password.as_deref().unwrap_or_default());
        let query = rest.join("&");
        url.set_query(Some(&*query).filter(|query| !query.is_empty()));
        let cleared = url.set_username("").and_then(|()| url.set_password(None));
        cleared.map_err(|()| RedisUrlError::Syntax)?;
        Ok(Self { address: url, user, password, sentinel_user, sentinel_password, secrets })
    }

    /// The configuration of the client library.
    pub(super) fn config(&self) -> Result<Config, RedisUrlError> {
        let client = |error: fred::error::Error| RedisUrlError::Client(error.details().to_owned());
        let mut config = Config::from_url(self.address.as_str()).map_err(client)?;
        config.version = fred::types::RespVersion::RESP3;
        (config.username, config.password) =
            (self.user.as_deref().map(word), self.password.as_deref().map(word));
        // Sentinels are sent AUTH with the length of each argument, so these need no quotes.
        if let ServerConfig::Sentinel { username, password, .. } = &mut config.server {
            (*username, *password) = (self.sentinel_user.clone(), self.sentinel_password.clone());
        }
        Ok(config)
    }

    /// The number of the database on a standalone server; 0 by default.
    pub fn database(&self) -> u8 {
        self.address.path().trim_start_matches('/').parse().unwrap_or(0)
    }

    /// Whether the URL contains a password, of Redis or of its Sentinels.
    pub fn has_password(&self) -> bool {
        self.password.is_some() || self.sentinel_password.is_some()
    }

    /// What errors of others must not show.
    pub(super) fn secrets(&self) -> &Secrets {
        &self.secrets
    }
}

/// The client library sends `HELLO 3 AUTH user password` as one line, as a person would type it. A text that
/// is not a single word there is put in quotes, where Redis reads `\x` and two digits as a byte.
fn word(bytes: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"'\\".contains(byte);
    if bytes.iter().all(is_plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let escaped: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    format!("\"{escaped}\"")
}

impl Secrets {
    fn add(&mut self, secret: &str) {
        if !secret.is_empty() && !self.0.iter().any(|known| known == secret) {
            self.0.push(secret.to_owned());
            // One form of a secret may be part of another.
            self.0.sort_by_key(|known| std::cmp::Reverse(known.len()));
        }
    }

    /// The text with secrets removed. An old Redis repeats commands that it does not know, such as the one
    /// with the password.
    pub(super) fn redact(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "…"))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match (self.address.as_str().split_once("://"), self.user.is_some() || self.password.is_some()) {
            (Some((scheme, address)), true) => write!(f, "{scheme}://…@{address}"),
            _ => f.write_str(self.address.as_str()),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_and_show_no_password() {
        for (good, shown) in [
            ("redis://127.0.0.1:6379/1", "redis://127.0.0.1:6379/1"),
            ("rediss://user:secret@redis.example:6380", "rediss://…@redis.example:6380"),
            (
                "redis-cluster://127.0.0.1:7000?node=127.0.0.1:7001",
                "redis-cluster://127.0.0.1:7000?node=127.0.0.1:7001",
            ),
            (
                "redis-sentinel://u:secret@127.0.0.1:26379/0?sentinelServiceName=main&sentinelUsername=secret&sentinelPassword=s%65cret",
                "redis-sentinel://…@127.0.0.1:26379/0?sentinelServiceName=main",
            ),
        ] {
            let url = RedisUrl::parse(good).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.to_owned(), shown.to_owned()));
        }
        let url = RedisUrl::parse("redis://:a%20secret@x").unwrap();
        let repeated = url.secrets().redact(&format!(
            "unknown command HELLO 3 AUTH default {} a secret a%20secret",
            word(b"a secret")
        ));
        assert_eq!(repeated, "unknown command HELLO 3 AUTH default … … …");
    }

    #[test]
    fn an_error_shows_nothing_that_may_be_a_secret() {
        for (bad, expected) in [
            ("mongo://user:secret@x", "unknown scheme 'mongo://…'; expected memory, redis://"),
            ("secret", "store.url: unknown scheme; expected"),
            ("redis:/:secret@x", "store.url: unknown scheme; expected"),
            ("s3cret-of-many-letters://x", "store.url: unknown scheme; expected"),
            ("redis://user:secret@x:port", "the port must be a number"),
            ("redis://user:secret@x:99999", "the port must be a number"),
            ("redis://user:secret", "the port must be a number"),
            ("redis://:secret/more@x:6379", "it has no host"),
            ("redis://:sec?ret@x:6379", "it has no host"),
            ("redis://:secret@", "it has no host"),
            ("redis://:secret@:6379", "it has no host"),
            ("redis://", "it has no host"),
            ("redis://sec/ret@x", "the database must be a number"),
            ("redis://secret/300", "the database must be a number"),
            ("redis://sec?ret@x:6379", "unknown parameter behind the ?"),
            ("redis://x?password=secret", "unknown parameter behind the ?"),
            ("redis://sec#ret@x:6379", "it contains a #"),
            ("redis://:sec\tret@x", "two hexadecimal digits"),
            ("redis://[secret", "it is not a URL"),
            ("redis-sentinel://:secret@127.0.0.1:26379", "sentinelServiceName="),
            ("redis-sentinel://x?sentinelServiceName=&sentinelPassword=secret", "sentinelServiceName="),
            (
                "redis-sentinel://x?sentinelServiceName=main&sentinelPassword=%ffsecret",
                "sentinelPassword is not valid UTF-8",
            ),
            ("redis-cluster://x?node=user:secret@x:1", "node= must be HOST:PORT"),
            ("redis://x/?db=3", "a database is written as a path, as in /3"),
            ("redis://x?node=secret:1", "node= needs redis-cluster:// or redis-sentinel://"),
            ("redis://x?sentinelPassword=secret", "need redis-sentinel://"),
            ("redis-cluster://x/3", "a Cluster has only one database"),
            ("redis-cluster://x?node=secret", "node= must be HOST:PORT"),
        ] {
            let error = RedisUrl::parse(bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{bad}: {error}");
            for secret in ["secret", "s3cret", "more@", "ret@"] {
                assert!(!error.contains(secret), "{bad}: {error}");
            }
        }
    }

    #[test]
    fn a_password_that_is_not_a_single_word_is_sent_in_quotes() {
        assert_eq!(word(b"p@s:s/w#rd%"), "p@s:s/w#rd%");
        assert_eq!(word(b"a b\"\r\n"), r#""\x61\x20\x62\x22\x0d\x0a""#);
        let url = RedisUrl::parse("redis://%C3%A4:%FF%20%22@x").unwrap();
        let config = url.config().unwrap();
        assert_eq!(config.username.as_deref(), Some(r#""\xc3\xa4""#));
        assert_eq!(config.password.as_deref(), Some(r#""\xff\x20\x22""#));
        let sentinel =
            "redis-sentinel://x?sentinelServiceName=main&sentinelUsername=a%20b&sentinelPassword=a+b";
        let config = RedisUrl::parse(sentinel).unwrap().config().unwrap();
        let ServerConfig::Sentinel { username, password, .. } = config.server else { panic!("{config:?}") };
        assert_eq!((username.as_deref(), password.as_deref()), (Some("a b"), Some("a+b")));
    }
}
