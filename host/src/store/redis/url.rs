//! `store.url` of a Redis: where it is and how it is spoken to.

use fred::types::config::Config;
use std::fmt;

/// A checked URL. `Debug` and `Display` do not show its password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

const SCHEMES: [&str; 6] =
    ["redis", "rediss", "redis-cluster", "rediss-cluster", "redis-sentinel", "rediss-sentinel"];

impl RedisUrl {
    pub fn parse(url: &str) -> Result<Self, String> {
        let scheme = url.split("://").next().unwrap_or_default();
        if !SCHEMES.contains(&scheme) {
            let known = SCHEMES.map(|scheme| format!("{scheme}://")).join(", ");
            return Err(format!("store.url '{}' is not known; it is memory, {known}", shown(url)));
        }
        let parsed = Self(url.to_owned());
        match parsed.config() {
            Ok(_) => Ok(parsed),
            Err(error) => Err(format!("store.url '{}' is wrong: {error}", shown(url))),
        }
    }

    pub fn config(&self) -> Result<Config, String> {
        let mut config = Config::from_url(&self.0).map_err(|error| error.details().to_owned())?;
        config.version = fred::types::RespVersion::RESP3;
        Ok(config)
    }
}

/// Without what is before an `@`.
fn shown(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://…@{place}"),
        _ => url.to_owned(),
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&shown(&self.0))
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
        for good in [
            "redis://127.0.0.1:6379/1",
            "rediss://user:secret@redis.example:6380",
            "redis-cluster://127.0.0.1:7000?node=127.0.0.1:7001",
            "redis-sentinel://127.0.0.1:26379/0?sentinelServiceName=main",
        ] {
            let url = RedisUrl::parse(good).unwrap_or_else(|error| panic!("{error}"));
            assert!(!format!("{url} {url:?}").contains("secret"));
        }
        for (bad, expected) in [
            ("mongo://user:secret@x", "is not known; it is memory, redis://"),
            ("redis://user:secret@x:port", "is wrong"),
            ("redis-sentinel://127.0.0.1:26379", "is wrong"),
        ] {
            let error = RedisUrl::parse(bad).unwrap_err();
            assert!(error.contains(expected) && !error.contains("secret"), "{error}");
        }
    }
}
