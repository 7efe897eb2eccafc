//! What clients may do: the API keys that a node accepts, and what the tokens of issuers permit.
//! Keeps only the digests of keys, not the keys, and verifies no tokens.

use crate::{
    tier::Tier,
    token::{IssuerConfig, TokenClaims, invalid as invalid_token},
};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};
use subtle::ConstantTimeEq;
use switchyard_plugin::Principal;
use switchyard_protocol::{
    ErrorCode, Refusal,
    room::{RoomKind, RoomName},
    unix_ms,
};
use switchyard_store::{
    grant::{Grants, Verb},
    key::{Digest, Expiry, KeyConfig, PrincipalName, Scope},
};

pub use crate::token::DEFAULT_TIER;

/// The memory of what is kept of a token, in addition to its claims, in bytes.
const TOKEN_OVERHEAD_BYTES: usize = 1 << 10;

/// With what a client has authenticated.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Credential {
    /// An API key with this digest.
    Key(Digest),
    /// A user token.
    Token(Arc<TokenClaims>),
}

/// A configured key, or what a user token permits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub credential: Credential,
    /// What the key is called. For a token, `token:` and the name of its issuer.
    pub id: Arc<str>,
    pub principal: Arc<str>,
    pub tier: Arc<str>,
    pub limits: Tier,
    /// Its principal as plugins see it.
    pub seen_by_plugins: Principal,
    scopes: Vec<Scope>,
    /// Each of them must allow what it does in a room. Empty: every ordinary room and the inbox of its principal.
    rooms: Vec<Arc<Grants>>,
    /// Whether `rooms` may allow the inboxes of other principals. A token cannot claim them by itself.
    reaches_other_inboxes: bool,
    /// Unix milliseconds. `None`: never.
    expires: Option<u64>,
    /// For how many milliseconds after that it is still accepted, because clocks differ.
    leeway: u64,
}

impl Key {
    /// Refuses if the key lacks a scope. `what` completes the message "key 'x' may not …".
    pub(crate) fn require(&self, scope: Scope, what: impl fmt::Display) -> Result<(), Refusal> {
        if self.has_scope(scope) {
            return Ok(());
        }
        let message = format!("{} may not {what}: it lacks the scope '{}'", self.name(), scope.as_str());
        Err(Refusal::new(ErrorCode::Forbidden, message))
    }

    /// Refuses if the key may not do something in a room, whose name must be canonical.
    pub(crate) fn require_in(&self, verb: Verb, room: &RoomName) -> Result<(), Refusal> {
        let (scope, what) = match (verb, room.kind()) {
            (Verb::Subscribe, _) => (Scope::Subscribe, "subscribe to"),
            (Verb::Publish, RoomKind::Broadcast) => (Scope::Broadcast, "publish to"),
            (Verb::Publish, RoomKind::Inbox | RoomKind::Ordinary) => (Scope::Publish, "publish to"),
        };
        self.require(scope, format_args!("{what} '{}'", &**room))?;
        let is_own_inbox = room.inbox_of() == Some(&*self.principal);
        let problem = match (room.kind(), &self.rooms[..]) {
            (RoomKind::Broadcast, _) => return Ok(()),
            // Every client receives its inbox.
            (RoomKind::Inbox, _) if is_own_inbox && verb == Verb::Subscribe => return Ok(()),
            (RoomKind::Inbox, []) if is_own_inbox => return Ok(()),
            (RoomKind::Ordinary, []) => return Ok(()),
            (RoomKind::Inbox, _) if !is_own_inbox && !self.reaches_other_inboxes => match self.credential {
                Credential::Key(_) => {
                    "it is the inbox of another principal, which only an entry of its rooms allows"
                }
                Credential::Token(_) => {
                    "it is the inbox of another principal, which only an entry of issuer.rooms allows"
                }
            },
            (_, grants) if grants.iter().all(|grants| grants.allow(verb, room)) => return Ok(()),
            _ => "no entry of its rooms allows it",
        };
        let message = format!("{} may not {what} '{}': {problem}", self.name(), &**room);
        Err(Refusal::new(ErrorCode::Forbidden, message))
    }

