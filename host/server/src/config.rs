//! The configuration: one TOML file and what the environment overrides. Each module owns its part; here they are
//! put together and checked against one another.

mod check;
mod mask;
mod overrides;
mod place;
mod risks;
mod store;
mod text;

pub use overrides::{Environment, environment};
pub use place::{find, line};
pub use risks::is_open;
pub use store::{StoreConfig, StoreUrl};
pub use text::Text;

use crate::{
    admin::AdminConfig, hub::Ungoverned, key::Tier, limits::LimitsConfig, listener::ServerConfig,
    session::SessionConfig,
};
use place::Place;
use serde::Deserialize;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};
use switchyard_plugin::{CacheConfig, Compiler, PluginConfig, Trust};
use switchyard_process::memory::MemoryConfig;
use switchyard_store::{HistoryConfig, key::KeyConfig};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub server: ServerConfig,
    pub admin: AdminConfig,
    pub store: StoreConfig,
    pub rooms: RoomsConfig,
    pub session: SessionConfig,
    pub limits: LimitsConfig,
    pub memory: MemoryConfig,
    #[serde(rename = "key")]
    pub keys: Vec<KeyConfig>,
    #[serde(rename = "tier")]
    pub tiers: HashMap<String, Tier>,
    /// By precedence: the first whose rooms match governs.
    #[serde(rename = "plugin")]
    pub plugins: Vec<PluginConfig>,
    pub signatures: Arc<Trust>,
    pub cache: CacheConfig,
    /// Nothing that can be configured: who runs the node says it.
    #[serde(skip)]
    pub compiler: Compiler,
}

/// `[rooms]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoomsConfig {
    pub ungoverned: Ungoverned,
    pub history: HistoryConfig,
}

