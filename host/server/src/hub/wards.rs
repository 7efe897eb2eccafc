//! The plugins in charge of rooms: which version it is on this node, which were before, and how the present one fares.

mod back;
mod change;
mod follow;
mod probation;
mod shade;
mod view;

pub(crate) use change::Origin;
pub(super) use change::conflict;
pub(crate) use follow::NodeReport;
pub(crate) use view::{Condition, Reported, Shown};

use super::{Hub, no_thread};
use crate::blocking::{self, BlockingError};
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};
use switchyard_plugin::{
    Compilation, Engine, EngineError, Plugin, PluginConfig, Shadow, Trust, VersionError,
};
use switchyard_protocol::{ErrorCode, Refusal, unix_ms};
use switchyard_store::Lineage;
use tokio_util::task::AbortOnDropHandle;

/// A plugin and its rooms.
pub(crate) struct Ward {
    config: ArcSwap<PluginConfig>,
    /// Held for moments, never while anything is awaited.
    standing: Mutex<Standing>,
    /// Held while a version comes into charge, so that they come one after the other; not while one is compiled, so that going
    /// back never waits for that.
    turn: tokio::sync::Mutex<()>,
    /// Held while what follows from reading the file is done.
    reading: tokio::sync::Mutex<Reading>,
    /// Held by those who load, one after the other: the last who comes is the last who is in charge.
    loading: tokio::sync::Mutex<()>,
    /// Reads its file, outside of all that: a file system may answer never.
    reader: blocking::Lane,
}

#[derive(Default)]
struct Reading {
    /// The file that was read last: its SHA-256 and its signature. Another version may have come into charge since.
    file: Option<(String, Option<String>)>,
}

/// A version on its way into charge, for as long as somebody is about it.
struct Underway<'a> {
    ward: &'a Ward,
    sha256: &'a str,
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        let mut standing = self.ward.standing();
        standing.loading.take_if(|loading| loading == self.sha256);
    }
}

/// Gives a compilation up when nobody waits for it any more.
struct Awaited(Compilation);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[derive(Default)]
struct Standing {
    /// `None`: nobody is in charge, and the rooms are closed.
    charge: Option<Charge>,
    /// As the store had it when this node last looked.
    lineage: Lineage,
    /// Digest of a version that is on its way into charge.
    loading: Option<String>,
    /// The last that did not come into charge, or went out of it by itself.
    failed: Option<Failed>,
    /// Those that were in charge here before, the last one first: compiled, so that going back takes no time.
    earlier: Vec<Charge>,
    probation: Option<Probation>,
    shadow: Option<Casting>,
}

/// A version and the configuration that it was started with.
#[derive(Clone)]
struct Charge {
    plugin: Arc<Plugin>,
    config: Arc<PluginConfig>,
}

#[derive(Clone)]
struct Failed {
    /// `None`: its file could not be read.
    sha256: Option<String>,
    reason: String,
    /// Unix milliseconds.
    at: u64,
}

struct Probation {
    until: Instant,
    /// Goes back when the version is quarantined.
    _watch: AbortOnDropHandle<()>,
}

/// A candidate beside the version in charge.
struct Casting {
    shadow: Shadow,
    code: Bytes,
    signature: Option<String>,
    /// Unix milliseconds.
    since: u64,
}

/// Earlier versions that stay compiled.
const COMPILED: usize = 2;

const HELD: &str = "no code panics while it holds a ward";

impl Ward {
    pub(super) fn new(config: PluginConfig) -> Self {
        Self {
            config: ArcSwap::from_pointee(config),
            standing: Mutex::default(),
            turn: Default::default(),
            reading: Default::default(),
            loading: Default::default(),
            reader: Default::default(),
        }
    }

    pub(crate) fn name(&self) -> String {
        self.config.load().name().to_owned()
    }

    /// The version in charge.
    pub(crate) fn plugin(&self) -> Option<Arc<Plugin>> {
        self.standing().charge.as_ref().map(|charge| charge.plugin.clone())
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().expect(HELD)
    }

    fn begins<'a>(&'a self, sha256: &'a str) -> Underway<'a> {
        self.standing().loading = Some(sha256.to_owned());
        Underway { ward: self, sha256 }
    }

    /// It is in charge, or why it is not.
    fn ends<T>(&self, sha256: &str, outcome: &Result<T, Refusal>) {
        let failed = outcome.as_ref().err().map(|refusal| Failed::now(Some(sha256), &refusal.message));
        let mut standing = self.standing();
        standing.loading.take_if(|loading| loading == sha256);
        standing.failed = failed;
    }

