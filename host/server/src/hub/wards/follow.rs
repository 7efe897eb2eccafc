//! Which version a node begins with, and how it follows what other nodes put in charge.

use super::{
    Charge, Failed, Reported, Ward,
    change::{Origin, READ},
    took_charge,
};
use crate::hub::{Hub, unavailable};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use switchyard_plugin::{PluginFile, digest};
use switchyard_protocol::{ErrorCode, Refusal};
use switchyard_store::{How, Lineage, StoredPlugins, Unavailable};

/// Between two attempts to reach the store when a node starts.
const AGAIN: Duration = Duration::from_millis(500);
/// How long each plugin's file may take at the start, also where those before it took long.
const READ_AT_LEAST: Duration = Duration::from_secs(2);

/// What a node tells all others of its plugins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeReport {
    /// Where its operators' listener is.
    pub host: String,
    pub plugins: BTreeMap<String, Reported>,
}

impl Hub {
    /// Puts the versions in charge that this node is to begin with. A plugin that cannot be loaded closes its rooms and keeps
    /// nobody else from working. `status` is told what is waited for. Tells whether one of them may be
    /// loaded later: for want of a thread it was not, or its file could not be read at that moment.
    pub(crate) async fn begin(self: &Arc<Self>, status: impl Fn(&str) + Send + Sync) -> bool {
        let (mut later, begun) = (false, Instant::now());
        // All of them together wait so long for files, and each for a while.
        let patience = || READ.saturating_sub(begun.elapsed()).max(READ_AT_LEAST);
        for (index, ward) in self.wards.iter().enumerate() {
            status(&format!("plugin '{}' is being loaded", ward.name()));
            let mut began = self.begin_with(index, patience()).await;
            while began.as_ref().is_err_and(|refusal| refusal.code == ErrorCode::StoreUnavailable) {
                tracing::warn!(plugin = ward.name(), "waiting for the store");
                status(&format!("waiting for the store: the versions of plugin '{}'", ward.name()));
                tokio::time::sleep(AGAIN).await;
                began = self.begin_with(index, patience()).await;
            }
            if let Err(refusal) = began {
                later |= refusal.code == ErrorCode::Overloaded;
                if ward.plugin().is_none() {
                    tracing::error!("{}; its rooms are closed", refusal.message);
                }
            }
        }
        later
    }

    /// The file's version, if nobody has seen it yet; else the one that is in charge of all nodes.
    async fn begin_with(self: &Arc<Self>, index: usize, patience: Duration) -> Result<(), Refusal> {
        let ward = &self.wards[index];
        let config = ward.config.load_full();
        let read = ward.source(&config, patience).await;
        let mut reading = ward.reading.lock().await;
        let _loading = ward.loading.lock().await;
        let lineage = self.store.plugins.lineage(config.name()).await.map_err(unavailable)?;
        let began = match read {
            Ok(PluginFile { code, signature }) => {
                let sha256 = digest(&code);
                reading.file = Some((sha256.clone(), signature.clone()));
                if lineage.remembers(&sha256) && lineage.current != sha256 {
                    Ok(())
                } else {
                    let origin = Origin { how: How::File, by: None, signature };
                    let brought = self.bring(index, &config, code, origin, Some(lineage.clone())).await;
                    // It may be a good file once its signature is there.
                    if brought.is_err() {
                        reading.file = None;
                    }
                    brought
                }
            }
            Err(refusal) => {
                ward.fails(Failed::now(None, &refusal.message));
                Err(refusal)
            }
        };
        // What another node has put in charge works also where this node's file does not.
        let follows = lineage.generation > 0 && ward.plugin().is_none();
        if !follows {
            return began;
        }
        self.follow(ward, index, lineage).await?;
        // What could not be read at this moment is read again, and may be newer.
        began.or_else(|refusal| if refusal.code == ErrorCode::Overloaded { Err(refusal) } else { Ok(()) })
    }

