//! The claims of a token (RFC 7519): who its user is, for how long, and what the issuer permits. Verifies no signature.

use super::{invalid, issuer::IssuerConfig};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::{sync::Arc, time::Duration};
use switchyard_protocol::{ErrorCode, Refusal, room::principal_of_subject};
use switchyard_store::{
    grant::Grants,
    key::{Scope, Tags},
};

/// Maximum number of characters of a claim that an error repeats.
const MAX_SHOWN_CHARS: usize = 100;
/// The largest time, in seconds: the end of the year 9999.
const MAX_SECONDS: f64 = 253_402_300_799.0;

/// What a valid token says. What it permits also depends on the configuration of its issuer, which may change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenClaims {
    /// The issuer as it was configured when the token was verified.
    pub issuer: Arc<IssuerConfig>,
    pub principal: Arc<str>,
    /// Its `jti`.
    pub id: Option<String>,
    /// When it was issued, in Unix milliseconds.
    pub issued: Option<u64>,
    /// When it expires, in Unix milliseconds.
    pub expires: u64,
    pub tier: Option<String>,
    pub scopes: Option<Vec<Scope>>,
    pub rooms: Option<Arc<Grants>>,
    pub tags: Tags,
    /// The size of the payload, in bytes.
    pub bytes: usize,
}

/// The claims of a token whose signature was not verified yet.
pub(super) struct UnverifiedClaims {
    claims: Map<String, Value>,
    /// The size of the payload.
    bytes: usize,
}

/// A text of a token, as an error may repeat it.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARS).flat_map(char::escape_debug).collect()
}

impl UnverifiedClaims {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        let claims = serde_json::from_slice(payload);
        let claims = claims.map_err(|_| invalid("its claims are not a JSON object"))?;
        Ok(Self { claims, bytes: payload.len() })
    }

    /// Its `iss`.
    pub(super) fn issuer(&self) -> Result<&str, Refusal> {
        let issuer = self.claims.get("iss").and_then(Value::as_str);
        issuer.ok_or_else(|| invalid("its issuer (iss) is missing or is not a string"))
    }

    /// Checks everything but the issuer and the signature. `now` is in Unix milliseconds.
    pub(super) fn check(mut self, config: &Arc<IssuerConfig>, now: u64) -> Result<TokenClaims, Refusal> {
        self.check_audience(&config.audience)?;
        let (expires, issued) = self.check_times(config, now)?;
        let names = &config.claims;
        let principal = self.string(&names.principal)?.ok_or_else(|| missing(&names.principal))?;
        let principal = principal_of_subject(&config.prefix, &principal).ok_or_else(|| {
            let name = &names.principal;
            invalid(format_args!(
                "its claim '{name}' is empty, or its principal would have more than 64 bytes; bytes other than A-Z a-z 0-9 . \
                 _ - take three"
            ))
        })?;
        Ok(TokenClaims {
            issuer: config.clone(),
            principal: principal.into(),
            id: self.string("jti")?,
            issued,
            expires,
            tier: self.string(&names.tier)?,
            scopes: self.scopes(&names.scopes)?,
            rooms: self
                .take(&names.rooms, "a list such as [{\"match\":\"dydx:*\",\"allow\":[\"subscribe\"]}]")?
                .map(Arc::new),
            tags: self.take(&names.tags, "an object with at most 16 strings")?.unwrap_or_default(),
            bytes: self.bytes,
        })
    }

    fn check_audience(&self, audience: &str) -> Result<(), Refusal> {
        let named = match self.claims.get("aud") {
            Some(Value::String(named)) => named == audience,
            Some(Value::Array(all)) => all.iter().any(|named| named.as_str() == Some(audience)),
            _ => false,
        };
        match named {
            true => Ok(()),
            false => Err(invalid(format_args!("its audience (aud) is not '{audience}'"))),
        }
    }

    /// When it expires, and when it was issued.
    fn check_times(&self, config: &IssuerConfig, now: u64) -> Result<(u64, Option<u64>), Refusal> {
        let (leeway, lifetime) = (millis(config.leeway), millis(config.lifetime));
        let expires = self.time("exp")?.ok_or_else(|| missing("exp"))?;
        let issued = self.time("iat")?;
        if expires.saturating_add(leeway) <= now {
            let ago = Duration::from_secs((now - expires) / 1000);
            let message = format!("the token expired {} ago; get a new one", humantime::format_duration(ago));
            return Err(Refusal::new(ErrorCode::ExpiredToken, message));
        }
        for (claim, time) in [("nbf", self.time("nbf")?), ("iat", issued)] {
            if time.is_some_and(|time| time > now.saturating_add(leeway)) {
                return Err(invalid(format_args!("its claim '{claim}' is in the future")));
            }
        }
        // A token without `iat` could have been issued just now.
        let start = issued.unwrap_or(now.saturating_add(leeway));
        if expires.saturating_sub(start) > lifetime {
            let lifetime = humantime::format_duration(config.lifetime);
            return Err(invalid(format_args!(
                "it is valid for longer than {lifetime} (exp - iat), which is issuer.lifetime"
            )));
        }
        Ok((expires, issued))
    }

    /// A time in Unix milliseconds. In a token it is in seconds, which may have a fraction.
    fn time(&self, claim: &str) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.claims.get(claim) else { return Ok(None) };
        let seconds = value.as_f64().filter(|seconds| (0.0..=MAX_SECONDS).contains(seconds));
        let wrong = || invalid(format_args!("its claim '{claim}' is not a time in seconds since 1970"));
        Ok(Some((seconds.ok_or_else(wrong)? * 1000.0) as u64))
    }

    fn string(&self, claim: &str) -> Result<Option<String>, Refusal> {
        match self.claims.get(claim) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(invalid(format_args!("its claim '{claim}' is not a string"))),
        }
    }

    /// The scopes that this server knows. Applications have others.
    fn scopes(&self, claim: &str) -> Result<Option<Vec<Scope>>, Refusal> {
        let known = |name: &str| Scope::ALL.into_iter().find(|scope| scope.as_str() == name);
        match self.claims.get(claim) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.split(' ').filter_map(known).collect())),
            Some(Value::Array(list)) => {
                Ok(Some(list.iter().filter_map(Value::as_str).filter_map(known).collect()))
            }
            Some(_) => {
                Err(invalid(format_args!("its claim '{claim}' is neither a list nor a text with spaces")))
            }
        }
    }

    fn take<T: DeserializeOwned>(&mut self, claim: &str, expected: &str) -> Result<Option<T>, Refusal> {
        let Some(value) = self.claims.remove(claim) else { return Ok(None) };
        let wrong = |error: serde_json::Error| {
            let reason = shown(&error.to_string());
            invalid(format_args!("its claim '{claim}' is not {expected}: {reason}"))
        };
        serde_json::from_value(value).map(Some).map_err(wrong)
    }
}