    /// What it is called in errors.
    fn name(&self) -> String {
        match &self.credential {
            Credential::Key(_) => format!("key '{}'", self.id),
            Credential::Token(claims) => format!("a token of issuer '{}'", claims.issuer.name),
        }
    }

    /// Which kinds of requests it permits.
    pub(crate) fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// Each of them must allow what is done in a room. Empty: every ordinary room and the inbox of its principal.
    pub(crate) fn rooms(&self) -> &[Arc<Grants>] {
        &self.rooms
    }

    /// About how much memory it takes for its connection alone, in bytes.
    pub(crate) fn memory(&self) -> usize {
        match &self.credential {
            Credential::Key(_) => 0,
            Credential::Token(claims) => TOKEN_OVERHEAD_BYTES + 3 * claims.bytes,
        }
    }

    /// When it expires, in Unix milliseconds.
    pub(crate) fn expires(&self) -> Option<u64> {
        self.expires
    }

    /// When a connection with this token is closed, in Unix milliseconds. `None` for a key: its expiration is known from
    /// the configuration.
    pub(crate) fn token_ends(&self) -> Option<u64> {
        match self.credential {
            Credential::Key(_) => None,
            Credential::Token(_) => Some(self.expires?.saturating_add(self.leeway)),
        }
    }

    fn of(config: &KeyConfig, tiers: &HashMap<String, Tier>) -> Self {
        let tier = config.tier.as_ref().map_or(DEFAULT_TIER, |tier| tier.get_ref().as_str());
        let (id, principal, tier_name) = (config.id(), config.principal.0.clone(), Arc::<str>::from(tier));
        let tags = config.tags.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let seen_by_plugins =
            Principal { tags, ..Principal::new(principal.clone(), id.clone(), tier_name.clone()) };
        Self {
            credential: Credential::Key(config.digest),
            id,
            principal,
            tier: tier_name,
            limits: tiers.get(tier).copied().unwrap_or_default(),
            seen_by_plugins,
            scopes: config.scopes.clone(),
            rooms: config.rooms.iter().cloned().map(Arc::new).collect(),
            reaches_other_inboxes: config.rooms.is_some(),
            expires: config.expires.map(|expires| expires.0),
            leeway: 0,
        }
    }

    /// What a token permits: what it claims, as far as its issuer may give it.
    fn of_token(
        claims: &Arc<TokenClaims>,
        issuer: &IssuerConfig,
        tiers: &HashMap<String, Tier>,
    ) -> Result<Self, Refusal> {
        let tier = claims.tier.as_ref().unwrap_or(&issuer.tier);
        if !issuer.all_tiers().any(|allowed| allowed == tier) {
            let (claim, name) = (&issuer.claims.tier, &issuer.name);
            let all: Vec<_> = issuer.all_tiers().map(|tier| format!("'{tier}'")).collect();
            let problem = format!(
                "its claim '{claim}' is not a tier that issuer '{name}' may give (issuer.tiers): {}",
                all.join(", ")
            );
            return Err(invalid_token(problem));
        }
        let may_give = |scope: &&Scope| issuer.scopes.contains(scope);
        let scopes = claims.scopes.as_ref().unwrap_or(&issuer.scopes);
        // No key has a colon in its id.
        let (id, tier_name) = (Arc::<str>::from(format!("token:{}", issuer.name)), Arc::<str>::from(&**tier));
        let (principal, tags) = (claims.principal.clone(), claims.tags.iter());
        let tags = tags.map(|(name, value)| (name.clone(), value.clone())).collect();
        let seen_by_plugins =
            Principal { tags, ..Principal::new(principal.clone(), id.clone(), tier_name.clone()) };
        Ok(Self {
            credential: Credential::Token(claims.clone()),
            id,
            principal,
            tier: tier_name,
            limits: tiers.get(tier).copied().unwrap_or_default(),
            seen_by_plugins,
            scopes: scopes.iter().filter(may_give).copied().collect(),
            rooms: issuer.rooms.iter().chain(&claims.rooms).cloned().collect(),
            reaches_other_inboxes: issuer.rooms.is_some(),
            expires: Some(claims.expires),
            leeway: issuer.leeway.as_millis() as u64,
        })
    }

