//! `auth`: the key or the token with which a client authenticates. Does not know which are valid.

use super::fields::{object, string};
use crate::Refusal;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What a client presents to authenticate.
///
/// It has no `Debug` that shows it, because it is secret.
#[derive(Clone, Serialize)]
pub enum Credentials<'a> {
    /// `{"apiKey":"sk_…"}`: a key.
    #[serde(rename = "apiKey")]
    ApiKey(Cow<'a, str>),
    /// `{"token":"eyJ…"}`: a user token, which is a JSON Web Token.
    #[serde(rename = "token")]
    Token(Cow<'a, str>),
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ApiKey(_) => "ApiKey(…)",
            Self::Token(_) => "Token(…)",
        })
    }
}

/// The refusal of an `auth` that has neither a key nor a token, or both. Does not repeat it.
pub(super) fn expected() -> Refusal {
    Refusal::invalid("auth must be an object with one of the strings apiKey and token")
}

/// `None` if the object has neither.
pub(super) fn parse(raw: &RawValue) -> Result<Option<Credentials<'_>>, Refusal> {
    #[derive(Deserialize)]
    struct Auth<'a> {
        #[serde(borrow, rename = "apiKey")]
        api_key: Option<&'a RawValue>,
        #[serde(borrow)]
        token: Option<&'a RawValue>,
    }
    let auth: Auth = object(raw.get()).map_err(|_| expected())?;
    let text = |raw| string("auth", raw).map_err(|_| expected());
    match (auth.api_key, auth.token) {
        (None, None) => Ok(None),
        (Some(key), None) => Ok(Some(Credentials::ApiKey(text(key)?))),
        (None, Some(token)) => Ok(Some(Credentials::Token(text(token)?))),
        (Some(_), Some(_)) => Err(expected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Option<String>, String> {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        let shown = |credentials: Credentials| serde_json::to_string(&credentials).unwrap();
        parse(raw).map(|credentials| credentials.map(shown)).map_err(|refusal| refusal.message)
    }

    #[test]
    fn auth_has_a_key_or_a_token() {
        for auth in [r#"{"apiKey":"sk_1"}"#, r#"{"token":"eyJ.a.b"}"#] {
            assert_eq!(parsed(auth).unwrap().unwrap(), auth);
        }
        assert_eq!(parsed("{}"), Ok(None));
        for wrong in [r#"{"apiKey":"secret","token":"secret"}"#, r#"{"token":["secret"]}"#, r#""secret""#] {
            let message = parsed(wrong).unwrap_err();
            assert!(message.contains("apiKey and token") && !message.contains("secret"), "{message}");
        }
        let token = Credentials::Token("secret".into());
        assert_eq!(format!("{token:?}"), "Token(…)");
    }
}