fn missing(claim: &str) -> Refusal {
    invalid(format_args!("its claim '{claim}' is missing"))
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Seconds since 1970.
    const NOW: u64 = 1_800_000_000;

    fn issuer() -> Arc<IssuerConfig> {
        let text =
            "name = \"app\"\nissuer = \"i\"\naudience = \"switchyard\"\nprefix = \"app-\"\nlifetime = \"1h\"";
        Arc::new(toml::from_str(text).unwrap())
    }

    fn check(changes: Value) -> Result<TokenClaims, Refusal> {
        let mut claims = json!({"iss": "i", "aud": "switchyard", "sub": "ann", "iat": NOW, "exp": NOW + 600});
        for (name, value) in changes.as_object().unwrap() {
            match value.is_null() {
                true => drop(claims.as_object_mut().unwrap().remove(name)),
                false => claims[name] = value.clone(),
            }
        }
        UnverifiedClaims::parse(claims.to_string().as_bytes())?.check(&issuer(), NOW * 1000)
    }

    #[test]
    fn a_token_says_who_its_user_is_and_what_is_permitted() {
        let claims = check(json!({
            "aud": ["other", "switchyard"], "jti": "7", "tier": "pro", "scope": "openid subscribe publish",
            "rooms": [{"match": "dydx:*", "allow": ["subscribe"]}], "tags": {"team": "dydx"}, "sub": "ann@x",
        }))
        .unwrap();
        assert_eq!((&*claims.principal, claims.id.as_deref()), ("app-ann~40x", Some("7")));
        assert_eq!((claims.issued, claims.expires), (Some(NOW * 1000), (NOW + 600) * 1000));
        assert_eq!(claims.scopes, Some(vec![Scope::Subscribe, Scope::Publish]));
        assert_eq!((claims.tier.as_deref(), claims.rooms.unwrap().iter().count()), (Some("pro"), 1));
        assert_eq!(claims.tags.iter().next().unwrap().1, "dydx");
        let claims = check(json!({"scope": ["publish", 7], "iat": null, "exp": NOW as f64 + 0.5})).unwrap();
        assert_eq!((claims.scopes, claims.expires), (Some(vec![Scope::Publish]), NOW * 1000 + 500));
    }

    #[test]
    fn what_is_wrong_with_a_token_is_named() {
        for (changes, expected) in [
            (json!({"aud": null}), "audience (aud) is not 'switchyard'"),
            (json!({"aud": ["switch"]}), "audience"),
            (json!({"exp": null}), "'exp' is missing"),
            (json!({"exp": "soon"}), "'exp' is not a time"),
            (json!({"exp": 1e300}), "'exp' is not a time"),
            (json!({"exp": -1}), "'exp' is not a time"),
            (json!({"nbf": NOW + 31}), "'nbf' is in the future"),
            (json!({"iat": NOW + 31}), "'iat' is in the future"),
            (json!({"exp": NOW + 3601}), "longer than 1h"),
            (json!({"iat": null, "exp": NOW + 3631}), "longer than 1h"),
            (json!({"sub": null}), "'sub' is missing"),
            (json!({"sub": 7}), "'sub' is not a string"),
            (json!({"sub": ""}), "'sub' is empty"),
            (json!({"sub": "é".repeat(11)}), "more than 64 bytes"),
            (json!({"rooms": "dydx:*"}), "'rooms' is not a list"),
            (json!({"rooms": [{"match": "a::b", "allow": []}]}), "'rooms' is not a list"),
            (json!({"tags": {"a b": "c"}}), "'tags' is not an object"),
            (json!({"scope": 7}), "'scope' is neither"),
        ] {
            let refusal = check(changes.clone()).expect_err(&changes.to_string());
            assert_eq!(refusal.code, ErrorCode::InvalidToken, "{changes}");
            assert!(refusal.message.contains(expected), "{changes}: {}", refusal.message);
        }
        assert!(check(json!({"nbf": NOW + 29, "iat": NOW + 29})).is_ok(), "within the leeway");
        let expired = check(json!({"exp": NOW - 30})).unwrap_err();
        assert_eq!(
            (expired.code, &*expired.message),
            (ErrorCode::ExpiredToken, "the token expired 30s ago; get a new one")
        );
        assert!(check(json!({"exp": NOW - 29})).is_ok(), "within the leeway");
    }

    #[test]
    fn an_error_repeats_little_and_nothing_that_a_terminal_obeys() {
        let text = shown(&format!("\u{1b}[2J{}", "x".repeat(1000)));
        assert!(text.starts_with("\\u{1b}[2J") && text.len() < 120, "{text}");
    }
}
