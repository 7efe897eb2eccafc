//! The configuration of a node: one TOML file, with overrides from the environment. Each module defines its
//! own section; here the sections are put together and checked against each other.

mod check;
mod error;
mod file;
mod location;
mod mistakes;
mod overrides;
mod redact;
mod room_entries;
mod shape;
mod store;
mod stored_plugin;
mod tables;
mod warnings;

pub use crate::hub::RoomPolicyView;
pub use error::ConfigError;
pub use file::ConfigFile;
pub use location::{find_key, line_number};
pub use overrides::{Environment, read_environment};
pub use store::{InvalidKeyPrefix, InvalidStoreUrl, KeyPrefix, StoreConfig, StoreUrl};
pub(crate) use stored_plugin::parse_stored_plugin;
pub use warnings::is_world_readable;

use crate::{
    admin::AdminConfig,
    audit::AuditConfig,
    hub::{MembersAccess, RoomConfig, Ungoverned},
    limits::LimitsConfig,
    listener::ServerConfig,
    rate::{ByteRate, Rate},
    session::SessionConfig,
    tier::Tier,
    token::IssuerConfig,
};
use serde::Deserialize;
use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};
use switchyard_plugin::{CacheConfig, Compiler, PluginConfig, Trust};
use switchyard_process::memory::MemoryConfig;
use switchyard_store::{HistoryConfig, key::KeyConfig};

/// A whole configuration. Its keys are described in docs/operator.md; every section has defaults.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[server]`: the listener for clients.
    pub server: ServerConfig,
    /// `[admin]`: the listener for operators.
    pub admin: AdminConfig,
    /// `[audit]`: where it is written who changed what.
    pub audit: AuditConfig,
    /// `[store]`: where rooms and sessions are stored.
    pub store: StoreConfig,
    /// `[rooms]`: what holds for all rooms.
    pub rooms: RoomsConfig,
    /// `[[room]]`: what holds in some rooms. The first entry that matches counts.
    #[serde(rename = "room")]
    pub room_entries: Vec<RoomConfig>,
    /// `[session]`: limits and timeouts of one client.
    pub session: SessionConfig,
    /// `[limits]`: what clients may take before their principal is known, and whether limits are enforced.
    pub limits: LimitsConfig,
    /// `[memory]`: how much memory the node may use for clients.
    pub memory: MemoryConfig,
    /// `[[key]]`: the API keys.
    #[serde(rename = "key")]
    pub keys: Vec<KeyConfig>,
    /// `[[issuer]]`: who signs user tokens.
    #[serde(rename = "issuer")]
    pub issuers: Vec<Arc<IssuerConfig>>,
    /// `[tier.NAME]`: what keys of a tier allow, by the name of the tier.
    #[serde(rename = "tier")]
    pub tiers: HashMap<String, Tier>,
    /// `[[plugin]]`: the plugins. The first one whose rooms match governs a room.
    #[serde(rename = "plugin")]
    pub plugins: Vec<PluginConfig>,
    /// `[signatures]`: who may sign plugins.
    pub signatures: Arc<Trust>,
    /// `[cache]`: where compiled plugins are kept.
    pub cache: CacheConfig,
    /// Where plugins are compiled. Not a key of the file: the program that runs the node decides.
    #[serde(skip)]
    pub compiler: Compiler,
}

/// `[rooms]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoomsConfig {
    /// Whether clients may join rooms that no plugin governs.
    pub ungoverned: Ungoverned,
    /// How many messages of each room are kept, and for how long.
    pub history: HistoryConfig,
    /// Whether deliveries name the principal that published the message.
    pub sender: bool,
    /// How many messages all publishers together may publish to each room.
    pub publishes: Option<Rate>,
    /// How many bytes of data all publishers together may publish to each room.
    pub bytes: Option<ByteRate>,
    /// Which clients may ask for the members of a room.
    pub members: MembersAccess,
}

