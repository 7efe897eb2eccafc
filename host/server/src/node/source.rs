//! Where the configuration comes from, and what tells that it, or a file that it names, is to be read again.

use super::{
    files::{Files, ReadFault, Reader},
    guard::Cause,
};
use crate::{
    blocking::AGAIN,
    config::{Config, Text, environment},
    listener::TlsConfig,
};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use switchyard_plugin::PluginConfig;
use switchyard_process::{file::UnusableFile, vital::VitalTasks};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Files are read once nothing happened to them for so long, so that several writes are one change.
const SETTLE: Duration = Duration::from_millis(200);
/// And after so long in any case.
const UNSETTLED: Duration = Duration::from_secs(1);

pub struct Source {
    file: Option<PathBuf>,
    files: AllFiles,
    /// Awaited from the start: a SIGHUP that nobody awaits ends the process.
    hangups: Signal,
}

/// Three threads, so that a file system which does not answer holds up none but its own: least of all keys that are taken away.
struct AllFiles {
    configuration: Files,
    certificate: Files,
    plugins: Files,
}

impl AllFiles {
    fn start(vitals: &VitalTasks) -> io::Result<Self> {
        let start = |whose| Files::start(vitals, whose);
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

impl Source {
    /// From now on no SIGHUP is missed, and no change of the file.
    pub fn open(file: Option<PathBuf>, vitals: &VitalTasks) -> io::Result<Self> {
        let hangups = signal(SignalKind::hangup())?;
        let files = AllFiles::start(vitals)?;
        files.configuration.follow_own(file.iter().cloned().collect());
        Ok(Self { file, files, hangups })
    }

    /// Of the configuration.
    pub fn reader(&self) -> Reader {
        self.files.configuration.reader()
    }

    pub(crate) fn certificate_reader(&self) -> Reader {
        self.files.certificate.reader()
    }

    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// What the node begins with. It is waited for as long as it takes, such as by whoever writes into a pipe.
    pub async fn load(&self) -> Result<Config, String> {
        let Some(file) = self.file.clone() else { return Config::load(None, &environment()?) };
        let shown = file.display().to_string();
        let read = self.reader().wait(move || Text::first(&file)).await;
        let text = read.unwrap_or_else(|fault| Err(fault.into())).map_err(|error| error.to_string())?;
        let config = text.config(&environment()?)?;
        if text.is_empty() {
            tracing::warn!("{shown}: it is empty: everything has its default, and there are no keys");
        }
        if let Some(kind) = text.kind() {
            tracing::warn!("{shown}: it is {kind}, and cannot be read again: changes take a restart");
        }
        Ok(config)
    }

    /// What a running node is to have. The error says what is wrong, and nothing is to change then.
    pub(crate) async fn reload(&self, file: PathBuf) -> Result<(Config, [u8; 32]), UnusableFile> {
        let read = move || {
            let text = Text::again(&file)?;
            if text.is_empty() {
                return Err(UnusableFile::Invalid(format!("{}: it is empty", file.display())));
            }
            let environment = environment().map_err(UnusableFile::Invalid)?;
            Ok((text.config(&environment).map_err(UnusableFile::Invalid)?, text.digest()))
        };
        self.reader().run(read).await?
    }

    /// Follows the files that this configuration names. After an error some are followed later, as soon as their file system answers, and
    /// are told to have changed then.
    pub(crate) async fn follow(&self, config: &Config) -> Result<(), ReadFault> {
        let files = |tls: &TlsConfig| [tls.certificate.clone(), tls.key.clone()];
        let certificate = self.files.certificate.follow(config.server.tls.iter().flat_map(files).collect());
        let plugins = config.plugins.iter().flat_map(PluginConfig::files).collect();
        let plugins = self.files.plugins.follow(plugins);
        let (certificate, plugins) = tokio::join!(certificate, plugins);
        certificate.and(plugins)
    }

    /// Awaits what makes the node read its files again. What was told of a file is not forgotten for a configuration that `is_unread`,
    /// and with it is read again after a while.
    pub(crate) async fn changed(&mut self, is_unread: bool) -> Cause {
        tokio::select! {
            _ = self.hangups.recv() => return Cause::Hangup,
            () = self.files.changed() => {}
            () = tokio::time::sleep(AGAIN), if is_unread => return Cause::Again,
        }
        let latest = tokio::time::sleep(UNSETTLED);
        tokio::pin!(latest);
        loop {
            tokio::select! {
                biased;
                _ = self.hangups.recv() => return Cause::Hangup,
                () = &mut latest => return Cause::Files,
                more = tokio::time::timeout(SETTLE, self.files.changed()) => {
                    if more.is_err() {
                        return Cause::Files;
                    }
                }
            }
        }
    }
}
