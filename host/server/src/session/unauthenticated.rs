//! A connection before authentication: the only request is `connect`. Does not decide whether a session may
//! start.

use super::Authenticator;
use crate::key::Key;
use std::sync::Arc;
use switchyard_protocol::{Close, ErrorCode, Id, Refusal, Request, reply, request};
use switchyard_store::SessionToken;

/// A connection that has not sent `connect` yet.
pub(crate) struct UnauthenticatedSession {
    /// The valid key or token that came with the upgrade, if one did.
    presented: Option<Arc<Key>>,
}

/// A client with a valid key or token.
pub(crate) struct Authenticated<'a> {
    pub id: Option<Id<'a>>,
    pub key: Arc<Key>,
    /// The session to resume. `None` also if the token is malformed.
    pub session: Option<SessionToken>,
}

/// Why a client is rejected, and what it is sent before the connection closes.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub code: Option<ErrorCode>,
    /// Empty if only the close code is sent.
    pub frame: String,
    pub close: Close,
}

impl Rejected {
    pub(crate) fn new(id: Option<Id>, refusal: &Refusal, close: Close) -> Self {
        Self { code: Some(refusal.code), frame: reply::error(id, refusal), close }
    }

    /// A rejection with nothing but a close code.
    pub(crate) fn silent(close: Close) -> Self {
        Self { code: None, frame: String::new(), close }
    }
}

impl UnauthenticatedSession {
    pub(crate) fn new(presented: Option<Arc<Key>>) -> Self {
        Self { presented }
    }

    pub(crate) async fn frame<'a>(
        self,
        text: &'a str,
        authenticator: Authenticator<'_>,
    ) -> Result<Authenticated<'a>, Rejected> {
        let (id, credentials, session) = match request::parse(text) {
            Ok((id, Request::Connect { credentials, session })) => (id, credentials, session),
            Ok((id, _)) => return Err(Self::expected_connect(id, "it is another request")),
            Err((id, refusal)) => return Err(Self::expected_connect(id, &refusal.message)),
        };
        let key = match (self.presented, credentials) {
            (Some(key), _) => authenticator.current(&key),
            (None, Ok(Some(credentials))) => authenticator.authenticate(&credentials).await,
            (None, Ok(None)) => {
                return Err(Self::expected_connect(id, "auth.apiKey or auth.token is missing"));
            }
            (None, Err(refusal)) => return Err(Self::expected_connect(id, &refusal.message)),
        };
        match key {
            Ok(key) => match session {
                Ok(session) => {
                    Ok(Authenticated { id, key, session: session.as_deref().and_then(SessionToken::parse) })
                }
                // Another key would not help this client.
                Err(refusal) => Err(Rejected::new(id, &refusal, Close::BadFrames)),
            },
            // It says nothing about the token.
            Err(refusal) if refusal.code == ErrorCode::IssuerUnavailable => {
                Err(Rejected::new(id, &refusal, Close::Overloaded))
            }
            Err(refusal) => Err(Rejected::new(id, &refusal, Close::Unauthorized)),
        }
    }

    pub(crate) fn binary() -> Rejected {
        Self::expected_connect(None, "it is binary")
    }

    pub(crate) fn timeout(millis: u128) -> Rejected {
        let message = format!("no connect was received within {millis} ms");
        Rejected::new(None, &Refusal::new(ErrorCode::AuthTimeout, message), Close::ConnectTimeout)
    }

    fn expected_connect(id: Option<Id>, why: &str) -> Rejected {
        let message =
            format!(r#"the first frame must be {{"type":"connect","auth":{{"apiKey":"…"}}}}, but {why}"#);
        Rejected::new(id, &Refusal::new(ErrorCode::AuthRequired, message), Close::Unauthorized)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hub::EnforcedDenials, key::Keys, token::TokenVerifier};
    use arc_swap::ArcSwap;
    use std::collections::HashMap;
    use switchyard_store::key::Digest;

    fn keys() -> Keys {
        let text = format!("digest = \"{}\"\nprincipal = \"acme\"\nscopes = []", Digest::of("sk_1"));
        Keys::new(&[toml::from_str(&text).unwrap()], &HashMap::new())
    }

    async fn authenticate(presented: Option<Arc<Key>>, text: &str) -> Result<Authenticated<'_>, Rejected> {
        let (keys, tokens) = (ArcSwap::from_pointee(keys()), TokenVerifier::default());
        let denials = EnforcedDenials::default();
        let authenticator = Authenticator { keys: &keys, tokens: &tokens, denials: &denials };
        UnauthenticatedSession::new(presented).frame(text, authenticator).await
    }

    async fn rejected(text: &str) -> (String, u16) {
        let Err(rejected) = authenticate(None, text).await else { panic!("{text} was accepted") };
        let value: serde_json::Value = serde_json::from_str(&rejected.frame).unwrap();
        (value["error"]["code"].as_str().unwrap().to_owned(), rejected.close.code())
    }

    #[tokio::test]
    async fn only_connect_with_a_valid_key_is_accepted() {
        let token = SessionToken::random();
        let text = format!(
            r#"{{"type":"connect","id":1,"auth":{{"apiKey":"sk_1"}},"session":"{}"}}"#,
            token.reveal()
        );
        let authenticated = authenticate(None, &text).await.ok().unwrap();
        assert_eq!((&*authenticated.key.principal, authenticated.session), ("acme", Some(token)));

        for text in ["[", r#"{"type":"ping"}"#, r#"{"type":"connect"}"#, r#"{"type":"nonsense"}"#] {
            assert_eq!(rejected(text).await, ("auth_required".into(), 4401), "{text}");
        }
        // Regression: that closed with 4401, as if the key were wrong.
        let malformed = r#"{"type":"connect","auth":{"apiKey":"sk_1"},"session":7}"#;
        assert_eq!(rejected(malformed).await, ("invalid_request".into(), 4400));
        let wrong = r#"{"type":"connect","auth":{"apiKey":"sk_2"},"session":7}"#;
        assert_eq!(rejected(wrong).await, ("invalid_key".into(), 4401));
        let wrong = r#"{"type":"connect","auth":{"apiKey":"sk_2"}}"#;
        assert_eq!(rejected(wrong).await, ("invalid_key".into(), 4401));
        let token = r#"{"type":"connect","auth":{"token":"eyJ.a.b"}}"#;
        assert_eq!(rejected(token).await, ("invalid_token".into(), 4401));
    }

    #[tokio::test]
    async fn a_key_in_the_upgrade_overrides_the_key_in_the_frame() {
        let presented = keys().authenticate("sk_1").ok();
        let text = r#"{"type":"connect","auth":{"apiKey":"wrong"},"session":"forged"}"#;
        let authenticated = authenticate(presented, text).await.ok().unwrap();
        assert_eq!(authenticated.session, None);
    }
}
