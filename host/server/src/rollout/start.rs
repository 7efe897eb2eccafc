//! Which version a node starts with: that of its file if no node has run it yet, or else the one that is
//! active on all nodes. Does not decide what happens after the start.

use super::{
    Rollout,
    activity::LoadSource,
    deploy::{Deployment, FILE_READ_TIMEOUT},
    slot::PluginSlot,
    view::FailedVersion,
};
use crate::hub::unavailable;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use switchyard_plugin::digest;
use switchyard_protocol::{ErrorCode, Refusal};

/// How often a starting node looks whether the plugins of the store are loaded.
const PREPARING_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long a starting node waits before it asks the store again.
const STORE_RETRY_DELAY: Duration = Duration::from_millis(500);

/// How long reading each plugin's file may take at the start, however long reading the ones before took.
const MIN_FILE_READ_TIMEOUT: Duration = Duration::from_secs(2);

impl Rollout {
    /// Lets the plugins of this node govern their rooms, closed at first, and activates the versions with which it
    /// starts, waiting for the store as long as it takes. If a plugin cannot be loaded, its rooms stay closed,
    /// and everything else works. `show_status` is called with what is being waited for. Returns whether a
    /// plugin may be loadable later: there was no thread for it, or its file could not be read at this moment.
    pub(crate) async fn start(self: &Arc<Self>, show_status: impl Fn(&str) + Send + Sync) -> bool {
        let slots = self.configured.load_full();
        // Rooms of plugins without a version are closed from now on, and those of plugins that only other nodes
        // have.
        let configs: Vec<_> = slots.iter().map(|slot| slot.config()).collect();
        self.govern(slots.to_vec(), &configs, false, &show_status).await;
        while !self.prepare_stored_plugins(&self.governance.record().slots) {
            show_status("plugins of the store are being loaded");
            tokio::time::sleep(PREPARING_POLL_INTERVAL).await;
        }
        self.poll_governance().await.ok();
        let (mut is_retryable, started) = (false, Instant::now());
        let timeout = || FILE_READ_TIMEOUT.saturating_sub(started.elapsed()).max(MIN_FILE_READ_TIMEOUT);
        for slot in slots.iter() {
            if let Err(refusal) = self.check_name(slot) {
                tracing::error!("{}; the rooms of both are closed on this node", refusal.message);
                continue;
            }
            show_status(&format!("plugin '{}' is being loaded", slot.name()));
            let mut loaded = self.load_initial(slot, timeout()).await;
            while loaded.as_ref().is_err_and(|refusal| refusal.code == ErrorCode::StoreUnavailable) {
                tracing::warn!(plugin = slot.name(), "waiting for the store");
                show_status(&format!("waiting for the store: the versions of plugin '{}'", slot.name()));
                tokio::time::sleep(STORE_RETRY_DELAY).await;
                loaded = self.load_initial(slot, timeout()).await;
            }
            if let Err(refusal) = loaded {
                is_retryable |= refusal.code == ErrorCode::Overloaded;
                if slot.plugin().is_none() {
                    tracing::error!("{}; its rooms are closed", refusal.message);
                }
            }
        }
        self.apply_connect_hooks();
        is_retryable
    }

    pub(super) async fn load_initial(
        self: &Arc<Self>,
        slot: &Arc<PluginSlot>,
        timeout: Duration,
    ) -> Result<(), Refusal> {
        let config = slot.config.load_full();
        if config.file.is_none() {
            return self.load_stored_plugin(slot).await;
        }
        let read = slot.read_file(&config, timeout).await;
        let mut loaded = slot.reload_lock.lock().await;
        let _deploying = slot.deploy_lock.lock().await;
        let history = self.registry().history(config.name()).await.map_err(unavailable)?;
        let from_file = match read {
            Ok(file) => {
                let sha256 = digest(&file.code);
                loaded.identity = Some((sha256.clone(), file.signature.clone()));
                if history.has_seen(&sha256) && history.current != sha256 {
                    Ok(())
                } else {
                    let deployment = Deployment::of_file(file);
                    let deployed = self.deploy(slot, &config, deployment, Some(history.clone())).await;
                    // The next attempt may succeed, when its signature is there.
                    if deployed.is_err() {
                        loaded.identity = None;
                    }
                    deployed
                }
            }
            Err(refusal) => {
                slot.state().failed = Some(FailedVersion::now(None, &refusal.message));
                slot.activity.record_load(LoadSource::File, &Err(refusal.clone()));
                Err(refusal)
            }
        };
        // A version that another node deployed runs here even if this node's file is missing or bad.
        if history.generation == 0 || slot.plugin().is_some() {
            return from_file;
        }
        self.follow_history(slot, history).await?;
        // A file that could not be read at this moment is read again later, and may be newer.
        from_file.or_else(|refusal| match refusal.code {
            ErrorCode::Overloaded => Err(refusal),
            _ => Ok(()),
        })
    }
}