    /// A key that nobody can present. For tests and benchmarks.
    pub(crate) fn detached(principal: &str) -> Arc<Self> {
        let (digest, name) = (Digest::of(principal), PrincipalName(principal.into()));
        let config = KeyConfig::new(digest, name, vec![Scope::Subscribe, Scope::Publish]);
        Arc::new(Self::of(&config, &HashMap::new()))
    }

    /// The same with these limits.
    pub(crate) fn detached_with(principal: &str, limits: Tier) -> Arc<Self> {
        Arc::new(Self { limits, ..Arc::unwrap_or_clone(Self::detached(principal)) })
    }

    pub(crate) fn has_scope(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    fn check_expiry(&self, now: u64) -> Result<(), Refusal> {
        let Some(at) = self.expires.filter(|at| at.saturating_add(self.leeway) <= now) else { return Ok(()) };
        let at = Expiry(at);
        Err(match self.credential {
            Credential::Key(_) => {
                Refusal::new(ErrorCode::ExpiredKey, format!("key '{}' expired at {at}", self.id))
            }
            Credential::Token(_) => {
                Refusal::new(ErrorCode::ExpiredToken, format!("the token expired at {at}; get a new one"))
            }
        })
    }
}

#[cfg(test)]
impl Keys {
    /// Only the [detached](Key::detached) key of this principal.
    pub(crate) fn detached(principal: &str) -> Arc<arc_swap::ArcSwap<Self>> {
        let mut keys = Self::default();
        keys.insert(Digest::of(principal), Arc::unwrap_or_clone(Key::detached(principal)));
        Arc::new(arc_swap::ArcSwap::from_pointee(keys))
    }
}

/// All configured keys and issuers. Keys are looked up by the first bytes of their digest, and the whole digest is
/// compared in constant time.
#[derive(Default)]
pub(crate) struct Keys {
    by_prefix: HashMap<[u8; 8], Vec<Arc<Key>>>,
    principals: HashSet<Arc<str>>,
    issuers: Vec<Arc<IssuerConfig>>,
    tiers: HashMap<String, Tier>,
}

impl Keys {
    /// `tiers` must contain every tier that a key names. Checking the configuration makes sure of that.
    pub(crate) fn new(keys: &[KeyConfig], tiers: &HashMap<String, Tier>) -> Self {
        let mut all = Self::default();
        keys.iter().for_each(|config| all.insert(config.digest, Key::of(config, tiers)));
        all.tiers.clone_from(tiers);
        all
    }

    /// The same with the tokens of these issuers.
    pub(crate) fn with_issuers(self, issuers: &[Arc<IssuerConfig>]) -> Self {
        Self { issuers: issuers.to_vec(), ..self }
    }

    /// Keeps the name of a principal from tokens, although its key is not accepted.
    pub(crate) fn reserve(&mut self, principal: Arc<str>) {
        self.principals.insert(principal);
    }

    fn insert(&mut self, digest: Digest, key: Key) {
        let prefix = digest.as_bytes()[..8].try_into().expect("eight bytes");
        self.principals.insert(key.principal.clone());
        self.by_prefix.entry(prefix).or_default().push(Arc::new(key));
    }

    /// Whether nobody can authenticate.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_prefix.is_empty() && self.issuers.is_empty()
    }

    /// The longest that a token of any issuer is accepted. `None` if there are no issuers.
    pub(crate) fn longest_acceptance(&self) -> Option<Duration> {
        self.issuers.iter().map(|issuer| issuer.acceptance()).max()
    }

    /// Whether a principal has a key, even an expired one.
    pub(crate) fn has_principal(&self, principal: &str) -> bool {
        self.principals.contains(principal)
    }

    /// Finds the key that a client presented.
    pub(crate) fn authenticate(&self, key: &str) -> Result<Arc<Key>, Refusal> {
        self.find(&Digest::of(key))
    }

