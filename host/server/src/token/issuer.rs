//! `[[issuer]]`: who signs user tokens, and the most that they may claim. Verifies nothing.

use super::jws::Algorithm;
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use switchyard_process::unit;
use switchyard_protocol::room::is_valid_word;
use switchyard_store::{grant::Grants, key::Scope};
use url::{Host, Url};

/// An entry of `[[issuer]]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// What it is called in logs and errors.
    pub name: String,
    /// The `iss` of its tokens.
    pub issuer: String,
    /// What the `aud` of its tokens must contain.
    pub audience: String,
    /// How its tokens may be signed.
    #[serde(default)]
    pub algorithms: Vec<Algorithm>,
    /// Where its public keys are, as a JSON Web Key Set.
    pub jwks: Option<JwksUrl>,
    /// A file with its public keys, as a JSON Web Key Set.
    pub keys: Option<PathBuf>,
    /// A file with the secret of HS256.
    pub secret_file: Option<PathBuf>,
    /// A PEM file with the certificates that `jwks` is trusted by, instead of the public ones.
    pub ca: Option<PathBuf>,
    /// How much its clock may differ from the server's.
    #[serde(deserialize_with = "unit::duration", default = "default_leeway")]
    pub leeway: Duration,
    /// The longest time from the `iat` of a token to its `exp`.
    #[serde(deserialize_with = "unit::duration", default = "default_lifetime")]
    pub lifetime: Duration,
    /// What is put before the subject of a token to make its principal.
    #[serde(default)]
    pub prefix: String,
    /// The tier of tokens that claim none.
    #[serde(default = "default_tier")]
    pub tier: String,
    /// The tiers that a token may claim.
    #[serde(default)]
    pub tiers: Vec<String>,
    /// The most that a token may claim, and what one has that claims nothing.
    #[serde(default = "default_scopes")]
    pub scopes: Vec<Scope>,
    /// In which rooms its tokens permit what, at most.
    pub rooms: Option<Arc<Grants>>,
    /// The names of the claims.
    #[serde(default)]
    pub claims: ClaimNames,
}

/// `issuer.claims`: the names of the claims in a token.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimNames {
    /// Its principal.
    pub principal: String,
    /// Its tier.
    pub tier: String,
    /// Its scopes: a list, or a text with spaces.
    pub scopes: String,
    /// In which rooms it permits what, in the form of `key.rooms`.
    pub rooms: String,
    /// What plugins are told about it, in the form of `key.tags`.
    pub tags: String,
}

impl Default for ClaimNames {
    fn default() -> Self {
        let [principal, tier, scopes, rooms, tags] =
            ["sub", "tier", "scope", "rooms", "tags"].map(str::to_owned);
        Self { principal, tier, scopes, rooms, tags }
    }
}

fn default_leeway() -> Duration {
    Duration::from_secs(30)
}

fn default_lifetime() -> Duration {
    Duration::from_secs(24 * 3600)
}

fn default_tier() -> String {
    super::DEFAULT_TIER.to_owned()
}

fn default_scopes() -> Vec<Scope> {
    vec![Scope::Subscribe]
}

const MAX_LEEWAY: Duration = Duration::from_secs(600);
const MAX_LIFETIME: Duration = Duration::from_secs(366 * 24 * 3600);
/// The longest that a token can be accepted with any configuration.
pub(crate) const MAX_ACCEPTANCE: Duration =
    Duration::from_secs(MAX_LIFETIME.as_secs() + 2 * MAX_LEEWAY.as_secs());

