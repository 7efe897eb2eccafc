//! User tokens: JSON Web Tokens with which the users of an application connect, signed by one of the issuers of the
//! configuration. Verifies them. What they allow is decided in `key.rs`.

mod claims;
mod fetch;
mod issuer;
mod jwk;
mod jws;
mod key_source;

pub(crate) use claims::TokenClaims;
pub(crate) use issuer::{IssuerConfig, MAX_ACCEPTANCE};

use arc_swap::ArcSwap;
use claims::UnverifiedClaims;
use jws::Jws;
use key_source::{KeySource, MissingKey};
use std::sync::Arc;
use switchyard_protocol::{ErrorCode, Refusal, unix_ms};

/// The tier of keys and tokens that name none.
pub const DEFAULT_TIER: &str = "default";
/// Maximum length of a token, in bytes.
const MAX_TOKEN_BYTES: usize = 8 << 10;

/// A refusal that says what is wrong with a token. The message never contains a part of the token that is secret.
pub(super) fn invalid(problem: impl std::fmt::Display) -> Refusal {
    Refusal::new(ErrorCode::InvalidToken, format!("invalid token: {problem}"))
}

/// Whether a credential has the form of a token rather than of a key: three parts, of which the first is a JSON object
/// in Base64.
pub(crate) fn looks_like_token(credential: &str) -> bool {
    credential.starts_with("eyJ") && credential.matches('.').count() == 2
}

impl IssuerConfig {
    /// Why the file with its keys or its secret is of no use, if a file has them. Blocks.
    pub fn find_file_problem(&self) -> Option<String> {
        key_source::find_file_problem(self)
    }
}

/// An issuer, and the keys with which it signs.
struct Issuer {
    config: Arc<IssuerConfig>,
    keys: Arc<KeySource>,
}

/// Verifies the tokens of all issuers of the configuration.
#[derive(Default)]
pub(crate) struct TokenVerifier {
    issuers: ArcSwap<Vec<Arc<Issuer>>>,
}

impl TokenVerifier {
    /// Accepts the tokens of these issuers and no others from now on. Keys stay if they come from the same place as
    /// before, and others are fetched. Must be called within a Tokio runtime.
    pub(crate) fn set_issuers(&self, configs: &[Arc<IssuerConfig>]) {
        let known = self.issuers.load();
        let issuer = |config: &Arc<IssuerConfig>| {
            let same = known.iter().find(|issuer| issuer.config.has_keys_of(config));
            let keys = same.map_or_else(|| Arc::new(KeySource::start(config)), |issuer| issuer.keys.clone());
            Arc::new(Issuer { config: config.clone(), keys })
        };
        self.issuers.store(Arc::new(configs.iter().map(issuer).collect()));
    }

    /// Verifies a token: its form, issuer, signature, audience and times. If the issuer's key is not known, its keys are
    /// fetched first.
    pub(crate) async fn verify(&self, token: &str) -> Result<Arc<TokenClaims>, Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            let length = token.len();
            return Err(invalid(format_args!(
                "it has {length} bytes; at most {MAX_TOKEN_BYTES} are allowed"
            )));
        }
        let jws = Jws::parse(token)?;
        let claims = UnverifiedClaims::parse(&jws.payload)?;
        let issuer = self.issuer_of(&claims)?;
        let (config, keys) = (&issuer.config, &issuer.keys);
        let algorithm = jws.algorithm(&config.algorithms)?;
        let key = match keys.find(jws.key_id(), algorithm) {
            Ok(key) => key,
            Err(MissingKey::Unknown) => keys.refresh_and_find(jws.key_id(), algorithm).await?,
            Err(MissingKey::Ambiguous) => return Err(key_source::ambiguous()),
        };
        jws.verify(&key)?;
        Ok(Arc::new(claims.check(config, unix_ms())?))
    }

    fn issuer_of(&self, claims: &UnverifiedClaims) -> Result<Arc<Issuer>, Refusal> {
        let issuers = self.issuers.load();
        if issuers.is_empty() {
            return Err(invalid("this server accepts no user tokens; use an API key"));
        }
        let name = claims.issuer()?;
        let found = issuers.iter().find(|issuer| issuer.config.issuer == name);
        found.cloned().ok_or_else(|| {
            invalid(format_args!(
                "its issuer (iss) '{}' is not one that this server accepts",
                claims::shown(name)
            ))
        })
    }

    /// Why the keys of issuers are not up to date, for operators: one text for each issuer that has a problem.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.issuers.load().iter().filter_map(|issuer| issuer.keys.problem()).collect()
    }
}

#[cfg(test)]
mod tests;