    /// Takes up what other nodes have put in charge of the `index`-th plugin. What the store knows less of than this node it has
    /// lost, maybe with the code of versions; so it has if its registry `is_anew`. An error: try again.
    pub(crate) async fn follow_plugin(
        self: &Arc<Self>,
        index: usize,
        stored: &StoredPlugins,
        is_anew: bool,
    ) -> Result<(), Refusal> {
        let (ward, name) = (&self.wards[index], self.wards[index].name());
        let mut lineage = stored.lineages.get(&name).cloned().unwrap_or_default();
        let turn = ward.turn.lock().await;
        let known = ward.standing().lineage.clone();
        if lineage.generation < known.generation {
            // What was read before this node's own last change is older than what is there by now.
            lineage = self.store.plugins.lineage(&name).await.map_err(unavailable)?;
        }
        let is_other = lineage.generation == known.generation && lineage.current != known.current;
        if lineage.generation > known.generation || is_other {
            drop(turn);
            return self.follow(ward, index, lineage).await;
        }
        let has_lost = lineage.generation < known.generation;
        if has_lost || (is_anew && known.generation > 0) {
            self.restore(ward, &known).await.map_err(unavailable)?;
        }
        if has_lost {
            tracing::warn!(
                plugin = name,
                "the store had lost versions of a plugin; this node has written them again"
            );
        }
        Ok(())
    }

    /// Gives the store what it has lost of a plugin, with the code that is held here still.
    pub(super) async fn restore(&self, ward: &Ward, lineage: &Lineage) -> Result<(), Unavailable> {
        let code = {
            let standing = ward.standing();
            let held = standing.charge.iter().chain(&standing.earlier).map(|charge| &charge.plugin);
            let held = held.filter(|plugin| lineage.find(&plugin.info().sha256).is_some());
            held.map(|plugin| (plugin.info().sha256.clone(), plugin.code().clone())).collect()
        };
        self.store.plugins.restore(&ward.name(), lineage, code).await
    }

    /// A version that cannot run here is reported, and the present one stays.
    async fn follow(self: &Arc<Self>, ward: &Ward, index: usize, lineage: Lineage) -> Result<(), Refusal> {
        let (config, sha256) = (ward.config.load_full(), lineage.current.clone());
        let known = ward.standing().lineage.clone();
        if ward.runs(&sha256, &config) {
            let _turn = ward.turn.lock().await;
            if ward.standing().lineage == known {
                ward.standing().lineage = lineage;
            }
            return Ok(());
        }
        let _underway = ward.begins(&sha256);
        // What others went back to is trusted, what is new is not yet.
        let is_new = lineage.versions.first().is_some_and(|newest| newest.sha256 == sha256);
        let followed = async {
            let plugin = self.revive(index, &config, &sha256).await?;
            let turn = ward.turn.lock().await;
            // While it was compiled, this node may have put another in charge, which others follow.
            if ward.standing().lineage != known {
                return Ok(None);
            }
            let charge = Charge { plugin: plugin.clone(), config };
            self.take_up(index, charge, is_new).await?;
            ward.standing().lineage = lineage.clone();
            drop(turn);
            Ok(Some(plugin))
        };
        let followed: Result<_, Refusal> = followed.await;
        ward.ends(&sha256, &followed);
        match followed {
            Ok(Some(plugin)) => took_charge(&plugin, "another node", None),
            Ok(None) => return Ok(()),
            // Both may be better in a moment.
            Err(refusal) if matches!(refusal.code, ErrorCode::StoreUnavailable | ErrorCode::Overloaded) => {
                return Err(refusal);
            }
            Err(refusal) => {
                let plugin = ward.name();
                tracing::error!(%plugin, %sha256, "what other nodes run does not run here: {}", refusal.message);
            }
        }
        ward.standing().lineage = lineage;
        Ok(())
    }

    /// What this node says of its plugins; `host` is where its operators find it.
    pub(crate) fn report(&self, host: &str) -> NodeReport {
        let plugins = self.wards.iter().map(|ward| (ward.name(), ward.reported())).collect();
        NodeReport { host: host.to_owned(), plugins }
    }
}