    /// What a token permits that was verified. The configuration may have changed since.
    pub(crate) fn accept(&self, claims: &Arc<TokenClaims>) -> Result<Arc<Key>, Refusal> {
        let issuer = self.issuers.iter().find(|issuer| issuer.trusts_as(&claims.issuer));
        let issuer = issuer.ok_or_else(|| {
            let name = &claims.issuer.name;
            invalid_token(format_args!(
                "issuer '{name}' has other keys or principals now, or is not accepted any more"
            ))
        })?;
        let principal = &*claims.principal;
        if self.has_principal(principal) {
            return Err(invalid_token(format_args!("principal '{principal}' belongs to an API key")));
        }
        let key = Key::of_token(claims, issuer, &self.tiers)?;
        key.check_expiry(unix_ms())?;
        Ok(Arc::new(key))
    }

    /// The key or token of a client, if it is still valid: a key as it is configured now, and a token as it was when
    /// [`Self::renewed`] was called last.
    pub(crate) fn current(&self, key: &Arc<Key>) -> Result<Arc<Key>, Refusal> {
        match &key.credential {
            Credential::Key(digest) => self.find_of(digest, &key.principal),
            Credential::Token(_) => key.check_expiry(unix_ms()).map(|()| key.clone()),
        }
    }

    /// The key or token of a client as it is according to the configuration now.
    pub(crate) fn renewed(&self, key: &Key) -> Result<Arc<Key>, Refusal> {
        match &key.credential {
            Credential::Key(digest) => self.find_of(digest, &key.principal),
            Credential::Token(claims) => self.accept(claims),
        }
    }

    /// Finds a key by its digest, if it still belongs to this principal.
    fn find_of(&self, digest: &Digest, principal: &str) -> Result<Arc<Key>, Refusal> {
        let key = self.find(digest)?;
        if &*key.principal == principal {
            return Ok(key);
        }
        let message = format!("key '{}' belongs to another principal now", key.id);
        Err(Refusal::new(ErrorCode::InvalidKey, message))
    }

    /// Finds a key by its digest. It may have changed since a connection authenticated with it, or be gone.
    fn find(&self, digest: &Digest) -> Result<Arc<Key>, Refusal> {
        let same = |key: &&Arc<Key>| match &key.credential {
            Credential::Key(other) => bool::from(other.as_bytes().ct_eq(digest.as_bytes())),
            Credential::Token(_) => false,
        };
        let found = self.by_prefix.get(&digest.as_bytes()[..8]).and_then(|keys| keys.iter().find(same));
        let Some(key) = found else {
            return Err(Refusal::new(
                ErrorCode::InvalidKey,
                "unknown API key; check it, or ask the operator of the server for one",
            ));
        };
        key.check_expiry(unix_ms())?;
        Ok(key.clone())
    }
}

