//! Finds out who a client is: by its key, or by its user token. Starts no session.

use crate::{
    hub::EnforcedDenials,
    key::{Key, Keys},
    token::TokenVerifier,
};
use arc_swap::ArcSwap;
use std::sync::Arc;
use switchyard_protocol::{Refusal, request::Credentials};

/// What credentials are compared with.
#[derive(Clone, Copy)]
pub(crate) struct Authenticator<'a> {
    pub keys: &'a ArcSwap<Keys>,
    pub tokens: &'a TokenVerifier,
    pub denials: &'a EnforcedDenials,
}

impl Authenticator<'_> {
    /// What a client may do that presents this key or token. For a token whose issuer's keys are not known, they are
    /// fetched first.
    pub(crate) async fn authenticate(self, credentials: &Credentials<'_>) -> Result<Arc<Key>, Refusal> {
        match credentials {
            Credentials::ApiKey(key) => self.keys.load().authenticate(key),
            Credentials::Token(token) => {
                let claims = self.tokens.verify(token).await?;
                let key = self.keys.load().accept(&claims)?;
                self.denials.check_token(&key)?;
                Ok(key)
            }
        }
    }

    /// The key or token that a client has presented before, if it is still valid.
    pub(crate) fn current(self, key: &Arc<Key>) -> Result<Arc<Key>, Refusal> {
        let key = self.keys.load().current(key)?;
        self.denials.check_token(&key)?;
        Ok(key)
    }
}
