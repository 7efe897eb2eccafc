//! The plugins in charge of rooms, and how another version comes into charge: from its file, from an operator's
//! hand, or back to the one before. A version that cannot be loaded or taken up changes nothing.

use super::{Hub, command::Command};
use crate::{
    plugin::{Plugin, PluginConfig, Stats},
    protocol::{Code, Refusal},
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::sync::{Mutex, oneshot};

/// A plugin's rooms as operators see them.
pub struct Ward {
    pub config: ArcSwap<PluginConfig>,
    pub charge: ArcSwap<Charge>,
    /// Held while a version comes into charge, so that they come one after the other.
    past: Mutex<Past>,
}

/// Who is in charge of a plugin's rooms.
pub enum Charge {
    /// Nobody: the plugin could not be loaded, for this reason.
    Failed(String),
    Plugin {
        plugin: Arc<Plugin>,
        stats: Arc<Stats>,
    },
}

#[derive(Default)]
struct Past {
    /// Which was in charge before, to be gone back to.
    previous: Option<Arc<Plugin>>,
    /// SHA-256 of the file that was read last, in hexadecimal. An operator may have put another version in charge
    /// since.
    file: Option<String>,
}

impl Ward {
    pub(super) fn new(config: PluginConfig, charge: Charge) -> Self {
        let file = match &charge {
            Charge::Plugin { plugin, .. } => Some(plugin.info().sha256.clone()),
            Charge::Failed(_) => None,
        };
        let (config, charge) = (ArcSwap::from_pointee(config), ArcSwap::from_pointee(charge));
        Self { config, charge, past: Mutex::new(Past { previous: None, file }) }
    }

    pub fn name(&self) -> String {
        self.config.load().name().to_owned()
    }

    fn plugin(&self) -> Option<Arc<Plugin>> {
        match &**self.charge.load() {
            Charge::Plugin { plugin, .. } => Some(plugin.clone()),
            Charge::Failed(_) => None,
        }
    }
}

impl Hub {
    /// The plugins with their rooms, by precedence.
    pub fn wards(&self) -> &[Ward] {
        &self.wards
    }

    /// Takes up the `index`-th plugin's configuration and file, where either is another than before. Gives the
    /// version that came into charge.
    pub async fn reread(&self, index: usize, config: PluginConfig) -> Result<Option<Arc<Plugin>>, String> {
        let ward = &self.wards[index];
        let mut past = ward.past.lock().await;
        let Ok(bytes) = tokio::fs::read(&config.file).await else { return Ok(None) };
        let file = Some(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect());
        if file == past.file && config == **ward.config.load() {
            return Ok(None);
        }
        past.file = file;
        let plugin = self.compile(config.clone(), bytes.into()).await?;
        self.swap(index, plugin.clone(), &mut past).await?;
        ward.config.store(Arc::new(config));
        Ok(Some(plugin))
    }

    /// Puts a version in charge that an operator hands in. It stays until the plugin's file changes or the node
    /// starts again.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<&Ward, Refusal> {
        let index = self.ward(name)?;
        let ward = &self.wards[index];
        let mut past = ward.past.lock().await;
        let config = PluginConfig::clone(&ward.config.load());
        let plugin = self.compile(config, bytes).await.map_err(Refusal::invalid)?;
        let swapped = self.swap(index, plugin, &mut past).await;
        swapped.map_err(|error| Refusal::new(Code::Conflict, error)).map(|()| ward)
    }

    /// Puts the version in charge that was before.
    pub async fn rollback(&self, name: &str) -> Result<&Ward, Refusal> {
        let index = self.ward(name)?;
        let ward = &self.wards[index];
        let mut past = ward.past.lock().await;
        let conflict = |message: String| Refusal::new(Code::Conflict, message);
        let none = || conflict(format!("plugin '{name}' has no earlier version on this node"));
        let previous = past.previous.clone().ok_or_else(none)?;
        self.swap(index, previous, &mut past).await.map_err(conflict)?;
        Ok(ward)
    }

    fn ward(&self, name: &str) -> Result<usize, Refusal> {
        let index = self.wards.iter().position(|ward| ward.config.load().name() == name);
        let message = || format!("no plugin '{}' is configured here", name.escape_debug());
        index.ok_or_else(|| Refusal::new(Code::NotFound, message()))
    }

    /// Compiles beside the serving threads.
    async fn compile(&self, config: PluginConfig, bytes: Bytes) -> Result<Arc<Plugin>, String> {
        let engine = self.engine.clone().ok_or("this node runs no plugins")?;
        let compiled = tokio::task::spawn_blocking(move || config.compile(&engine, &bytes)).await;
        compiled.unwrap_or_else(|_| Err("loading was interrupted".to_owned())).map(Arc::new)
    }

    /// Between two messages.
    async fn swap(&self, index: usize, plugin: Arc<Plugin>, past: &mut Past) -> Result<(), String> {
        let ward = &self.wards[index];
        let (reply, swapped) = oneshot::channel();
        self.send(index, Command::Swap { plugin: plugin.clone(), reply });
        let stats = swapped.await.map_err(|_| "this node is stopping")??;
        if let Some(lobby) = &self.lobby {
            lobby.swap(&ward.name(), plugin.clone()).await?;
        }
        past.previous = ward.plugin();
        ward.charge.store(Arc::new(Charge::Plugin { plugin, stats }));
        Ok(())
    }
}
