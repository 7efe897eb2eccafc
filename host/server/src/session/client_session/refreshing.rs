//! `refresh`: a client goes on with another key or token of its principal, before the one that it has expires. Does not
//! decide which are valid.

use super::ClientSession;
use crate::{
    key::Key,
    limits::{Rate, TokenBucket},
    metrics::ListenerKind,
};
use std::{sync::Arc, time::Instant};
use switchyard_protocol::{ErrorCode, Id, Refusal, reply, request::Credentials, unix_ms};

/// How often a client may refresh. Each time a signature may have to be verified.
const MAX_REFRESHES: Rate = Rate::per_minute(10);

impl ClientSession {
    /// The key or token as it is now. It may have expired, or a key may be gone.
    pub(super) fn current_key(&self) -> Result<Arc<Key>, Refusal> {
        self.services.authenticator().current(&self.connection.key.load_full())
    }

    /// Replaces the key or token, and with it the scopes and grants. If that is refused, the client keeps the one that it
    /// has.
    pub(super) async fn refresh(&mut self, id: Option<Id<'_>>, credentials: Credentials<'_>) {
        let key = match self.authenticate_again(&credentials).await {
            Ok(key) => key,
            Err(refusal) => {
                if refusal.code.is_invalid_credential() {
                    self.services.hub.metrics.count_refused_key(ListenerKind::Clients);
                }
                return self.refuse(id, &refusal).await;
            }
        };
        let expires = key.expires();
        self.registration.replace_key(key);
        // It may have been revoked since it was looked up.
        if let Err(refusal) = self.registration.check_key(&self.services.keys) {
            self.refuse(id, &refusal).await;
            self.connection.outbox.close(crate::hub::close_for_key(&refusal));
            return;
        }
        self.state.set_key(&self.connection.key.load());
        // Before the answer, so that the client hears of the rooms that it had to leave first.
        self.check_key().await;
        let refreshed = reply::Refreshed { expires, time: expires.map(|_| unix_ms()) };
        self.connection.outbox.answer(reply::encode("refreshed", id, refreshed).into()).await;
    }

    async fn authenticate_again(&mut self, credentials: &Credentials<'_>) -> Result<Arc<Key>, Refusal> {
        let now = Instant::now();
        let refreshes = self.refreshes.get_or_insert_with(|| Box::new(TokenBucket::full(MAX_REFRESHES, now)));
        if let Err(wait) = refreshes.take(now) {
            let message = "too many refreshes; one is enough before each expiry";
            return Err(Refusal::retry(ErrorCode::RateLimited, message, wait.as_millis() as u64 + 1));
        }
        let key = self.services.authenticator().authenticate(credentials).await?;
        if key.principal != self.connection.principal {
            let message = format!(
                "refresh needs a key or token of principal '{}', got one of '{}'; open another connection",
                self.connection.principal, key.principal
            );
            return Err(Refusal::new(ErrorCode::Forbidden, message));
        }
        Ok(key)
    }
}
