//! `store.url` of a Redis: where it is and how it is spoken to. Its secrets are shown nowhere.

use fred::types::config::{Config, ServerConfig};
use percent_encoding::percent_decode_str;
use std::fmt;
use url::{ParseError, Url};

/// A checked URL. `Debug` and `Display` do not show who asks and with which password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// Without credentials.
    place: Url,
    user: Option<Vec<u8>>,
    password: Option<Vec<u8>>,
    sentinel_user: Option<String>,
    sentinel_password: Option<String>,
    /// What must not be shown, in every form that it may come in.
    secrets: Secrets,
}

/// What errors of others are freed of.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(Vec<String>);

const SCHEMES: [&str; 6] =
    ["redis", "rediss", "redis-cluster", "rediss-cluster", "redis-sentinel", "rediss-sentinel"];

/// In an error, since one that is left out makes a password look like a host or a port.
const HINT: &str = "in a user or a password, each of / ? # @ : % is written as % and two hexadecimal digits, such as %2F for /";

impl RedisUrl {
    /// The error shows nothing of a URL that could be part of a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        if !scheme.is_some_and(|scheme| SCHEMES.contains(&scheme)) {
            let known = SCHEMES.map(|scheme| format!("{scheme}://")).join(", ");
            let is_word = |scheme: &&str| {
                scheme.len() <= 16 && scheme.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
            };
            let shown = scheme.filter(is_word).map_or(String::new(), |scheme| format!(" '{scheme}://…'"));
            return Err(format!("store.url{shown} is not known; it is memory, {known}"));
        }
        let url = Self::read(text).map_err(|why| format!("store.url is wrong: {why}"))?;
        url.config().map_err(|why| format!("store.url is wrong: {why}"))?;
        Ok(url)
    }

    fn read(text: &str) -> Result<Self, String> {
        if text.contains(char::is_control) {
            return Err(
                "a tab, a line end or the like in it is written as % and two hexadecimal digits".into()
            );
        }
        let mut url = Url::parse(text).map_err(|error| match error {
            ParseError::InvalidPort => format!("its port is no number up to 65535; {HINT}"),
            ParseError::EmptyHost => format!("it names no host; {HINT}"),
            _ => format!("it is no URL; {HINT}"),
        })?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(format!("it names no host; {HINT}"));
        }
        if url.fragment().is_some() {
            return Err(format!("it has a #; {HINT}"));
        }
        let database = url.path().trim_start_matches('/');
        if !database.is_empty() && database.parse::<u8>().is_err() {
            return Err(format!("its database is no number up to 255, as in /0; {HINT}"));
        }
        if url.scheme().ends_with("-cluster") && !["", "0"].contains(&database) {
            return Err("it names a database, and a Cluster has only one: leave it out".into());
        }
        let (mut rest, mut sentinel_user, mut sentinel_password, mut service) = (vec![], None, None, false);
        for pair in url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = || percent_decode_str(value).decode_utf8().map(String::from);
            let (is_sentinel, is_one) = (url.scheme().ends_with("-sentinel"), !url.scheme().contains('-'));
            match name {
                "node" if is_one => {
                    return Err(format!("its node= is for {}-cluster:// and {0}-sentinel://", url.scheme()));
                }
                _ if name.starts_with("sentinel") && !is_sentinel => {
                    return Err("what begins with sentinel behind its ? is for redis-sentinel://".into());
                }
                "sentinelUsername" => {
                    sentinel_user = Some(text().map_err(|_| "its sentinelUsername is no text")?);
                }
                "sentinelPassword" => {
                    sentinel_password = Some(text().map_err(|_| "its sentinelPassword is no text")?);
                }
                "sentinelServiceName" => {
                    service |= !value.is_empty();
                    rest.push(pair);
                }
                "node" => {
                    let parts: Vec<_> = value.split(':').collect();
                    match parts[..] {
                        [host, port]
                            if !host.is_empty() && !host.contains('@') && port.parse::<u16>().is_ok() => {}
                        _ => return Err("its node= is not HOST:PORT".into()),
                    }
                    rest.push(pair);
                }
                _ => {
                    return Err(format!(
                        "it has something behind the ? other than node=, sentinelServiceName=, sentinelUsername= or \
                         sentinelPassword=; a database is written as a path, as in /3; {HINT}"
                    ));
                }
            }
        }
        if url.scheme().ends_with("-sentinel") && !service {
            return Err("it names no sentinelServiceName=, by which Sentinels know the master".into());
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
        cleared.map_err(|()| "it is no URL")?;
        Ok(Self { place: url, user, password, sentinel_user, sentinel_password, secrets })
    }

    pub fn config(&self) -> Result<Config, String> {
        let mut config = Config::from_url(self.place.as_str()).map_err(|error| error.details().to_owned())?;
        config.version = fred::types::RespVersion::RESP3;
        (config.username, config.password) =
            (self.user.as_deref().map(word), self.password.as_deref().map(word));
        // Sentinels are sent an AUTH of parts with their lengths, which takes any text as it is.
        if let ServerConfig::Sentinel { username, password, .. } = &mut config.server {
            (*username, *password) = (self.sentinel_user.clone(), self.sentinel_password.clone());
        }
        Ok(config)
    }

    /// Its number, by which one server tells apart what has nothing to do with each other.
    pub fn database(&self) -> u8 {
        self.place.path().trim_start_matches('/').parse().unwrap_or(0)
    }

    pub fn has_password(&self) -> bool {
        self.password.is_some() || self.sentinel_password.is_some()
    }

    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }
}

