//! Where the configuration of a node comes from, and the events on which it and the files that it names are
//! read again. Does not apply anything.

use super::{
    guard::ReloadCause,
    watcher::{FileReader, FileWatcher, ReadError},
};
use crate::{
    blocking::THREAD_RETRY_DELAY,
    config::{Config, ConfigError, ConfigFile, read_environment},
    listener::TlsConfig,
};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use switchyard_plugin::PluginConfig;
use switchyard_process::{file::UnusableFile, vital::VitalTasks};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

/// Files are read once there were no changes for this long, so that several changes cause one reload.
const SETTLE_DELAY: Duration = Duration::from_millis(200);
/// Files are read after this time even if there are more changes.
const MAX_SETTLE_DELAY: Duration = Duration::from_secs(1);

/// The configuration file of a node, if it has one, and the signals and file changes that cause a reload.
pub struct ConfigSource {
    file: Option<PathBuf>,
    watchers: Watchers,
    /// Until when more changes are awaited, if files have changed that were not read since.
    settles_at: Option<Instant>,
    /// Installed from the start: without a handler, SIGHUP ends the process.
    sighup: Signal,
}

/// One thread for each kind of file: if a file system does not answer, only the files on it are affected, and
/// keys can still be revoked.
struct Watchers {
    configuration: FileWatcher,
    certificate: FileWatcher,
    plugins: FileWatcher,
}

impl Watchers {
    fn start(vitals: &VitalTasks) -> io::Result<Self> {
        let start = |what| FileWatcher::start(vitals, what);
        let (configuration, certificate) = (start("the configuration")?, start("the certificate")?);
        Ok(Self { configuration, certificate, plugins: start("plugins")? })
    }

    async fn changed(&self) {
        tokio::select! {
            () = self.configuration.changed() => {}
            () = self.certificate.changed() => {}
            () = self.plugins.changed() => {}
        }
    }
}

impl ConfigSource {
    /// Starts to watch the file and to handle SIGHUP, so that no change is missed from now on. Must be called
    /// within a Tokio runtime.
    ///
    /// # Errors
    ///
    /// Fails if a thread cannot be started, or the handler of SIGHUP cannot be installed.
    pub fn open(file: Option<PathBuf>, vitals: &VitalTasks) -> io::Result<Self> {
        let sighup = signal(SignalKind::hangup())?;
        let watchers = Watchers::start(vitals)?;
        watchers.configuration.watch_before_reading(file.iter().cloned().collect());
        Ok(Self { file, watchers, settles_at: None, sighup })
    }

    /// Reads files on the thread that watches the configuration.
    pub fn reader(&self) -> FileReader {
        self.watchers.configuration.reader()
    }

    pub(crate) fn certificate_reader(&self) -> FileReader {
        self.watchers.certificate.reader()
    }

    /// The configuration file; `None` for a node that uses the defaults.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads the configuration for the start of the node. Waits as long as necessary, for example until
    /// somebody writes to a pipe.
    ///
    /// # Errors
    ///
    /// As for [`Config::load`].
    pub async fn load(&self) -> Result<Config, ConfigError> {
        let Some(path) = self.file.clone() else { return Config::load(None, &read_environment()?) };
        let shown = path.display().to_string();
        let read = self.reader().run_without_timeout(move || ConfigFile::open(&path)).await;
        let file = read.unwrap_or_else(|error| Err(error.into()))?;
        let config = file.parse(&read_environment()?)?;
        if file.is_empty() {
            tracing::warn!(
                "{shown}: the file is empty: all settings have their defaults, and there are no keys"
            );
        }
        if let Some(kind) = file.special_kind() {
            tracing::warn!(
                "{shown}: it is {kind}, which cannot be read again: changes take effect after a restart"
            );
        }
        Ok(config)
    }

    /// Reads the configuration again, for a running node. Also returns the digest of its text.
    pub(crate) async fn reload(&self, path: PathBuf) -> Result<(Config, [u8; 32]), UnusableFile> {
        let invalid = |error: ConfigError| UnusableFile::Invalid(error.to_string());
        let read = move || {
            let file = ConfigFile::reopen(&path)?;
            if file.is_empty() {
                return Err(UnusableFile::Invalid(format!("{}: the file is empty", path.display())));
            }
            let environment = read_environment().map_err(invalid)?;
            Ok((file.parse(&environment).map_err(invalid)?, file.digest()))
        };
        self.reader().run(read).await?
    }

    /// Watches the files that this configuration names. It fails if a file system does not answer. Then its
    /// files are watched as soon as it does, and reported as changed.
    pub(crate) async fn watch(&self, config: &Config) -> Result<(), ReadError> {
        let files = |tls: &TlsConfig| [tls.certificate.clone(), tls.key.clone()];
        let certificate = config.server.tls.iter().flat_map(files).collect();
        let certificate = self.watchers.certificate.watch(certificate);
        let plugins = config.plugins.iter().flat_map(PluginConfig::files).collect();
        let plugins = self.watchers.plugins.watch(plugins);
        let (certificate, plugins) = tokio::join!(certificate, plugins);
        certificate.and(plugins)
    }

    /// Returns when the node should read its files again. If the configuration could not be read the last
    /// time, `retry` must be true; then this also returns after a while. Cancel-safe.
    pub(crate) async fn changed(&mut self, retry: bool) -> ReloadCause {
        let settles_at = match self.settles_at {
            Some(at) => at,
            None => {
                tokio::select! {
                    _ = self.sighup.recv() => return ReloadCause::Sighup,
                    () = self.watchers.changed() => {}
                    () = tokio::time::sleep(THREAD_RETRY_DELAY), if retry => return ReloadCause::Retry,
                }
                *self.settles_at.insert(Instant::now() + MAX_SETTLE_DELAY)
            }
        };
        let cause = loop {
            tokio::select! {
                biased;
                _ = self.sighup.recv() => break ReloadCause::Sighup,
                () = tokio::time::sleep_until(settles_at) => break ReloadCause::FileChange,
                more = tokio::time::timeout(SETTLE_DELAY, self.watchers.changed()) => {
                    if more.is_err() {
                        break ReloadCause::FileChange;
                    }
                }
            }
        };
        self.settles_at = None;
        cause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a node whose reload was previewed just after its configuration had changed never read the change.
    #[tokio::test]
    async fn a_change_is_reported_although_something_else_happens_before_it_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("switchyard.toml");
        std::fs::write(&file, "").unwrap();
        let mut source = ConfigSource::open(Some(file.clone()), &VitalTasks::default()).unwrap();
        // Served after the file is watched.
        source.reader().run(|| ()).await.unwrap();
        std::fs::write(&file, "[server]").unwrap();
        let is_reported =
            async { while tokio::time::timeout(SETTLE_DELAY / 4, source.changed(false)).await.is_err() {} };
        tokio::time::timeout(Duration::from_secs(30), is_reported).await.expect("the change is reported");
    }
}
