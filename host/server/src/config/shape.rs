//! What the values of keys look like, for error messages. Parses nothing.

/// Keys with what their values must be. Durations, sizes, addresses and the like are not listed: their parsers
/// describe them. A tier has any name, here `NAME`.
const SHAPES: &[(&str, &str)] = &[
    ("server", r#"a table such as { listen = "127.0.0.1:8080" }"#),
    ("server.path", r#"a path such as "/v2/realtime""#),
    ("server.tls", r#"a table such as { certificate = "cert.pem", key = "key.pem" }"#),
    ("server.tls.certificate", r#"the path of a PEM file, such as "cert.pem""#),
    ("server.tls.key", r#"the path of a PEM file, such as "key.pem""#),
    ("server.origins", r#"a list of origins such as ["https://app.example.org"]"#),
    ("admin", r#"a table such as { listen = "127.0.0.1:9090" }"#),
    ("admin.hosts", r#"a list of host names such as ["node1.example.org"]"#),
    ("store", r#"a table such as { url = "memory" }"#),
    ("store.prefix", r#"a string such as "switchyard""#),
    ("rooms", r#"a table such as { ungoverned = "closed" }"#),
    ("rooms.ungoverned", r#""open" or "closed""#),
    ("rooms.history", r#"a table such as { messages = 1000, age = "10m", bytes = "16MiB" }"#),
    ("rooms.history.messages", "a whole number such as 1000"),
    ("rooms.sender", "true or false"),
    ("rooms.publishes", r#"a rate such as "50/s" or "20/m""#),
    ("rooms.bytes", r#"a rate of bytes such as "1MiB/s""#),
    ("rooms.members", r#""subscribe", "admin" or "none""#),
    ("room", r#"a table such as { match = "dydx:*", sender = true }"#),
    ("room.match", r#"a pattern of rooms such as "dydx:*" or "@*""#),
    ("room.history", r#"a table such as { messages = 100, age = "1m", bytes = "1MiB" }"#),
    ("room.history.messages", "a whole number such as 100"),
    ("room.sender", "true or false"),
    ("room.publishes", r#"a rate such as "50/s" or "20/m""#),
    ("room.bytes", r#"a rate of bytes such as "1MiB/s""#),
    ("room.members", r#""subscribe", "admin" or "none""#),
    ("session", r#"a table such as { ttl = "2m" }"#),
    ("session.heartbeat", r#"a table such as { interval = "25s", timeout = "10s" }"#),
    ("limits", "a table such as { unauthenticated = 1000 }"),
    ("limits.mode", r#""enforce" or "observe""#),
    ("limits.trusted", r#"a list of addresses and networks such as ["10.0.0.0/8"]"#),
    ("limits.header", r#""x-forwarded-for", "forwarded" or "proxy""#),
    ("limits.unauthenticated", "a whole number such as 1000"),
    ("limits.address", r#"a table such as { unauthenticated = 64, failures = "20/m" }"#),
    ("limits.address.connections", "a whole number such as 1000"),
    ("limits.address.connects", r#"a rate such as "100/s" or "600/m""#),
    ("limits.address.unauthenticated", "a whole number such as 64"),
    ("limits.address.failures", r#"a rate such as "20/m" or "5/s""#),
    ("memory", r#"a table such as { limit = "60%" }"#),
    ("key", r#"a table such as { digest = "sha256:…", principal = "acme", scopes = ["publish"] }"#),
    ("key.id", r#"a name such as "acme-feed""#),
    ("key.digest", "a string: 'sha256:' and 64 hexadecimal digits, as printed by `switchyard key new`"),
    ("key.principal", r#"a name such as "acme""#),
    ("key.tier", r#"the name of a tier, such as "default""#),
    ("key.scopes", r#"a list of scopes such as ["subscribe", "publish"]"#),
    ("key.rooms", r#"a list such as [{ match = "dydx:*", allow = ["subscribe"] }]"#),
    ("key.rooms.match", r#"a pattern of rooms such as "dydx:*", or an inbox such as "@*""#),
    ("key.rooms.allow", r#"a list of "subscribe" and "publish""#),
    ("key.tags", r#"a table such as { team = "dydx" }"#),
    ("key.expires", "a datetime in UTC without quotation marks, such as 2027-01-01T00:00:00Z"),
    (
        "issuer",
        r#"a table such as { name = "app", issuer = "https://auth.example.org", audience = "switchyard", algorithms = ["EdDSA"], jwks = "https://auth.example.org/jwks.json" }"#,
    ),
    ("issuer.name", r#"a name such as "app""#),
    ("issuer.issuer", r#"the iss of its tokens, such as "https://auth.example.org""#),
    ("issuer.audience", r#"what the aud of its tokens contains, such as "switchyard""#),
    ("issuer.algorithms", r#"a list of "EdDSA", "ES256", "RS256" or only "HS256""#),
    ("issuer.jwks", r#"a URL such as "https://auth.example.org/jwks.json""#),
    ("issuer.keys", r#"the path of a JSON Web Key Set, such as "jwks.json""#),
    ("issuer.secret_file", r#"the path of a file, such as "secret""#),
    ("issuer.prefix", r#"the beginning of the names of its principals, such as "app-""#),
    ("issuer.tiers", r#"a list of tiers such as ["default", "pro"]"#),
    ("issuer.scopes", r#"a list of scopes such as ["subscribe"]"#),
    ("issuer.rooms", r#"a list such as [{ match = "dydx:*", allow = ["subscribe"] }]"#),
    ("issuer.claims", r#"a table such as { principal = "sub", scopes = "scope" }"#),
    ("tier.NAME", "a table such as { connections = 100, rooms = 100 }"),
    ("tier.NAME.connections", "a whole number such as 100"),
    ("tier.NAME.rooms", "a whole number such as 100"),
    ("tier.NAME.requests", r#"a rate such as "200/s" or "600/m""#),
    ("tier.NAME.publishes", r#"a rate such as "100/s" or "600/m""#),
    ("tier.NAME.bytes", r#"a rate of bytes such as "1MiB/s""#),
    ("tier.NAME.subscribes", r#"a rate such as "100/s" or "600/m""#),
    ("tier.NAME.reads", r#"a rate of bytes such as "10MiB/s""#),
    ("tier.NAME.filters", "a whole number such as 200"),
    ("tier.NAME.memory", r#"a size such as "64MiB""#),
    ("plugin", r#"a table such as { name = "dydx", file = "dydx.wasm", rooms = ["dydx:*"] }"#),
    ("plugin.name", r#"a name such as "dydx""#),
    ("plugin.file", r#"the path of a WebAssembly file, such as "orderbook.wasm""#),
    ("plugin.sha256", "a string of 64 hexadecimal digits"),
    ("plugin.rooms", r#"a list of room patterns such as ["dydx:*", "trades"]"#),
    ("plugin.config", "a table such as { max_depth = 50 }"),
    ("plugin.headers", r#"a list of header names such as ["user-agent"]"#),
    ("plugin.on_failure", r#""deny" or "allow""#),
    ("plugin.state", r#""node" or "shared""#),
    ("plugin.budget", r#"a table such as { call = "10ms", memory = "16MiB" }"#),
    ("plugin.budget.calls", "a whole number such as 1000000"),
    ("plugin.budget.instances", "a whole number such as 8"),
    ("cache", r#"a table such as { folder = "cache" }"#),
    ("cache.folder", r#"the path of a directory, such as "cache""#),
    ("signatures", "a table such as { require = true }"),
    (
        "signatures.keys",
        "a list of public keys such as [\"ed25519:…\"], as printed by `switchyard plugin keygen`",
    ),
];

/// What the value of a key must be, with an example. `None`: the message of the parser says it already.
pub(super) fn expected_shape(key: &str) -> Option<&'static str> {
    let key = match key.strip_prefix("tier.").map(|rest| rest.rsplit_once('.')) {
        Some(Some((_, limit))) => format!("tier.NAME.{limit}"),
        Some(None) => "tier.NAME".to_owned(),
        None => key.to_owned(),
    };
    SHAPES.iter().find(|(name, _)| *name == key).map(|(_, shape)| *shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_may_have_any_name() {
        assert_eq!(expected_shape("tier.pro.rooms"), Some("a whole number such as 100"));
        assert_eq!(expected_shape("tier.NAME.rooms"), expected_shape("tier.a.b.rooms"));
        assert_eq!(expected_shape("tier.pro.seats"), None);
        assert!(expected_shape("tier.pro").is_some_and(|shape| shape.contains("connections")));
    }
}