/// Generates a key: `sk_`, and 160 random bits in hexadecimal.
pub fn generate_key() -> String {
    let mut bits = [0u8; 20];
    getrandom::fill(&mut bits).expect("the system has entropy");
    bits.iter().fold("sk_".to_owned(), |key, byte| key + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Keys {
        /// The tokens of the principal `acme` with these ids, and the keys that accept them.
        pub(crate) fn with_tokens<const N: usize>(ids: [&str; N]) -> (Self, [Arc<Key>; N]) {
            let issuer: IssuerConfig =
                toml::from_str("name = \"app\"\nissuer = \"i\"\naudience = \"a\"").unwrap();
            let issuer = Arc::new(issuer);
            let keys = Self::default().with_issuers(std::slice::from_ref(&issuer));
            let accepted = ids.map(|id| {
                let claims = TokenClaims {
                    issuer: issuer.clone(),
                    principal: "acme".into(),
                    id: Some(id.into()),
                    issued: None,
                    expires: u64::MAX,
                    tier: None,
                    scopes: None,
                    rooms: None,
                    tags: Default::default(),
                    bytes: 100,
                };
                keys.accept(&Arc::new(claims)).expect("its issuer is trusted")
            });
            (keys, accepted)
        }
    }

    fn key(toml: &str) -> Arc<Key> {
        let digest = Digest::of("secret");
        let config: KeyConfig = toml::from_str(&format!("digest = \"{digest}\"\n{toml}")).expect("a key");
        Keys::new(&[config], &HashMap::new()).authenticate("secret").expect("it has not expired")
    }

    fn keys(expires: &str) -> Keys {
        let digest = Digest::of("secret");
        let config =
            format!("digest = \"{digest}\"\nprincipal = \"acme\"\nscopes = [\"publish\"]\n{expires}");
        Keys::new(&[toml::from_str(&config).unwrap()], &HashMap::new())
    }

    #[test]
    fn a_key_is_accepted_until_it_expires_and_only_for_its_scopes() {
        let key = keys("id = \"feed\"").authenticate("secret").unwrap();
        assert_eq!((&*key.principal, &*key.id), ("acme", "feed"));
        assert!(key.require(Scope::Publish, "publish").is_ok());
        let refusal = key.require(Scope::Admin, "see rooms").unwrap_err();
        assert_eq!(refusal.message, "key 'feed' may not see rooms: it lacks the scope 'admin'");
        assert_eq!(keys("").authenticate("secreT").unwrap_err().code, ErrorCode::InvalidKey);
        let expired = keys("expires = 2020-01-01T00:00:00Z").authenticate("secret").unwrap_err();
        assert_eq!(expired.code, ErrorCode::ExpiredKey);
    }

    #[test]
    fn plugins_see_the_id_and_the_tags_of_a_key() {
        let key =
            key("principal = \"acme\"\nid = \"feed\"\nscopes = []\ntags = { team = \"dydx\", desk = \"2\" }");
        let tags = [("desk", "2"), ("team", "dydx")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let expected = Principal { tags: tags.into(), ..Principal::new("acme", "feed", "default") };
        assert_eq!(key.seen_by_plugins, expected);
    }

    /// What a token of an issuer with these settings and these claims may do: `s` for subscribe and `p` for publish, in
    /// `dydx:eth`, `trades`, `*`, the own inbox and another one.
    fn token_may(issuer: &str, claims: serde_json::Value) -> Result<String, Refusal> {
        let text = format!("name = \"app\"\nissuer = \"i\"\naudience = \"a\"\n{issuer}");
        let issuer: Arc<IssuerConfig> = Arc::new(toml::from_str(&text).unwrap());
        let of = |name: &str| claims.get(name).cloned();
        let claims = TokenClaims {
            issuer: issuer.clone(),
            principal: "acme".into(),
            id: None,
            issued: None,
            expires: u64::MAX,
            tier: of("tier").map(|tier| tier.as_str().unwrap().to_owned()),
            scopes: of("scope").map(|scopes| serde_json::from_value(scopes).unwrap()),
            rooms: of("rooms").map(|rooms| serde_json::from_value(rooms).unwrap()).map(Arc::new),
            tags: Default::default(),
            bytes: 100,
        };
        let key = Keys::default().with_issuers(&[issuer]).accept(&Arc::new(claims))?;
        let shown = ["dydx:eth", "trades", "*", "@acme", "@bob"].map(|room| {
            let room = RoomName::parse(room).unwrap();
            let letter = |verb, letter| if key.require_in(verb, &room).is_ok() { letter } else { '-' };
            String::from_iter([letter(Verb::Subscribe, 's'), letter(Verb::Publish, 'p')])
        });
        Ok(shown.join(" "))
    }

    #[test]
    fn a_claim_narrows_what_an_issuer_gives_and_never_widens_it() {
        use serde_json::json;
        let all = r#"scopes = ["subscribe", "publish"]"#;
        let dydx = r#"rooms = [{ match = "dydx:*", allow = ["subscribe", "publish"] }]"#;
        let inboxes =
            r#"rooms = [{ match = "**", allow = ["subscribe"] }, { match = "@*", allow = ["publish"] }]"#;
        let claim = |rooms: &str, verbs: &[&str]| json!({"rooms": [{"match": rooms, "allow": verbs}]});
        let both = ["subscribe", "publish"];
        for (issuer, claims, expected) in [
            ("", json!({}), "s- s- s- s- --"),
            ("", json!({"scope": ["publish", "admin", "broadcast"]}), "-- -- -- -- --"),
            (all, json!({"scope": ["publish"]}), "-p -p -- -p --"),
            (all, json!({}), "sp sp s- sp --"),
            (&format!("{all}\n{dydx}"), json!({}), "sp -- s- s- --"),
            (all, claim("dydx:*", &["subscribe"]), "s- -- s- s- --"),
            (&format!("{all}\n{dydx}"), claim("**", &both), "sp -- s- s- --"),
            (&format!("{all}\n{dydx}"), claim("trades", &both), "-- -- s- s- --"),
            // The inboxes of others come from the issuer alone.
            (all, claim("@*", &both), "-- -- s- sp --"),
            (all, claim("@bob", &both), "-- -- s- s- --"),
            (&format!("{all}\n{inboxes}"), json!({}), "s- s- s- sp -p"),
            (&format!("{all}\n{inboxes}"), claim("@bob", &both), "-- -- s- s- -p"),
        ] {
            assert_eq!(token_may(issuer, claims.clone()).unwrap(), expected, "{issuer} {claims}");
        }
        let refused = token_may("tier = \"a\"\ntiers = [\"a\"]", json!({"tier": "b"})).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidToken);
    }

    /// Every combination of scope, grant, kind of room and verb.
    #[test]
    fn a_key_may_do_what_its_scopes_and_its_rooms_allow() {
        const ALL: &str = r#"scopes = ["subscribe", "publish", "broadcast"]"#;
        const NO_GRANTS: &str = "";
        let grants = |text: &str| {
            let entry = |text: &str| {
                let (rooms, verbs) = text.split_once('=').unwrap();
                let verbs: Vec<_> = verbs.split('+').map(|verb| format!("\"{verb}\"")).collect();
                format!("{{ match = \"{rooms}\", allow = [{}] }}", verbs.join(", "))
            };
            format!("rooms = [{}]", text.split_whitespace().map(entry).collect::<Vec<_>>().join(", "))
        };
        let read = &grants("dydx:*=subscribe");
        let write = &grants("dydx:*=publish");
        let both = &grants("trades=publish dydx:*=subscribe dydx:eth=publish");
        let inboxes = &grants("@*=publish");
        let one_inbox = &grants("@bob=publish @bob=subscribe");
        let everything = &grants("**=subscribe+publish");
        let nothing = &grants("");
        // Which of subscribe and publish are allowed in `dydx:eth`, `trades`, `*`, the own inbox and another one.
        for (scopes, rooms, expected) in [
            (ALL, NO_GRANTS, "sp sp sp sp --"),
            (ALL, read, "s- -- sp s- --"),
            (ALL, write, "-p -- sp s- --"),
            (ALL, both, "sp -p sp s- --"),
            (ALL, inboxes, "-- -- sp sp -p"),
            (ALL, one_inbox, "-- -- sp s- sp"),
            (ALL, everything, "sp sp sp s- --"),
            (ALL, nothing, "-- -- sp s- --"),
            (r#"scopes = ["subscribe"]"#, NO_GRANTS, "s- s- s- s- --"),
            (r#"scopes = ["subscribe"]"#, both, "s- -- s- s- --"),
            (r#"scopes = ["publish"]"#, NO_GRANTS, "-p -p -- -p --"),
            (r#"scopes = ["publish"]"#, inboxes, "-- -- -- -p -p"),
            (r#"scopes = ["broadcast"]"#, everything, "-- -- -p -- --"),
            (r#"scopes = ["admin"]"#, everything, "-- -- -- -- --"),
            ("scopes = []", everything, "-- -- -- -- --"),
        ] {
            let key = key(&format!("principal = \"acme\"\nid = \"k\"\n{scopes}\n{rooms}"));
            let may = |verb, name: &str| {
                let room = RoomName::parse(name).unwrap();
                let refusal = key.require_in(verb, &room).err();
                if let Some(Refusal { code, message, .. }) = &refusal {
                    let expected = format!("key 'k' may not {} to '{name}': ", verb.as_str());
                    assert!(*code == ErrorCode::Forbidden && message.starts_with(&expected), "{message}");
                }
                refusal.is_none()
            };
            let shown = ["dydx:eth", "trades", "*", "@acme", "@bob"].map(|room| {
                let letter = |verb, letter| if may(verb, room) { letter } else { '-' };
                String::from_iter([letter(Verb::Subscribe, 's'), letter(Verb::Publish, 'p')])
            });
            assert_eq!(shown.join(" "), expected, "{scopes} {rooms}");
        }
    }
}
