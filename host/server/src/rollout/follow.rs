//! Following the store: this node activates what other nodes have deployed or rolled back to. Changes no
//! history.

use super::{
    Rollout,
    activity::{LoadResult, LoadSource, is_temporary},
    audit,
    slot::{ActiveVersion, PluginSlot},
};
use crate::{audit::Actor, hub::unavailable};
use std::{sync::Arc, time::Instant};
use switchyard_protocol::Refusal;
use switchyard_store::{StoredPlugins, Unavailable, VersionHistory};

impl Rollout {
    /// Activates the version that is active on other nodes. `read_at` is when reading `stored` began. If the store knows
    /// less than this node, it has lost versions and possibly their code; the same holds if its registry `is_anew`.
    /// They are written again. After an error, call this again.
    pub(crate) async fn follow(
        self: &Arc<Self>,
        slot: &Arc<PluginSlot>,
        stored: &StoredPlugins,
        read_at: Instant,
        is_anew: bool,
    ) -> Result<(), Refusal> {
        // The versions are those of another plugin.
        if self.check_name(slot).is_err() {
            return Ok(());
        }
        let name = slot.name();
        let mut history = stored.histories.get(&name).cloned().unwrap_or_default();
        let activating = slot.rollout_lock.lock().await;
        let known = slot.state().history.clone();
        // `stored` may have been read before this node's own last change, and it may be about a plugin that had this name
        // before and was removed.
        if read_at < slot.created || history.generation < known.generation {
            history = self.registry().history(&name).await.map_err(unavailable)?;
        }
        let is_other = history.generation == known.generation && history.current != known.current;
        if history.generation > known.generation || is_other {
            drop(activating);
            return self.follow_history(slot, history).await;
        }
        let has_lost = history.generation < known.generation;
        if has_lost || (is_anew && known.generation > 0) {
            // A node that was stopped does not know yet that the plugin was removed.
            self.poll_governance().await?;
            if self.is_being_removed(slot) {
                return Ok(());
            }
            self.restore(slot, &known).await.map_err(unavailable)?;
        }
        if has_lost {
            tracing::warn!(
                plugin = name,
                "the store had lost versions of a plugin; this node has written them again"
            );
        }
        Ok(())
    }

    /// Activates the version that is active in `history`. If it cannot run here, that is reported, and the
    /// active version stays.
    pub(super) async fn follow_history(
        self: &Arc<Self>,
        slot: &Arc<PluginSlot>,
        history: VersionHistory,
    ) -> Result<(), Refusal> {
        let (config, sha256) = (slot.config.load_full(), history.current.clone());
        let known = slot.state().history.clone();
        if slot.is_active(&sha256, &config) {
            let _activating = slot.rollout_lock.lock().await;
            let mut state = slot.state();
            if state.history == known {
                state.history = history;
            }
            return Ok(());
        }
        let _loading = slot.begin_loading(&sha256);
        // A version to which others rolled back has proved itself; a new one is put on probation.
        let is_new =
            !history.is_rollback && history.versions.first().is_some_and(|newest| newest.sha256 == sha256);
        let by = history.active().filter(|_| !history.is_rollback).and_then(|release| release.by.as_deref());
        let by = Actor::Store(by.map(Into::into));
        let followed = async {
            let plugin = self.load_stored(slot, &config, &sha256).await?;
            let _activating = slot.rollout_lock.lock().await;
            // During the compilation this node may have activated another version, which others follow.
            if slot.state().history != known {
                return Ok(None);
            }
            let version = ActiveVersion { plugin: plugin.clone(), config };
            self.activate(slot, version, is_new).await?;
            slot.state().history = history.clone();
            Ok(Some(plugin))
        };
        let followed: Result<_, Refusal> = followed.await;
        slot.finish_loading(&sha256, &followed);
        let outcome = followed.as_ref().map(|followed| followed.as_ref().map(|_| LoadResult::Active));
        if let Some(outcome) = outcome.map_err(Refusal::clone).transpose() {
            slot.activity.record_load(LoadSource::Store, &outcome);
        }
        match followed {
            Ok(Some(plugin)) => {
                audit::log_activation(&self.hub.audit, &plugin, LoadSource::Store, &by);
            }
            Ok(None) => return Ok(()),
            // Both may be temporary.
            Err(refusal) if is_temporary(&refusal) => {
                return Err(refusal);
            }
            Err(refusal) => {
                let (plugin, reason) = (slot.name(), refusal.message);
                tracing::error!(%plugin, %sha256, "the version that other nodes run cannot run here: {reason}");
            }
        }
        // An operator may have activated another version during the compilation.
        let mut state = slot.state();
        if state.history == known {
            state.history = history;
        }
        Ok(())
    }

    /// Writes the history to a store that has lost it, with the code of the versions that this node still
    /// has.
    pub(super) async fn restore(
        &self,
        slot: &PluginSlot,
        history: &VersionHistory,
    ) -> Result<(), Unavailable> {
        let code = {
            let state = slot.state();
            let plugins = state.active.iter().chain(&state.earlier).map(|version| &version.plugin);
            let stored = plugins.filter(|plugin| history.find(&plugin.info().sha256).is_some());
            stored.map(|plugin| (plugin.info().sha256.clone(), plugin.code().clone())).collect()
        };
        self.registry().restore(&slot.name(), history, code).await
    }
}