impl IssuerConfig {
    /// What is wrong with its settings: the key and the reason. What concerns several issuers or tiers is checked
    /// elsewhere.
    pub(crate) fn find_error(&self) -> Option<(&'static str, String)> {
        let name = &self.name;
        let wrong = |key, problem: String| Some((key, format!("issuer.{key} of issuer '{name}' {problem}")));
        if !is_valid_word(name) {
            let problem = format!("invalid name '{name}'; expected 1 to 64 characters of A-Z a-z 0-9 . _ -");
            return Some(("name", format!("issuer.name: {problem}")));
        }
        for (key, text) in [("issuer", &self.issuer), ("audience", &self.audience)] {
            if text.is_empty() {
                return wrong(key, "is empty".into());
            }
        }
        let sources = [self.jwks.is_some(), self.keys.is_some(), self.secret_file.is_some()];
        if sources.into_iter().filter(|is_set| *is_set).count() != 1 {
            return wrong("jwks", "must be set, or keys, or secret_file: exactly one of the three".into());
        }
        let uses_secret = self.algorithms.contains(&Algorithm::HS256);
        if self.algorithms.is_empty() {
            return wrong("algorithms", r#"is empty; name them, such as ["EdDSA"]"#.into());
        }
        if uses_secret != self.secret_file.is_some() || uses_secret && self.algorithms.len() > 1 {
            let problem = "must be [\"HS256\"] with secret_file, and cannot contain HS256 without it: a public key \
                           would be taken for a secret";
            return wrong("algorithms", problem.into());
        }
        if self.ca.is_some() && self.jwks.as_ref().is_none_or(|url| !url.is_https()) {
            return wrong("ca", "is for a jwks whose URL begins with https://".into());
        }
        if !self.prefix.is_empty() && !is_valid_word(&self.prefix) {
            return wrong(
                "prefix",
                format!("is '{}'; expected characters of A-Z a-z 0-9 . _ -", self.prefix),
            );
        }
        if self.scopes.contains(&Scope::Admin) {
            return wrong("scopes", "cannot contain admin: operators need an API key".into());
        }
        if !self.tiers.is_empty() && !self.tiers.contains(&self.tier) {
            return wrong(
                "tiers",
                format!("does not contain '{}', the tier of tokens that claim none", self.tier),
            );
        }
        if self.leeway > MAX_LEEWAY {
            return wrong("leeway", format!("must be at most {}", humantime::format_duration(MAX_LEEWAY)));
        }
        if self.lifetime.is_zero() || self.lifetime > MAX_LIFETIME {
            return wrong("lifetime", "must be between 1s and 366days".into());
        }
        None
    }

    /// Whether its keys come from the same place as those of another one.
    pub(super) fn has_keys_of(&self, other: &Self) -> bool {
        (&self.name, &self.jwks, &self.keys, &self.secret_file, &self.ca, &self.algorithms)
            == (&other.name, &other.jwks, &other.keys, &other.secret_file, &other.ca, &other.algorithms)
    }

    /// Whether a token that was verified with this configuration would also be verified, and have the same principal,
    /// with another one.
    pub(crate) fn trusts_as(&self, other: &Self) -> bool {
        self.has_keys_of(other)
            && (&self.issuer, &self.audience, &self.prefix, &self.claims.principal)
                == (&other.issuer, &other.audience, &other.prefix, &other.claims.principal)
    }

    /// The longest that one of its tokens is accepted: it may have been issued by a clock that is ahead, and is judged by
    /// one that is behind.
    pub(crate) fn acceptance(&self) -> Duration {
        self.lifetime + 2 * self.leeway
    }

    /// The tiers that a token may have.
    pub(crate) fn all_tiers(&self) -> impl Iterator<Item = &String> {
        self.tiers.iter().chain([&self.tier])
    }

    /// Its files.
    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.keys, &mut self.secret_file, &mut self.ca].into_iter().flatten()
    }

    /// The file that has its keys or its secret, if a file has them.
    pub(super) fn key_file(&self) -> Option<&Path> {
        self.keys.as_deref().or(self.secret_file.as_deref())
    }
}

/// The URL of a JSON Web Key Set: `https`, or `http` to this machine.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct JwksUrl(pub(super) Url);

/// A text that is not such a URL.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "invalid URL '{0}'; expected something like \"https://auth.example.org/jwks.json\" without a user name; http:// is \
     allowed only for this machine"
)]
pub struct InvalidJwksUrl(String);

impl JwksUrl {
    pub(super) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }
}

impl TryFrom<String> for JwksUrl {
    type Error = InvalidJwksUrl;

    fn try_from(text: String) -> Result<Self, InvalidJwksUrl> {
        let Ok(url) = Url::parse(&text) else { return Err(InvalidJwksUrl(text)) };
        let is_local = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        let is_allowed = url.scheme() == "https" || url.scheme() == "http" && is_local;
        // The text is shown in logs.
        let has_secret = !url.username().is_empty() || url.password().is_some();
        match is_allowed && url.has_host() && !has_secret {
            true => Ok(Self(url)),
            false if has_secret => Err(InvalidJwksUrl("…".to_owned())),
            false => Err(InvalidJwksUrl(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(more: &str) -> IssuerConfig {
        let text = format!(
            "name = \"app\"\nissuer = \"https://auth.example.org\"\naudience = \"switchyard\"\n{more}"
        );
        toml::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn settings_that_make_no_sense_are_errors() {
        const KEYS: &str = "keys = \"jwks.json\"\nalgorithms = [\"EdDSA\"]\n";
        const SECRET: &str = "secret_file = \"s\"\nalgorithms = [\"HS256\"]\n";
        for good in [KEYS, SECRET, &format!("{KEYS}tier = \"a\"\ntiers = [\"a\", \"b\"]\n")] {
            assert_eq!(issuer(good).find_error(), None, "{good}");
        }
        for (settings, key) in [
            ("algorithms = [\"EdDSA\"]", "jwks"),
            (&format!("{KEYS}secret_file = \"s\""), "jwks"),
            ("keys = \"k\"", "algorithms"),
            ("keys = \"k\"\nalgorithms = [\"HS256\"]", "algorithms"),
            ("secret_file = \"k\"\nalgorithms = [\"HS256\", \"RS256\"]", "algorithms"),
            ("secret_file = \"k\"\nalgorithms = [\"EdDSA\"]", "algorithms"),
            (&format!("{KEYS}ca = \"ca.pem\""), "ca"),
            (&format!("{KEYS}prefix = \"a b\""), "prefix"),
            (&format!("{KEYS}scopes = [\"admin\"]"), "scopes"),
            (&format!("{KEYS}tiers = [\"pro\"]"), "tiers"),
            (&format!("{KEYS}leeway = \"11m\""), "leeway"),
            (&format!("{KEYS}lifetime = \"0s\""), "lifetime"),
        ] {
            let (found, message) = issuer(settings).find_error().unwrap_or_else(|| panic!("{settings}"));
            assert_eq!(found, key, "{settings}: {message}");
        }
    }

    #[test]
    fn keys_are_fetched_over_tls_or_from_this_machine() {
        let parse = |url: &str| JwksUrl::try_from(url.to_owned());
        for good in ["https://a.example/jwks", "http://127.0.0.1:1/k", "http://localhost/k", "http://[::1]/k"]
        {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in
            ["http://a.example/jwks", "ftp://a/b", "file:///etc/passwd", "jwks.json", "http://10.0.0.1/"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let error = parse("https://user:secret@a.example/").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