/// The client sends `HELLO 3 AUTH user password` as one line, as a person would type it. What would not be one word there goes in
/// quotes, in which Redis reads `\x` and two digits as a byte.
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
            // A secret may be part of another form of it.
            self.0.sort_by_key(|known| std::cmp::Reverse(known.len()));
        }
    }

    /// An old Redis repeats what it does not understand, and that may be the greeting with its password.
    pub fn hidden(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "…"))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match (self.place.as_str().split_once("://"), self.user.is_some() || self.password.is_some()) {
            (Some((scheme, place)), true) => write!(f, "{scheme}://…@{place}"),
            _ => f.write_str(self.place.as_str()),
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
        let repeated = url.secrets().hidden(&format!(
            "unknown command HELLO 3 AUTH default {} a secret a%20secret",
            word(b"a secret")
        ));
        assert_eq!(repeated, "unknown command HELLO 3 AUTH default … … …");
    }

    #[test]
    fn an_error_shows_nothing_that_may_be_a_secret() {
        for (bad, expected) in [
            ("mongo://user:secret@x", "'mongo://…' is not known; it is memory, redis://"),
            ("secret", "store.url is not known"),
            ("redis:/:secret@x", "store.url is not known"),
            ("s3cret-of-many-letters://x", "store.url is not known"),
            ("redis://user:secret@x:port", "its port is no number"),
            ("redis://user:secret@x:99999", "its port is no number"),
            ("redis://user:secret", "its port is no number"),
            ("redis://:secret/more@x:6379", "it names no host"),
            ("redis://:sec?ret@x:6379", "it names no host"),
            ("redis://:secret@", "it names no host"),
            ("redis://:secret@:6379", "it names no host"),
            ("redis://", "it names no host"),
            ("redis://sec/ret@x", "its database is no number"),
            ("redis://secret/300", "its database is no number"),
            ("redis://sec?ret@x:6379", "something behind the ?"),
            ("redis://x?password=secret", "something behind the ?"),
            ("redis://sec#ret@x:6379", "it has a #"),
            ("redis://:sec\tret@x", "two hexadecimal digits"),
            ("redis://[secret", "it is no URL"),
            ("redis-sentinel://:secret@127.0.0.1:26379", "sentinelServiceName="),
            ("redis-sentinel://x?sentinelServiceName=&sentinelPassword=secret", "sentinelServiceName="),
            (
                "redis-sentinel://x?sentinelServiceName=main&sentinelPassword=%ffsecret",
                "sentinelPassword is no text",
            ),
            ("redis-cluster://x?node=user:secret@x:1", "its node= is not HOST:PORT"),
            ("redis://x/?db=3", "a database is written as a path, as in /3"),
            ("redis://x?node=secret:1", "its node= is for redis-cluster:// and redis-sentinel://"),
            ("redis://x?sentinelPassword=secret", "is for redis-sentinel://"),
            ("redis-cluster://x/3", "a Cluster has only one"),
            ("redis-cluster://x?node=secret", "its node= is not HOST:PORT"),
        ] {
            let error = RedisUrl::parse(bad).unwrap_err();
            assert!(error.contains(expected), "{bad}: {error}");
            for secret in ["secret", "s3cret", "more@", "ret@"] {
                assert!(!error.contains(secret), "{bad}: {error}");
            }
        }
    }

    #[test]
    fn what_is_no_plain_word_is_sent_in_quotes() {
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
