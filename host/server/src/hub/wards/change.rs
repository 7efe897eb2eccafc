//! How another version comes into charge on this node and is made known to all: from a file, or from an operator's hand. A version
//! that cannot be loaded or taken up changes nothing. The way back is beside (`back.rs`).

use super::{AUDIT, COMPILED, Charge, Ward, took_charge, undone};
use crate::{
    blocking::BlockingError,
    hub::{Hub, command::Command, stopping, unavailable},
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use switchyard_plugin::{Plugin, PluginConfig, PluginFile, digest};
use switchyard_process::file::UnusableFile;
use switchyard_protocol::{ErrorCode, Refusal, unix_ms};
use switchyard_store::{Change, How, Lineage, Release, Unavailable};
use tokio::sync::oneshot;

/// Changes of others that may come between looking and changing.
pub(super) const ATTEMPTS: usize = 20;

/// How long the file of a plugin may take to be read.
pub(super) const READ: Duration = Duration::from_secs(30);

/// How a version came, and by whom.
pub(crate) struct Origin {
    pub how: How,
    pub by: Option<String>,
    pub signature: Option<String>,
}

impl Hub {
    /// Puts code in charge that an operator hands in, on all nodes.
    pub(crate) async fn load_plugin(
        self: &Arc<Self>,
        name: &str,
        code: Bytes,
        origin: Origin,
    ) -> Result<&Ward, Refusal> {
        let index = self.index(name)?;
        let ward = &self.wards[index];
        let _loading = ward.loading.lock().await;
        let config = ward.config.load_full();
        self.bring(index, &config, code, origin, None).await?;
        Ok(ward)
    }

    /// Takes up the `index`-th plugin's configuration and file, where either is another than before. Where the file cannot be read, that is
    /// an error, but the configuration is taken up all the same.
    pub(crate) async fn reread(self: &Arc<Self>, index: usize, config: PluginConfig) -> Result<(), Refusal> {
        let ward = &self.wards[index];
        ward.trust(&config.trust);
        let config = Arc::new(config);
        let read = ward.source(&config, READ).await;
        let mut reading = ward.reading.lock().await;
        let _loading = ward.loading.lock().await;
        let file = read.as_ref().ok().map(|source| (digest(&source.code), source.signature.clone()));
        let charge = ward.standing().charge.clone();
        match (read, charge) {
            (Ok(PluginFile { code, signature }), _) if file != reading.file => {
                reading.file = file;
                let origin = Origin { how: How::File, by: None, signature };
                let brought = self.bring(index, &config, code, origin, None).await;
                // It may be a good file once the store answers, or its signature is there.
                if brought.is_err() {
                    reading.file = None;
                }
                brought?;
            }
            (Err(refusal), None) => {
                ward.config.store(config);
                return Err(refusal);
            }
            (read, Some(_)) => {
                self.restart(index, &config).await?;
                // What other nodes put in charge works also where this node's file does not.
                if let Err(refusal) = read {
                    ward.config.store(config);
                    return Err(refusal);
                }
            }
            (Ok(_), None) => {}
        }
        ward.config.store(config);
        Ok(())
    }

    /// The version in charge, with another configuration. That is this node's own affair.
    async fn restart(self: &Arc<Self>, index: usize, config: &Arc<PluginConfig>) -> Result<(), Refusal> {
        let ward = &self.wards[index];
        let in_charge = || {
            let charge = ward.standing().charge.clone();
            charge
                .filter(|charge| !charge.config.has_same_runtime_settings(config))
                .map(|charge| charge.sha256().to_owned())
        };
        while let Some(sha256) = in_charge() {
            let restarted = async {
                let plugin = self.revive(index, config, &sha256).await?;
                let _turn = ward.turn.lock().await;
                // Others may have gone back, or followed another node, while it was compiled.
                if in_charge().is_some_and(|present| present == sha256) {
                    self.take_up(index, Charge { plugin, config: config.clone() }, true).await?;
                    ward.config.store(config.clone());
                }
                Ok(())
            };
            let restarted: Result<(), Refusal> = restarted.await;
            ward.ends(&sha256, &restarted);
            restarted?;
        }
        Ok(())
    }

    /// Verifies, compiles, puts in charge here and makes known to all.
    pub(super) async fn bring(
        self: &Arc<Self>,
        index: usize,
        config: &Arc<PluginConfig>,
        code: Bytes,
        origin: Origin,
        seen: Option<Lineage>,
    ) -> Result<(), Refusal> {
        let (ward, sha256) = (&self.wards[index], digest(&code));
        let _underway = ward.begins(&sha256);
        let mut brought = self.try_bring(index, config, (&sha256, &code), &origin, seen).await;
        if let (Err(refusal), How::File) = (&mut brought, origin.how) {
            refusal.message += &format!(" ({})", config.file.display());
        }
        ward.ends(&sha256, &brought);
        if let (Err(refusal), Some(by)) = (&brought, &origin.by) {
            let (plugin, how, reason) = (ward.name(), origin.how.name(), &refusal.message);
            tracing::error!(target: AUDIT, %plugin, %sha256, how, by, "not loaded: {reason}");
        }
        brought
    }

    async fn try_bring(
        self: &Arc<Self>,
        index: usize,
        config: &Arc<PluginConfig>,
        (sha256, code): (&str, &Bytes),
        origin: &Origin,
        seen: Option<Lineage>,
    ) -> Result<(), Refusal> {
        let (ward, name) = (&self.wards[index], config.name());
        let signature = origin.signature.as_deref();
        // Before anything else looks at it, also where it is compiled here already.
        let signed_by = config
            .trust
            .verify(name, code, signature)
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        let is_same = |plugin: &Arc<Plugin>| plugin.info().signed_by == signed_by;
        // Asked before it is compiled: where the store does not answer, that would be in vain.
        let lineage = self.store.plugins.lineage(name).await.map_err(unavailable)?;
        if ward.runs(sha256, config)
            && ward.plugin().is_some_and(|p| is_same(&p))
            && lineage.current == sha256
        {
            return Ok(());
        }
        let plugin = match ward.compiled(sha256, config).filter(is_same) {
            Some(plugin) => plugin,
            None => self.compile(config, code, signature).await?,
        };
        let (hub, config, code) = (self.clone(), config.clone(), code.clone());
        let (how, by) = (origin.how, origin.by.clone());
        let signature = origin.signature.clone();
        // On a task of its own: who asked for it may leave, and half of it must not be done.
        let taken_up = tokio::spawn(async move {
            let origin = Origin { how, by, signature };
            hub.switch(index, &config, plugin, &code, origin, &seen.unwrap_or(lineage)).await
        });
        taken_up.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Puts a compiled version in charge here and makes it known to all. `seen` is what the store said before it was compiled.
    async fn switch(
        self: &Arc<Self>,
        index: usize,
        config: &Arc<PluginConfig>,
        plugin: Arc<Plugin>,
        code: &Bytes,
        origin: Origin,
        seen: &Lineage,
    ) -> Result<(), Refusal> {
        let (ward, name, sha256) = (&self.wards[index], config.name(), &plugin.info().sha256);
        let _turn = ward.turn.lock().await;
        // Asked before anything changes here, so that it seldom has to be taken back.
        self.store.plugins.lineage(name).await.map_err(unavailable)?;
        let release = Release {
            sha256: sha256.clone(),
            version: plugin.info().version.clone(),
            signature: origin.signature,
            how: origin.how,
            by: origin.by.clone(),
            at: unix_ms(),
            withdrawn: None,
        };
        let charge = Charge { plugin: plugin.clone(), config: config.clone() };
        let previous = self.take_up(index, charge, true).await?;
        ward.config.store(config.clone());
        match self.announce(ward, &release, code, seen).await {
            Ok(Some(lineage)) => ward.standing().lineage = lineage,
            // What is in charge elsewhere is followed next.
            Ok(None) => return Ok(()),
            Err(error) => {
                self.put_back(index, previous).await;
                return Err(unavailable(error));
            }
        }
        took_charge(&plugin, origin.how.name(), origin.by.as_deref());
        let (is, was) = (&plugin.info().package, previous.map(|charge| charge.plugin.info().package.clone()));
        if let Some(was) = was.filter(|was| was != is) {
            tracing::warn!(target: AUDIT, plugin = name, "it was '{was}' and calls itself '{is}' now: is it the right file?");
        }
        Ok(())
    }

    /// The last who announces is in charge everywhere. `None`: it is a file that turned out to be an earlier version, since the store
    /// was asked before, which `seen` is from: it had forgotten them, and others have written them again.
    async fn announce(
        &self,
        ward: &Ward,
        release: &Release,
        code: &Bytes,
        seen: &Lineage,
    ) -> Result<Option<Lineage>, Unavailable> {
        let (name, known) = (&ward.name(), ward.standing().lineage.clone());
        for _ in 0..ATTEMPTS {
            let lineage = self.store.plugins.lineage(name).await?;
            // A store that has lost what this node knows would begin to count anew, and others would not follow.
            if lineage.generation < known.generation {
                self.restore(ward, &known).await?;
                continue;
            }
            let is_there =
                |there: &Release| release.signature.is_none() || there.signature == release.signature;
            if lineage.current == release.sha256 && lineage.in_charge().is_some_and(is_there) {
                return Ok(Some(lineage));
            }
            if release.how == How::File && lineage != *seen && lineage.remembers(&release.sha256) {
                return Ok(None);
            }
            let (next, dropped) = lineage.with(release.clone());
            let change = Change { lineage: &next, code: Some(code), dropped: &dropped };
            if self.store.plugins.change(name, change).await? {
                return Ok(Some(next));
            }
        }
        Err(Unavailable(format!("versions of plugin '{name}' are changed again and again")))
    }

    /// A version that was loaded before: as it is still compiled here, or from the store.
    pub(super) async fn revive(
        &self,
        index: usize,
        config: &Arc<PluginConfig>,
        sha256: &str,
    ) -> Result<Arc<Plugin>, Refusal> {
        let (ward, name) = (&self.wards[index], config.name());
        if let Some(plugin) = ward.compiled(sha256, config) {
            config
                .trust
                .admit(name, plugin.info().signed_by.as_deref())
                .map_err(|error| conflict(error.to_string()))?;
            return Ok(plugin);
        }
        let lineage = self.store.plugins.lineage(name).await.map_err(unavailable)?;
        let signature = lineage.find(sha256).and_then(|release| release.signature.clone());
        let code = self.store.plugins.code(name, sha256).await.map_err(unavailable)?;
        let gone = || {
            conflict(format!("the code of version {sha256} of plugin '{name}' is not held any more: load it"))
        };
        let code = code.filter(|code| digest(code) == sha256).ok_or_else(gone)?;
        self.compile(config, &code, signature.as_deref()).await
    }

    /// Puts a version in charge on this node, between two messages, and gives the one that was. If `watched` it is on
    /// probation: quarantined, it goes back by itself.
    pub(super) async fn take_up(
        self: &Arc<Self>,
        index: usize,
        charge: Charge,
        watched: bool,
    ) -> Result<Option<Charge>, Refusal> {
        let ward = &self.wards[index];
        let previous = ward.standing().charge.clone();
        let alarms = charge.plugin.stats().watch_quarantines();
        self.swap(index, &charge, previous.as_ref()).await?;
        let watched = previous.clone().filter(|_| watched && !charge.config.probation.is_zero());
        let probation = watched.map(|previous| self.watch(index, &charge, previous, alarms));
        let mut standing = ward.standing();
        standing.earlier.retain(|earlier| !earlier.is(charge.sha256(), &charge.config));
        standing.earlier.splice(0..0, previous.clone());
        standing.earlier.truncate(COMPILED);
        (standing.charge, standing.probation, standing.shadow) = (Some(charge), probation, None);
        Ok(previous)
    }

    /// Takes back what was taken up just now. Where nobody was in charge before, the version stays.
    pub(super) async fn put_back(self: &Arc<Self>, index: usize, previous: Option<Charge>) {
        let Some(previous) = previous else { return };
        if let Err(error) = self.take_up(index, previous, false).await {
            tracing::error!(
                plugin = self.wards[index].name(),
                error = error.message,
                "the version before does not come back"
            );
        }
    }

    /// In the shard and at the door, or in neither.
    async fn swap(&self, index: usize, charge: &Charge, previous: Option<&Charge>) -> Result<(), Refusal> {
        let (plugin, on_failure) = (charge.plugin.clone(), charge.config.on_failure);
        self.lobby.swap(index, Some((plugin.clone(), on_failure))).await?;
        let (reply, swapped) = oneshot::channel();
        self.shards[index].queue.send(Command::Swap { plugin, on_failure, reply }).ok();
        let swapped = swapped.await.unwrap_or_else(|_| Err(stopping()));
        if swapped.is_err() {
            let previous = previous.map(|charge| (charge.plugin.clone(), charge.config.on_failure));
            self.lobby.swap(index, previous).await.ok();
        }
        swapped
    }
}

impl Ward {
    /// The plugin's file and its signature. Where they cannot be read at this moment, or a file system does not answer for so long, that is
    /// `overloaded`: they may be read later.
    pub(super) async fn source(
        &self,
        config: &Arc<PluginConfig>,
        patience: Duration,
    ) -> Result<PluginFile, Refusal> {
        let read = config.clone();
        match self.reader.run("reads a plugin", patience, move || read.read()).await {
            Ok(read) => read.map_err(|error| match error {
                UnusableFile::Temporary(why) => Refusal::new(ErrorCode::Overloaded, why),
                UnusableFile::Invalid(why) => Refusal::invalid(why),
            }),
            Err(BlockingError::Endless) => {
                let (name, file) = (config.name(), config.file.display());
                let why = format!("plugin '{name}': {file}: {}", BlockingError::Endless);
                Err(Refusal::new(ErrorCode::Overloaded, why))
            }
            Err(error) => Err(undone("reads a plugin", error)),
        }
    }
}

pub(crate) fn conflict(message: String) -> Refusal {
    Refusal::new(ErrorCode::Conflict, message)
}