impl Config {
    /// Reads a file, or the defaults without one. The error is a sentence with file and line, or with the variable.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Self, String> {
        match file {
            Some(file) => Text::first(file).map_err(|error| error.to_string())?.config(environment),
            None => Self::read("", Path::new("the defaults"), environment),
        }
    }

    /// Every error of what a configuration says passes here, and shows no secret.
    fn read(text: &str, file: &Path, environment: &Environment) -> Result<Self, String> {
        Self::understand(text, file, environment).map_err(|error| mask::masked(&error))
    }

    fn understand(text: &str, file: &Path, environment: &Environment) -> Result<Self, String> {
        let at = |span: Option<std::ops::Range<usize>>| match span {
            Some(span) => format!("{}:{}", file.display(), line(text, span.start)),
            None => file.display().to_string(),
        };
        let config: Self = toml::from_str(text).map_err(|error| {
            let message = one_line(error.message());
            let key = error.span().map(|span| place::key_at(text, span.start)).unwrap_or_default();
            match key.is_empty() || message.contains(&key) {
                true => format!("{}: {message}", at(error.span())),
                false => format!("{}: {key}: {message}", at(error.span())),
            }
        })?;
        config.check().map_err(|(place, message)| format!("{}: {message}", at(Some(place.find(text)))))?;
        let mut config = overrides::lay_over(config, text, environment)?;
        config.share_trust();
        Ok(config)
    }

    /// Gives each plugin the keys that it is verified with.
    pub fn share_trust(&mut self) {
        self.plugins.iter_mut().for_each(|plugin| plugin.trust = self.signatures.clone());
    }

    /// Paths in a file are relative to it.
    fn resolve(&mut self, folder: &Path) {
        let mut files: Vec<&mut PathBuf> = self.plugins.iter_mut().map(|plugin| &mut plugin.file).collect();
        if let Some(tls) = &mut self.server.tls {
            files.extend([&mut tls.certificate, &mut tls.key]);
        }
        files.extend(&mut self.cache.folder);
        files.into_iter().for_each(|file| *file = folder.join(&*file));
    }

    /// The sections that differ and are only read when the process starts.
    pub fn needs_restart(&self, other: &Self) -> Vec<&'static str> {
        let pairs = [
            ("server", self.server == other.server),
            ("admin", self.admin == other.admin),
            ("store", self.store == other.store),
            ("rooms", self.rooms == other.rooms),
            ("session", self.session == other.session),
            ("limits", self.limits == other.limits),
            ("memory", self.memory == other.memory),
            ("cache", self.cache == other.cache),
        ];
        pairs.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment = environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Config::read(text, Path::new("s.toml"), &environment)
    }

    /// Everything that the operator's manual shows, at once.
    const WHOLE: &str = r#"
        [server]
        listen = "127.0.0.1:8080"
        path = "/v2/realtime"
        frame = "128KiB"
        tls = { certificate = "cert.pem", key = "key.pem" }
        [admin]
        listen = "127.0.0.1:9090"
        [store]
        url = "memory"
        [rooms]
        ungoverned = "closed"
        history = { messages = 10, age = "10m", bytes = "1MiB" }
        [session]
        ttl = "2m"
        outbox = "1MiB"
        message = "64KiB"
        authenticate = "10s"
        heartbeat = { interval = "25s", timeout = "10s" }
        [limits]
        trusted = ["10.0.0.0/8"]
        unauthenticated = 1000
        [limits.address]
        unauthenticated = 64
        failures = "20/m"
        [memory]
        limit = "2GiB"
        [[key]]
        digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
        principal = "acme"
        tier = "pro"
        scopes = ["subscribe", "publish", "broadcast", "admin"]
        expires = 2027-01-01T00:00:00Z
        [tier.pro]
        connections = 25
        rooms = 100
        [[plugin]]
        name = "dydx"
        file = "dydx.wasm"
        sha256 = "00"
        rooms = ["dydx:*", "trades"]
        config = { max_depth = 50 }
        on_failure = "deny"
        budget = { call = "10ms", memory = "16MiB" }
        [signatures]
        keys = ["ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
        require = true
        [cache]
        folder = "cache"
    "#;

    #[test]
    fn every_documented_key_is_read_and_every_key_is_optional() {
        let config = read(WHOLE, &[]).unwrap();
        assert_eq!(config.rooms.history.messages, 10);
        assert_eq!(config.keys[0].expires.unwrap().0, 1_798_761_600_000);
        assert_eq!(config.plugins[0].budget.memory, 16 << 20);
        assert!(config.plugins[0].trust.require, "each plugin has the keys of [signatures]");
        assert_eq!(read("", &[]).unwrap(), Config::default());
    }

    #[test]
    fn a_wrong_key_value_or_name_is_shown_with_its_line() {
        let digest = "0".repeat(64);
        for (text, expected) in [
            ("[server]\nlisten = \"here\"", "s.toml:2:"),
            (
                "[server]\n\nlsten = \"127.0.0.1:1\"",
                "s.toml:3: server: unknown field `lsten`, expected one of `listen`",
            ),
            (
                "[session]\nttl = \"2 moons\"",
                "s.toml:2: session.ttl: invalid duration '2 moons'; expected e.g.",
            ),
            (
                "[rooms]\nungoverned = \"ajar\"",
                "s.toml:2: rooms.ungoverned: unknown variant `ajar`, expected `open` or `closed`",
            ),
            ("[store]\nurl = \"mongo://x\"", "s.toml:2: store.url: unknown scheme 'mongo://…'"),
            (
                "[[key]]\ndigest = \"12\"\nprincipal = \"a\"\nscopes = []",
                "s.toml:2: key.digest: a digest is 'sha256:'",
            ),
            (
                &format!(
                    "[[key]]\ndigest = \"sha256:{digest}\"\nprincipal = \"a\"\nscopes = []\ntier = \"gold\""
                ),
                "s.toml:5: tier 'gold' is not configured; add [tier.gold]",
            ),
            (
                "[memory]\nlimit = \"0%\"",
                "s.toml:2: memory.limit: invalid limit '0%'; expected at least 1MiB,",
            ),
            (
                "[rooms]\nhistory = { bytes = \"a lot\" }",
                "s.toml:2: rooms.history.bytes: invalid size 'a lot'; expected e.g.",
            ),
            ("x = [", "s.toml:1:"),
            ("[limits]\nunauthenticated = 0", "s.toml:2: limits.unauthenticated: invalid value: integer `0`"),
            (
                "[limits]\n\ntrusted = [\"10.0.0.1/8\"]",
                "s.toml:3: limits.trusted: '10.0.0.1/8' has bits beyond its first 8",
            ),
            (
                "[limits.address]\nfailures = \"20/h\"",
                "s.toml:2: limits.address.failures: '20/h' is not a rate; expected e.g.",
            ),
            (
                "[signatures]\nkeys = [\"ed25519:AAAA\"]",
                "s.toml:2: signatures.keys: a trusted key must be 'ed25519:' and 32 bytes",
            ),
            (
                "[signatures]\nrequire = true",
                "s.toml:2: signatures.require is true, but signatures.keys has none",
            ),
        ] {
            let error = read(text, &[]).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn no_error_shows_a_password_wherever_the_url_of_the_store_was_put() {
        let url = "redis://:s3cret@h:1";
        let places = [
            "store = U",
            "U = 1",
            "store.prefix = U",
            "store.host = U",
            "store.url = [U]",
            "store.url = { U = U }",
            "server.listen = U",
            "server.path = U",
            "server.tls = U",
            "server.origins = U",
            "server.origins = [U]",
            "server.frame = U",
            "session.ttl = U",
            "session = { U = 1 }",
            "rooms.ungoverned = U",
            "rooms.history.messages = U",
            "tier = U",
            "tier.pro.rooms = U",
            "plugin = U",
            "key = [{ digest = U, principal = \"a\", scopes = [] }]",
            "key = [{ digest = \"sha256:D\", principal = U, scopes = [] }]",
            "key = [{ digest = \"sha256:D\", principal = \"a\", scopes = [U] }]",
            "key = [{ digest = \"sha256:D\", principal = \"a\", scopes = [], tier = U }]",
            "key = [{ digest = \"sha256:D\", principal = \"a\", scopes = [], expires = U }]",
            "plugin = [{ name = U, file = \"x\", rooms = [\"x\"] }]",
            "plugin = [{ name = \"x\", file = \"x\", rooms = [U] }]",
            "signatures.keys = [U]",
            "store.url = U x",
            "U",
        ];
        for place in places {
            let text = place.replace('D', &"0".repeat(64)).replace('U', &format!("\"{url}\""));
            if let Err(error) = read(&text, &[]) {
                assert!(!error.contains("s3cret"), "{text}: {error}");
            }
        }
        let error = read(&format!("store = \"{url}\""), &[]).unwrap_err();
        assert_eq!(error, "s.toml:1: store: invalid type: string \"redis://…\", expected struct StoreConfig");
        for name in ["STORE__PREFIX", "SERVER__LISTEN", "STORE__HOST", "SESSION__TTL", "ROOMS__HISTORY__AGE"]
        {
            let error = read("", &[(&format!("SWITCHYARD_{name}"), url)]).unwrap_err();
            assert!(error.starts_with("SWITCHYARD_") && !error.contains("s3cret"), "{error}");
        }
        for error in [
            read("[store]\nurl = 735273", &[]).unwrap_err(),
            read("", &[("SWITCHYARD_STORE__URL", "735273")]).unwrap_err(),
        ] {
            assert!(error.ends_with("store.url must be a string, but its type is integer"), "{error}");
        }
    }

    #[test]
    fn the_environment_overrides_and_a_wrong_variable_is_named() {
        let config = read(
            WHOLE,
            &[
                ("SWITCHYARD_SERVER__LISTEN", "127.0.0.1:7000"),
                ("SWITCHYARD_ROOMS__HISTORY__MESSAGES", "7"),
                ("SWITCHYARD_KEY", "sk_never_read"),
                ("SWITCHYARD_SERVICE_HOST", "10.0.0.1"),
            ],
        );
        let config = config.unwrap();
        assert_eq!((config.server.listen.port(), config.rooms.history.messages), (7000, 7));
        let error = read("", &[("SWITCHYARD_SESSION__TTL", "soon")]).unwrap_err();
        assert!(error.starts_with("SWITCHYARD_SESSION__TTL: invalid duration 'soon'"), "{error}");
        let error = read("", &[("SWITCHYARD_SERVER__PORT", "1")]).unwrap_err();
        assert!(error.starts_with("SWITCHYARD_SERVER__PORT: unknown field `port`"), "{error}");
    }
}
