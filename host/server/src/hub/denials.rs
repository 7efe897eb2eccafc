//! Which principals and addresses are banned and which tokens are revoked, as this node enforces it. Does not read the
//! store: the task in `node/denials.rs` does.

use super::{Connections, Hub};
use crate::key::{Credential, Key};
use arc_swap::ArcSwap;
use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};
use switchyard_process::lock::LockExt;
use switchyard_protocol::{Close, ErrorCode, Refusal, reply, unix_ms};
use switchyard_store::{RESPONSE_TIMEOUT, denial::Denials, key::Expiry};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Maximum number of operators that wait for a ban to be enforced here. More of them wait to wait.
const MAX_WAITING_REFRESHES: usize = 16;

/// Answered when the store has been read once more.
pub(crate) type DenialRefresh = oneshot::Sender<()>;

/// What this node refuses.
pub(crate) struct EnforcedDenials {
    current: ArcSwap<Denials>,
    refreshes: mpsc::Sender<DenialRefresh>,
    /// Taken by the task that reads the store.
    requests: Mutex<Option<mpsc::Receiver<DenialRefresh>>>,
}

impl Default for EnforcedDenials {
    fn default() -> Self {
        let (refreshes, requests) = mpsc::channel(MAX_WAITING_REFRESHES);
        Self { current: ArcSwap::default(), refreshes, requests: Mutex::new(Some(requests)) }
    }
}

impl EnforcedDenials {
    /// What is refused at the moment. It may contain what has ended.
    pub(crate) fn current(&self) -> Arc<Denials> {
        self.current.load_full()
    }

    /// Enforces these from now on for whoever comes. Returns whether they differ from those before.
    pub(crate) fn replace(&self, denials: Denials) -> bool {
        let has_changed = **self.current.load() != denials;
        if has_changed {
            self.current.store(Arc::new(denials));
        }
        has_changed
    }

    /// Refuses a banned principal.
    pub(crate) fn check_principal(&self, principal: &str) -> Result<(), Refusal> {
        let denials = self.current.load();
        if denials.is_empty() {
            return Ok(());
        }
        refuse_until(denials.principal(principal, unix_ms()), || format!("principal '{principal}'"))
    }

    /// Refuses a token that was revoked.
    pub(crate) fn check_token(&self, key: &Key) -> Result<(), Refusal> {
        let Credential::Token(token) = &key.credential else { return Ok(()) };
        let denials = self.current.load();
        if denials.is_empty() {
            return Ok(());
        }
        // The issuer's clock may be ahead by as much.
        let leeway = token.issuer.leeway.as_millis() as u64;
        let issued = token.issued.map(|issued| issued.saturating_sub(leeway));
        match denials.token(token.id.as_deref(), &token.principal, issued, unix_ms()) {
            true => Err(Refusal::new(ErrorCode::InvalidToken, "the token was revoked; get a new one")),
            false => Ok(()),
        }
    }

    /// Refuses a banned address.
    pub(crate) fn check_address(&self, address: IpAddr) -> Result<(), Refusal> {
        let denials = self.current.load();
        if denials.is_empty() {
            return Ok(());
        }
        refuse_until(denials.address(address, unix_ms()), || format!("address {address}"))
    }

    /// Where requests to read the store at once arrive. Can be taken once.
    pub(crate) fn take_requests(&self) -> mpsc::Receiver<DenialRefresh> {
        self.requests.locked().take().expect("one task reads the store")
    }

    /// Has the store read, so that what an operator has just decided is enforced here when the operator is told. If
    /// that takes too long, it is enforced later, as on other nodes.
    pub(crate) async fn refresh(&self) {
        let refreshed = async {
            let (done, is_done) = oneshot::channel();
            if self.refreshes.send(done).await.is_ok() {
                is_done.await.ok();
            }
        };
        timeout(RESPONSE_TIMEOUT, refreshed).await.ok();
    }
}

fn refuse_until(until: Option<u64>, who: impl FnOnce() -> String) -> Result<(), Refusal> {
    let Some(until) = until else { return Ok(()) };
    Err(Refusal::new(ErrorCode::Forbidden, format!("{} is banned until {}", who(), Expiry(until))))
}

impl Hub {
    /// Refuses a connection whose principal or address is banned.
    pub(crate) fn check_denied(&self, principal: &str, address: IpAddr) -> Result<(), Refusal> {
        self.denials.check_principal(principal)?;
        self.denials.check_address(address)
    }
}

impl Connections {
    /// Closes the connections that are banned by now (4403), and those whose token was revoked (4410). Their sessions stay. A connection that is added meanwhile
    /// has to check itself.
    pub(crate) fn close_denied(&self, hub: &Hub) {
        self.for_each(|connection| {
            let banned = hub.check_denied(&connection.principal, connection.remote.ip());
            let banned = banned.map_err(|refusal| (refusal, Close::Forbidden));
            let revoked = || hub.denials.check_token(&connection.key.load());
            let denied = banned.and_then(|()| revoked().map_err(|refusal| (refusal, Close::Revoked)));
            if let Err((refusal, close)) = denied {
                connection.outbox.push(reply::error(None, &refusal).into());
                connection.outbox.close(close);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_who_is_banned_and_until_when() {
        let until = Some(1_798_761_600_000);
        let refusal = refuse_until(until, || "principal 'acme'".to_owned()).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Forbidden);
        assert_eq!(refusal.message, "principal 'acme' is banned until 2027-01-01T00:00:00Z");
        assert!(refuse_until(None, || unreachable!("nobody is banned")).is_ok());
    }

    #[tokio::test]
    async fn a_refresh_waits_until_the_store_was_read() {
        let denials = Arc::new(EnforcedDenials::default());
        let mut requests = denials.take_requests();
        let waiting = denials.clone();
        let refreshed = tokio::spawn(async move { waiting.refresh().await });
        let request = requests.recv().await.expect("a request");
        assert!(!refreshed.is_finished());
        request.send(()).unwrap();
        refreshed.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_does_not_wait_for_a_store_that_does_not_answer() {
        let denials = EnforcedDenials::default();
        let start = tokio::time::Instant::now();
        denials.refresh().await;
        assert_eq!(start.elapsed(), RESPONSE_TIMEOUT);
    }
}