impl Config {
    /// Reads a file, or uses the defaults without one, and applies the overrides of the environment. Blocks.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read, or if the file or a variable is invalid.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        match file {
            Some(file) => ConfigFile::open(file)?.parse(environment),
            None => Self::parse("", Path::new("the defaults"), environment),
        }
    }

    /// Parses and checks a text. `file` is for error messages.
    fn parse(text: &str, file: &Path, environment: &Environment) -> Result<Self, ConfigError> {
        let locate = |span: Option<Range<usize>>| match span {
            Some(span) => format!("{}:{}", file.display(), line_number(text, span.start)),
            None => file.display().to_string(),
        };
        let config = Self::parse_types(text)
            .map_err(|mistake| ConfigError::content(locate(mistake.span), &mistake.message))?;
        let written = |name: &str| check::find_written(&toml::from_str(text).ok()?, name);
        config
            .check(&written)
            .map_err(|error| ConfigError::content(locate(Some(error.location.find(text))), &error.message))?;
        let mut config = overrides::apply_overrides(config, text, environment)?;
        config.copy_trust_to_plugins();
        Ok(config)
    }

    /// Parses a text without checking its values against each other.
    fn parse_types(text: &str) -> Result<Self, error::Mistake> {
        if let Some((span, message)) = tables::find_list(text) {
            return Err(error::Mistake { span: Some(span), message });
        }
        toml::from_str(text).map_err(|error| error::Mistake::new(text, &error))
    }

    /// Copies `[signatures]` into the configuration of each plugin. Necessary after `plugins` was changed.
    pub fn copy_trust_to_plugins(&mut self) {
        self.plugins.iter_mut().for_each(|plugin| plugin.trust = self.signatures.clone());
    }

    /// Makes the paths, which are relative to the configuration file, relative to the working directory.
    fn resolve_paths(&mut self, folder: &Path) {
        let mut files: Vec<&mut PathBuf> =
            self.plugins.iter_mut().filter_map(|plugin| plugin.file.as_mut()).collect();
        if let Some(tls) = &mut self.server.tls {
            files.extend([&mut tls.certificate, &mut tls.key]);
        }
        files.extend(&mut self.cache.folder);
        files.extend(self.issuers.iter_mut().flat_map(|issuer| Arc::make_mut(issuer).files_mut()));
        files.extend(&mut self.audit.file);
        files.into_iter().for_each(|file| *file = folder.join(&*file));
    }

    /// The names of the sections that differ in `other` and take effect only after a restart.
    pub(crate) fn sections_that_need_restart(&self, other: &Self) -> Vec<&'static str> {
        let pairs = [
            ("server", self.server == other.server),
            ("admin", self.admin == other.admin),
            ("audit", self.audit == other.audit),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment = environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Config::parse(text, Path::new("s.toml"), &environment).map_err(|error| error.to_string())
    }

    /// Every key of the operator's manual.
    const WHOLE: &str = r#"
        [server]
        listen = "127.0.0.1:8080"
        path = "/v2/realtime"
        frame = "128KiB"
        tls = { certificate = "cert.pem", key = "key.pem" }
        [admin]
        listen = "127.0.0.1:9090"
        [audit]
        file = "audit.ndjson"
        [store]
        url = "memory"
        [rooms]
        ungoverned = "closed"
        history = { messages = 10, age = "10m", bytes = "1MiB" }
        sender = false
        publishes = "1000/s"
        bytes = "10MiB/s"
        members = "admin"
        [[room]]
        match = "dydx:*"
        history = { messages = 100, age = "1m", bytes = "1MiB" }
        sender = true
        publishes = "50/s"
        bytes = "1MiB/s"
        members = "subscribe"
        [session]
        ttl = "2m"
        outbox = "1MiB"
        message = "64KiB"
        authenticate = "10s"
        heartbeat = { interval = "25s", timeout = "10s" }
        [limits]
        mode = "enforce"
        trusted = ["10.0.0.0/8"]
        header = "x-forwarded-for"
        unauthenticated = 1000
        [limits.address]
        connections = 1000
        connects = "100/s"
        unauthenticated = 64
        failures = "20/m"
        [memory]
        limit = "2GiB"
        [[key]]
        digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
        principal = "acme"
        tier = "pro"
        id = "acme-feed"
        scopes = ["subscribe", "publish", "broadcast", "admin"]
        rooms = [{ match = "dydx:*", allow = ["subscribe"] }, { match = "@*", allow = ["publish"] }]
        tags = { team = "dydx" }
        expires = 2027-01-01T00:00:00Z
        [[issuer]]
        name = "app"
        issuer = "https://auth.example.org"
        audience = "switchyard"
        algorithms = ["EdDSA", "ES256", "RS256"]
        jwks = "https://auth.example.org/jwks.json"
        ca = "ca.pem"
        leeway = "30s"
        lifetime = "24h"
        prefix = "app-"
        tier = "pro"
        tiers = ["pro"]
        scopes = ["subscribe"]
        rooms = [{ match = "dydx:*", allow = ["subscribe"] }]
        claims = { principal = "sub", tier = "tier", scopes = "scope", rooms = "rooms", tags = "tags" }
        [tier.pro]
        connections = 25
        rooms = 100
        requests = "200/s"
        publishes = "100/s"
        bytes = "1MiB/s"
        subscribes = "100/s"
        reads = "10MiB/s"
        filters = 200
        memory = "64MiB"
        [[plugin]]
        name = "dydx"
        file = "dydx.wasm"
        sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
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
    fn every_documented_key_is_parsed_and_every_key_is_optional() {
        let config = parse(WHOLE, &[]).unwrap();
        assert_eq!(config.rooms.history.messages, 10);
        assert_eq!(config.keys[0].expires.unwrap().0, 1_798_761_600_000);
        assert_eq!(config.plugins[0].budget.memory, 16 << 20);
        assert!(config.plugins[0].trust.require, "each plugin has the keys of [signatures]");
        assert_eq!(parse("", &[]).unwrap(), Config::default());
    }

    fn one_key(digest: &str) -> String {
        format!("[[key]]\ndigest = \"sha256:{digest}\"\nprincipal = \"a\"\nscopes = [\"publish\"]\n")
    }

    #[test]
    fn an_expired_key_is_a_warning() {
        let key = one_key(&"0".repeat(64));
        let expired = parse(&format!("{key}expires = 2020-01-01T00:00:00Z\n"), &[]).unwrap();
        let expected = "key.expires: a key of principal 'a' expired at 2020-01-01T00:00:00Z: remove its [[key]] section, or \
                        set a later time";
        assert_eq!(expired.warnings(None), [expected]);
        assert!(
            parse(&format!("{key}expires = 2999-01-01T00:00:00Z\n"), &[]).unwrap().warnings(None).is_empty()
        );
    }

    #[test]
    fn a_plugin_that_governs_no_rooms_is_a_warning() {
        let plugin = |name: &str, rooms: &str| {
            format!("[[plugin]]\nname = \"{name}\"\nfile = \"{name}\"\nrooms = [{rooms}]\n")
        };
        let text = plugin("a", r#""dydx:**""#) + &plugin("b", r#""dydx:*", "trades""#) + &plugin("c", "");
        let warned = |text: &str| parse(text, &[]).unwrap().warnings(None);
        assert_eq!(warned(&text), ["plugin.rooms of plugin 'c' is empty, so it governs no rooms"]);
        let hidden = text + &plugin("d", r#""dydx:eth", "trades""#);
        let expected = "plugin 'd' governs no rooms: plugins before it govern all that match its patterns; move it before \
                        them";
        assert_eq!(warned(&hidden)[1], expected);
    }

    #[test]
    fn proxies_that_do_not_name_their_clients_or_are_anybody_are_a_warning() {
        let warned = |limits: &str| parse(&format!("[limits]\n{limits}"), &[]).unwrap().warnings(None);
        let silent = warned("trusted = [\"10.0.0.0/8\"]");
        assert!(silent.len() == 1 && silent[0].contains("limits.header is not set"), "{silent:?}");
        let anybody = warned("trusted = [\"::/0\", \"10.0.0.1\"]\nheader = \"forwarded\"");
        assert!(anybody.len() == 1 && anybody[0].contains("so every client is believed"), "{anybody:?}");
        assert_eq!(warned("trusted = [\"10.0.0.0/8\"]\nheader = \"proxy\""), [""; 0]);
    }

    #[test]
    fn an_error_names_the_line_the_key_and_what_is_expected() {
        let digest = "0".repeat(64);
        for (text, expected) in [
            ("[server]\nlisten = \"here\"", "s.toml:2:"),
            (
                "[server]\n\nlsten = \"127.0.0.1:1\"",
                "s.toml:3: server: unknown key `lsten`, expected one of `listen`",
            ),
            (
                "[session]\nttl = \"2 moons\"",
                "s.toml:2: session.ttl: invalid duration '2 moons'; expected something like",
            ),
            (
                "[rooms]\nungoverned = \"ajar\"",
                "s.toml:2: rooms.ungoverned: unknown value `ajar`, expected `open` or `closed`",
            ),
            ("[store]\nurl = \"mongo://x\"", "s.toml:2: store.url: unknown scheme 'mongo://…'"),
            (
                "[[room]]\nmatch = \"a::b\"",
                "s.toml:2: room.match: invalid room pattern 'a::b'; expected a room name in which",
            ),
            ("[[room]]\nmatch = \"@a b\"", "s.toml:2: room.match: invalid inbox '@a b'; expected"),
            ("[[room]]\nsender = true", "s.toml:1: room.match is missing; expected a pattern of rooms"),
            ("[room]\nmatch = \"a\"", "s.toml:1: room: write [[room]], not [room]"),
            (
                "[[room]]\nmatch = \"a:*\"\n[[room]]\nsender = true\nmatch = \"A:*\"",
                "s.toml:5: room.match: there are two [[room]] entries for 'A:*'; remove one of them",
            ),
            (
                "[[room]]\nmatch = \"a\"\nhistory = { age = \"0s\" }",
                "s.toml:3: room.history.age must be between 1ms and 1year, got 0s",
            ),
            (
                "[[room]]\nmatch = \"a\"\nhistory = { messages = 10000001 }",
                "s.toml:3: room.history.messages must be between 0 and 10000000, got 10000001",
            ),
            (
                "[[room]]\nmatch = \"a\"\nhistory = { age = \"5\" }",
                "s.toml:3: room.history.age: invalid duration '5'; expected something like",
            ),
            (
                "[[room]]\nmatch = \"a\"\npublishes = \"5/h\"",
                "s.toml:3: room.publishes: invalid rate '5/h'; expected something like",
            ),
            (
                "[[room]]\nmatch = \"a\"\nbytes = \"much\"",
                "s.toml:3: room.bytes: invalid rate of bytes 'much'; expected something like",
            ),
            (
                "[[room]]\nmatch = \"a\"\nmembers = \"all\"",
                "s.toml:3: room.members: unknown value `all`, expected one of `subscribe`, `admin`, `none`",
            ),
            (
                "[[room]]\nmatch = \"a\"\nsize = 1",
                "s.toml:3: room: unknown key `size`, expected one of `match`",
            ),
            (
                &format!(
                    "[[key]]\ndigest = \"sha256:{digest}\"\nprincipal = \"a\"\nscopes = []\ntier = \"gold\""
                ),
                "s.toml:5: key.tier: tier 'gold' is not configured; add a section [tier.gold]",
            ),
            (
                "[memory]\nlimit = \"0%\"",
                "s.toml:2: memory.limit: invalid limit '0%'; expected at least 1MiB,",
            ),
            (
                "[rooms]\nhistory = { bytes = \"a lot\" }",
                "s.toml:2: rooms.history.bytes: invalid size 'a lot'; expected something like",
            ),
            ("x = [", "s.toml:1:"),
            (
                "[limits]\nmode = \"warn\"",
                "s.toml:2: limits.mode: unknown value `warn`, expected `enforce` or `observe`",
            ),
            (
                "[limits]\nunauthenticated = 0",
                "s.toml:2: limits.unauthenticated: invalid value: integer `0`, expected a whole number of at least 1",
            ),
            (
                "[limits]\n\ntrusted = [\"10.0.0.1/8\"]",
                "s.toml:3: limits.trusted: '10.0.0.1/8' has bits set after its first 8",
            ),
            (
                "[limits]\nheader = \"x-real-ip\"",
                "s.toml:2: limits.header: unknown value `x-real-ip`, expected one of `x-forwarded-for`, `forwarded`, `proxy`",
            ),
            (
                "[limits]\n\nheader = \"proxy\"",
                "s.toml:3: limits.header is set, but limits.trusted is empty, so no proxy would be believed; list the",
            ),
            (
                "[limits.address]\nfailures = \"20/h\"",
                "s.toml:2: limits.address.failures: invalid rate '20/h'; expected something like",
            ),
            (
                "[signatures]\nkeys = [\"ed25519:AAAA\"]",
                "s.toml:2: signatures.keys: a trusted key must be 'ed25519:' and 32 bytes",
            ),
            ("[session]\nttl = \"1000d\"", "s.toml:2: session.ttl must be between 1ms and 1year, got 1000d"),
            (
                "session = { heartbeat = { interval = \"48h\" } }",
                "s.toml:1: session.heartbeat.interval must be between 1ms and 1day, got 48h",
            ),
            (
                "[server]\ndrain_delay = 5",
                "s.toml:2: server.drain_delay: invalid type: integer `5`, expected a duration such as \"5s\"",
            ),
            (
                "[server]\nframe = 5",
                "s.toml:2: server.frame: invalid type: integer `5`, expected a size such as \"64KiB\"",
            ),
            (
                "[memory]\nlimit = 5",
                "s.toml:2: memory.limit: invalid type: integer `5`, expected a limit such as \"60%\" or",
            ),
            (
                "[server]\nlisten = \"localhost:8080\"",
                "s.toml:2: server.listen: invalid address 'localhost:8080'; expected an IP address, not a host name,",
            ),
            ("[server]\n[[key]]\nprincipal = \"a\"", "s.toml:2: key.digest is missing"),
            ("[server]\ntls = { certificate = \"cert.pem\" }", "s.toml:2: server.tls.key is missing"),
            ("[server]\n[plugin]\nname = \"a\"", "s.toml:2: plugin: write [[plugin]], not [plugin]"),
            ("[key]\nprincipal = \"a\"", "s.toml:1: key: write [[key]], not [key]"),
            ("[[server]]\nframe = \"1KiB\"", "s.toml:1: server: write [server], not [[server]]"),
            (
                "[tier]\nconnections = 5",
                "s.toml:2: tier: write [tier.NAME], such as [tier.default], not [tier]",
            ),
            (
                "[[tier]]\nrooms = 5",
                "s.toml:1: tier: write [tier.NAME], such as [tier.default], not [[tier]]",
            ),
            ("[sever]\nframe = \"1KiB\"", "s.toml:1: unknown key `sever`, expected one of"),
            ("[[keys]]\nprincipal = \"a\"", "s.toml:1: unknown key `keys`, expected one of"),
            (
                "[server]\nlisten = 127.0.0.1:8080",
                "s.toml:2: server.listen: invalid number; a string needs quotation marks, such as",
            ),
            ("[session]\nttl = 2m", "s.toml:2: session.ttl: a string needs quotation marks, such as"),
            ("[cache]\nfolder = \"\"", "s.toml:2: cache.folder is empty; name a directory"),
            (
                "[[key]]\ndigest = \"12\"\nprincipal = \"a\"\nscopes = []",
                "s.toml:2: key.digest: invalid digest; expected 'sha256:'",
            ),
            (
                &[one_key(&digest), one_key(&digest)].concat(),
                "s.toml:6: key.digest: this key of principal 'a' is listed twice; remove one of the two [[key]] sections",
            ),
            (
                &[
                    format!("{}id = \"a\"\n", one_key(&digest)),
                    format!("{}id = \"a\"\n", one_key(&"1".repeat(64))),
                ]
                .concat(),
                "s.toml:10: key.id: 'a' is the id of another key, too; choose another one",
            ),
            (
                &format!("{}id = \"a b\"", one_key(&digest)),
                "s.toml:5: key.id: invalid id; expected 1 to 64 of the characters A-Z a-z 0-9 . _ -",
            ),
            (
                &format!("{}rooms = [{{ match = \"a::b\", allow = [\"publish\"] }}]", one_key(&digest)),
                "s.toml:5: key.rooms.match: invalid room pattern 'a::b'; expected",
            ),
            (
                &format!("{}rooms = [{{ match = \"a\", allow = [] }}]", one_key(&digest)),
                "s.toml:5: key.rooms: the entry for 'a' allows nothing; expected subscribe, publish or both",
            ),
            (
                &format!("{}rooms = [{{ match = \"a\", allow = [\"write\"] }}]", one_key(&digest)),
                "s.toml:5: key.rooms.allow: unknown value `write`, expected `subscribe` or `publish`",
            ),
            (
                &format!("{}tags = {{ \"a b\" = \"x\" }}", one_key(&digest)),
                "s.toml:5: key.tags: invalid name of a tag 'a b'; expected 1 to 64",
            ),
            (
                "[[plugin]]\nname = \"p\"\nfile = \"p\"\nrooms = [\"@acme\"]",
                "s.toml:4: plugin.rooms: invalid room pattern '@acme'; a plugin cannot govern inboxes",
            ),
            (
                "[[plugin]]\nname = \"p\"\nfile = \"p\"\nrooms = [\"p\"]\nsha256 = \"00\"",
                "s.toml:5: plugin.sha256: invalid digest '00'; expected 64 hexadecimal digits",
            ),
            (
                "[[plugin]]\nname = \"p\"\nfile = \"p\"\nrooms = [\"p\"]\nbudget = { call = \"70s\" }",
                "s.toml:2: plugin 'p': budget.call must be between 1ms and 1m, got 70s",
            ),
            (
                "[signatures]\nrequire = true",
                "s.toml:2: signatures.require is true, but signatures.keys is empty",
            ),
        ] {
            let error = parse(text, &[]).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn an_error_about_a_type_names_the_key_and_the_value_and_gives_an_example() {
        let key = |rest: &str| format!("[[key]]\n{rest}\n");
        let plugin = |rest: &str| format!("[[plugin]]\n{rest}\n");
        for (text, expected) in [
            (
                "limits.address.failures = 20",
                "limits.address.failures: integer `20`, a rate such as \"20/m\"",
            ),
            ("limits.address = 20", "limits.address: integer `20`, a table such as { unauthenticated = 64,"),
            (
                "limits.address.unauthenticated = \"64\"",
                "limits.address.unauthenticated: string \"64\", a whole number",
            ),
            (
                "limits.trusted = \"10.0.0.0/8\"",
                "limits.trusted: string \"10.0.0.0/8\", a list of addresses and networks",
            ),
            (
                "limits.trusted = [\n  \"10.0.0.0/8\",\n  8,\n]",
                "limits.trusted: integer `8`, a list of addresses and networks",
            ),
            (
                "limits.unauthenticated = \"many\"",
                "limits.unauthenticated: string \"many\", a whole number such as 1000",
            ),
            ("server.path = 1", "server.path: integer `1`, a path such as \"/v2/realtime\""),
            (
                "server.tls = true",
                "server.tls: boolean `true`, a table such as { certificate = \"cert.pem\",",
            ),
            (
                "server.tls = { certificate = 1 }",
                "server.tls.certificate: integer `1`, the path of a PEM file",
            ),
            (
                "server.origins = \"https://a\"",
                "server.origins: string \"https://a\", a list of origins such as",
            ),
            ("server.origins = [1]", "server.origins: integer `1`, a list of origins such as"),
            ("admin.hosts = \"a\"", "admin.hosts: string \"a\", a list of host names such as"),
            ("store.prefix = 1", "store.prefix: integer `1`, a string such as \"switchyard\""),
            ("rooms.ungoverned = true", "rooms.ungoverned: `true`, \"open\" or \"closed\""),
            ("rooms.sender = \"yes\"", "rooms.sender: string \"yes\", true or false"),
            ("rooms.publishes = 5", "rooms.publishes: integer `5`, a rate such as \"50/s\""),
            ("rooms.bytes = 5", "rooms.bytes: integer `5`, a rate of bytes such as \"1MiB/s\""),
            ("rooms.members = true", "rooms.members: `true`, \"subscribe\", \"admin\" or \"none\""),
            ("[[room]]\nmatch = 1", "room.match: integer `1`, a pattern of rooms such as \"dydx:*\""),
            (
                "[[room]]\nmatch = 'a'\nhistory = 1",
                "room.history: integer `1`, a table such as { messages = 100,",
            ),
            ("rooms.history = 1000", "rooms.history: integer `1000`, a table such as { messages = 1000,"),
            (
                "rooms.history.messages = \"1k\"",
                "rooms.history.messages: string \"1k\", a whole number such as 1000",
            ),
            (
                "session.heartbeat = \"25s\"",
                "session.heartbeat: string \"25s\", a table such as { interval = \"25s\",",
            ),
            ("tier.pro.rooms = \"all\"", "tier.pro.rooms: string \"all\", a whole number such as 100"),
            ("tier.pro.rooms = 1.5", "tier.pro.rooms: floating point `1.5`, a whole number such as 100"),
            (&key("digest = 1"), "key.digest: integer `1`, a string: 'sha256:' and 64 hexadecimal digits"),
            (&key("principal = 1"), "key.principal: integer `1`, a name such as \"acme\""),
            (&key("tier = 1"), "key.tier: integer `1`, the name of a tier"),
            (&key("scopes = \"publish\""), "key.scopes: string \"publish\", a list of scopes such as"),
            (&key("scopes = [1]"), "key.scopes: `1`, a list of scopes such as"),
            (
                &key("expires = \"2027-01-01\""),
                "key.expires: string \"2027-01-01\", a datetime in UTC without quotation marks",
            ),
            (&plugin("name = 1"), "plugin.name: integer `1`, a name such as \"dydx\""),
            (&plugin("file = 1"), "plugin.file: integer `1`, the path of a WebAssembly file"),
            (&plugin("sha256 = 1"), "plugin.sha256: integer `1`, a string of 64 hexadecimal digits"),
            (&plugin("rooms = \"a\""), "plugin.rooms: string \"a\", a list of room patterns such as"),
            (&plugin("config = 1"), "plugin.config: integer `1`, a table such as { max_depth = 50 }"),
            (&plugin("on_failure = 1"), "plugin.on_failure: `1`, \"deny\" or \"allow\""),
            (
                &plugin("budget = \"10ms\""),
                "plugin.budget: string \"10ms\", a table such as { call = \"10ms\",",
            ),
            (&plugin("budget.calls = \"1\""), "plugin.budget.calls: string \"1\", a whole number such as"),
            (
                "signatures.keys = \"ed25519:x\"",
                "signatures.keys: string \"ed25519:x\", a list of public keys",
            ),
            ("signatures.require = \"yes\"", "signatures.require: string \"yes\", true or false"),
            ("cache.folder = 1", "cache.folder: integer `1`, the path of a directory, such as \"cache\""),
        ] {
            let error = parse(text, &[]).unwrap_err();
            let (_, error) = error.split_once(": ").unwrap();
            let error = error.replace("invalid type: ", "").replace(", expected ", ", ");
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        let error = parse("", &[("SWITCHYARD_LIMITS__ADDRESS__FAILURES", "20")]).unwrap_err();
        assert!(error.ends_with("expected a rate such as \"20/m\" or \"5/s\""), "{error}");
        let missing = "server.tls = { certificate = \"cert.pem\" }";
        let error = parse(missing, &[]).unwrap_err();
        assert_eq!(
            error,
            "s.toml:1: server.tls.key is missing; expected the path of a PEM file, such as \"key.pem\""
        );
    }

    #[test]
    fn no_error_shows_a_password_wherever_the_url_of_the_store_is_put() {
        let url = "redis://:s3cret@h:1";
        let positions = [
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
            "key = [{ digest = \"sha256:D\", principal = \"a\", scopes = [], id = U }]",
            "key = [{ digest = \"sha256:D\", principal = \"a\", scopes = [], rooms = [{ match = U, allow = [] }] }]",
            "key = [{ digest = \"sha256:D\", principal = \"a\", scopes = [], tags = { a = U, U = U } }]",
            "key = [{ digest = \"sha256:D\", principal = \"a\", scopes = [U] }]",
            "key = [{ digest = \"sha256:D\", principal = \"a\", scopes = [], tier = U }]",
            "key = [{ digest = \"sha256:D\", principal = \"a\", scopes = [], expires = U }]",
            "plugin = [{ name = U, file = \"x\", rooms = [\"x\"] }]",
            "plugin = [{ name = \"x\", file = \"x\", rooms = [U] }]",
            "signatures.keys = [U]",
            "store.url = U x",
            "U",
        ];
        for position in positions {
            let text = position.replace('D', &"0".repeat(64)).replace('U', &format!("\"{url}\""));
            if let Err(error) = parse(&text, &[]) {
                assert!(!error.contains("s3cret"), "{text}: {error}");
            }
        }
        let error = parse(&format!("store = \"{url}\""), &[]).unwrap_err();
        assert_eq!(
            error,
            "s.toml:1: store: invalid type: string \"redis://…\", expected a table such as { url = \"memory\" }"
        );
        for name in ["STORE__PREFIX", "SERVER__LISTEN", "STORE__HOST", "SESSION__TTL", "ROOMS__HISTORY__AGE"]
        {
            let error = parse("", &[(&format!("SWITCHYARD_{name}"), url)]).unwrap_err();
            assert!(error.starts_with("SWITCHYARD_") && !error.contains("s3cret"), "{error}");
        }
        for error in [
            parse("[store]\nurl = 735273", &[]).unwrap_err(),
            parse("", &[("SWITCHYARD_STORE__URL", "735273")]).unwrap_err(),
        ] {
            assert!(error.contains("store.url must be a string such as \"memory\""), "{error}");
            assert!(error.ends_with("but its type is integer"), "{error}");
        }
    }

    #[test]
    fn variables_override_the_file_and_errors_name_them() {
        let config = parse(
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
        let error = parse("", &[("SWITCHYARD_SESSION__TTL", "soon")]).unwrap_err();
        assert!(error.starts_with("SWITCHYARD_SESSION__TTL: invalid duration 'soon'"), "{error}");
        for (name, value, expected) in [
            ("SERVER__PORT", "1", "unknown key `port`, expected one of `listen`"),
            ("SESSION__TTL", "7", "invalid type: integer `7`, expected a duration such as \"5s\""),
            ("SESSION__TTL", "2y", "session.ttl must be between 1ms and 1year, got 2y"),
            ("SESSION__TTL__UNIT", "1", "'ttl' is not a section of the configuration"),
            ("KEY__DIGEST", "1", "[[key]] is a list of tables, which can only be set in the file"),
        ] {
            let error =
                parse("[session]\nttl = \"1m\"", &[(&format!("SWITCHYARD_{name}"), value)]).unwrap_err();
            assert!(error.starts_with(&format!("SWITCHYARD_{name}: {expected}")), "{error}");
        }
        let two = [("SWITCHYARD_SESSION__MESSAGE", "\"100KiB\""), ("SWITCHYARD_SERVER__FRAME", "\"90KiB\"")];
        let error = parse("", &two).unwrap_err();
        let expected = "SWITCHYARD_SESSION__MESSAGE, SWITCHYARD_SERVER__FRAME: server.frame must be larger than \
                        session.message (100KiB), got 90KiB";
        assert_eq!(error, expected, "each would be valid by itself");
    }
}
