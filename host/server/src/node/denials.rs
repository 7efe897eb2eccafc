//! The task that reads bans and revocations from the store, and has them enforced. Bans of proxies that this node
//! trusts are left out. Closes no connection itself: the task that enforces keys does.

use super::key_enforcer::KeyChange;
use crate::{
    admin::Status,
    hub::{DenialRefresh, Hub},
    limits::ClientLimits,
};
use std::{sync::Arc, time::Duration};
use switchyard_store::denial::StoredDenials;
use tokio::sync::mpsc;

/// How often they are read. A change must take effect within a second.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The pause between two attempts to read them at the start.
const START_RETRY_DELAY: Duration = Duration::from_millis(500);

/// What keeps the bans of this node as they are in the store.
pub(super) struct DenialFollower {
    hub: Arc<Hub>,
    limits: Arc<ClientLimits>,
    known: StoredDenials,
    requests: mpsc::Receiver<DenialRefresh>,
}

impl DenialFollower {
    /// Reads what the store has, and tries again until that succeeds: a node that does not know who is banned would let
    /// them in.
    pub(super) async fn start(hub: &Arc<Hub>, limits: &Arc<ClientLimits>, status: &Status) -> Self {
        let requests = hub.denials.take_requests();
        let (hub, limits) = (hub.clone(), limits.clone());
        let mut follower = Self { hub, limits, known: StoredDenials::default(), requests };
        while let Err(error) = follower.read().await {
            tracing::warn!(%error, "waiting for the bans in the store");
            status.set_waiting_for(format!("waiting for the bans in the store: {error}"));
            tokio::time::sleep(START_RETRY_DELAY).await;
        }
        follower
    }

    /// Follows the store for ever.
    pub(super) async fn run(mut self, changes: mpsc::UnboundedSender<KeyChange>) {
        loop {
            let refresh = tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => None,
                // The hub keeps a sender, so the channel does not end.
                refresh = self.requests.recv() => refresh,
            };
            match self.read().await {
                Ok(true) => drop(changes.send(KeyChange::Denied)),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%error, "bans cannot be read from the store; the previous ones stay")
                }
            }
            if let Some(refresh) = refresh {
                refresh.send(()).ok();
            }
        }
    }

    /// Returns whether anything has changed.
    async fn read(&mut self) -> Result<bool, switchyard_store::Unavailable> {
        let Some(stored) = self.hub.store.denials.read(&self.known).await? else { return Ok(false) };
        let denials = stored.denials.clone();
        let denials = denials.without_addresses(|range| {
            let is_trusted = self.limits.trusts_some_of(range);
            if is_trusted {
                tracing::warn!(address = %range, "a banned address is not banned here: it is in limits.trusted");
            }
            is_trusted
        });
        self.known = stored;
        Ok(self.hub.denials.replace(denials))
    }
}