    fn fails(&self, failed: Failed) {
        self.standing().failed = Some(failed);
    }

    /// A version that is compiled here still, because it was in charge before.
    fn compiled(&self, sha256: &str, config: &PluginConfig) -> Option<Arc<Plugin>> {
        let standing = self.standing();
        let charge = standing.earlier.iter().find(|charge| charge.is(sha256, config));
        charge.map(|charge| charge.plugin.clone())
    }

    /// From now on versions are verified with these keys. The one in charge stays.
    fn trust(&self, trust: &Arc<Trust>) {
        let before = self.config.load_full();
        if before.trust == *trust {
            return;
        }
        self.config.store(Arc::new(PluginConfig { trust: trust.clone(), ..PluginConfig::clone(&before) }));
        let info = self.plugin().map(|plugin| plugin.info().clone());
        let admitted = info.map(|info| trust.admit(&info.name, info.signed_by.as_deref()));
        if let Some(Err(error)) = admitted {
            tracing::error!("{error}; it stays in charge until another version takes its place");
        }
    }

    /// Whether that version runs already, with this configuration.
    fn runs(&self, sha256: &str, config: &PluginConfig) -> bool {
        let standing = self.standing();
        standing.charge.as_ref().is_some_and(|charge| charge.is(sha256, config))
    }
}

impl Failed {
    fn now(sha256: Option<&str>, reason: &str) -> Self {
        Self { sha256: sha256.map(str::to_owned), reason: reason.to_owned(), at: unix_ms() }
    }
}

impl Charge {
    fn is(&self, sha256: &str, config: &PluginConfig) -> bool {
        self.sha256() == sha256 && self.config.has_same_runtime_settings(config)
    }

    fn sha256(&self) -> &str {
        &self.plugin.info().sha256
    }
}

impl Hub {
    /// The plugins with their rooms, by precedence.
    pub(crate) fn wards(&self) -> &[Ward] {
        &self.wards
    }

    pub(crate) fn ward(&self, name: &str) -> Result<&Ward, Refusal> {
        self.index(name).map(|index| &self.wards[index])
    }

    fn index(&self, name: &str) -> Result<usize, Refusal> {
        let index = self.wards.iter().position(|ward| ward.config.load().name() == name);
        let message = || format!("no plugin '{}' is configured here", name.escape_debug());
        index.ok_or_else(|| Refusal::new(ErrorCode::NotFound, message()))
    }

    /// Compiles beside the serving threads, for as long as this is awaited.
    async fn compile(
        &self,
        config: &Arc<PluginConfig>,
        code: &Bytes,
        signature: Option<&str>,
    ) -> Result<Arc<Plugin>, Refusal> {
        let start = async || Ok(Engine::start(&self.vitals, self.compiler)?.with_cache(self.cache.clone()));
        let engine = self.engine.get_or_try_init(start).await.cloned().map_err(|error| match error {
            EngineError::DeadlineThread(error) => no_thread("that enforces plugin deadlines", error),
            error @ EngineError::Runtime(_) => Refusal::invalid(error.to_string()),
        })?;
        let (config, code, signature) = (config.clone(), code.clone(), signature.map(str::to_owned));
        let awaited = Awaited(Compilation::default());
        let engine = engine.with_compilation(awaited.0.clone());
        let compile = move || config.compile(&engine, &code, signature.as_deref());
        match blocking::run("compiles a plugin", compile).await {
            Ok(Ok(plugin)) => Ok(Arc::new(plugin)),
            Ok(Err(VersionError { reason, is_retryable: true })) => {
                Err(Refusal::retry(ErrorCode::Overloaded, reason, 1000))
            }
            Ok(Err(VersionError { reason, .. })) => Err(Refusal::invalid(reason)),
            Err(error) => Err(undone("compiles a plugin", error)),
        }
    }
}

/// Work for which there is no thread, or no end, may be done later.
fn undone(work: &str, error: BlockingError) -> Refusal {
    match error {
        BlockingError::NoThread(error) => no_thread(&format!("that {work}"), error),
        error @ BlockingError::Endless => Refusal::new(ErrorCode::Overloaded, error.to_string()),
        BlockingError::Panicked => Refusal::new(ErrorCode::Internal, format!("what {work} panicked")),
    }
}

/// Lines for those who ask later who did what.
pub(crate) const AUDIT: &str = "switchyard::audit";

fn took_charge(plugin: &Plugin, how: &str, by: Option<&str>) {
    let info = plugin.info();
    let (name, version, sha256) = (&info.name, &info.version, &info.sha256);
    tracing::info!(target: AUDIT, plugin = %name, %version, %sha256, how, by, "another version is in charge");
}
