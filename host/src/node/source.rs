//! Where the configuration comes from, and what tells that it, or a file that it names, is to be read again.

use super::{
    files::{Files, ReadFault, Reader, stamps},
    guard::Cause,
};
use crate::{
    blocking::AGAIN,
    config::{Config, Text, environment},
    file::NotTaken,
    plugin::PluginConfig,
    vital::Vitals,
};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Files are read once nothing happened to them for so long, so that several writes are one change.
const SETTLE: Duration = Duration::from_millis(200);
/// And after so long in any case.
const UNSETTLED: Duration = Duration::from_secs(1);

pub struct Source {
    file: Option<PathBuf>,
    files: Files,
    /// Awaited from the start: a SIGHUP that nobody awaits ends the process.
    hangups: Signal,
}

impl Source {
    /// From now on no SIGHUP is missed, and no change of the file.
    pub fn open(file: Option<PathBuf>, vitals: &Vitals) -> io::Result<Self> {
        let hangups = signal(SignalKind::hangup())?;
        let files = Files::start(vitals)?;
        files.follow(stamps(file.clone()));
        Ok(Self { file, files, hangups })
    }

    pub fn reader(&self) -> Reader {
        self.files.reader()
    }

    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// What the node begins with.
    pub fn load(&self) -> Result<Config, String> {
        let Some(file) = &self.file else { return Config::load(None, &environment()?) };
        let text = Text::first(file).map_err(|error| error.to_string())?;
        let config = text.config(&environment()?)?;
        let shown = file.display();
        if text.is_empty() {
            tracing::warn!("{shown}: it is empty: everything has its default, and there are no keys");
        }
        if let Some(kind) = text.kind() {
            tracing::warn!("{shown}: it is {kind}, and cannot be read again: changes take a restart");
        }
        Ok(config)
    }

    /// What a running node is to have. The error says what is wrong, and nothing is to change then.
    pub async fn reload(&self, file: PathBuf) -> Result<(Config, [u8; 32]), NotTaken> {
        let read = move || {
            let text = Text::again(&file)?;
            if text.is_empty() {
                return Err(NotTaken::Wrong(format!("{}: it is empty", file.display())));
            }
            let environment = environment().map_err(NotTaken::Wrong)?;
            Ok((text.config(&environment).map_err(NotTaken::Wrong)?, text.digest()))
        };
        self.reader().run(read).await?
    }

    /// Follows the files that this configuration names. After an error those from before are followed.
    pub async fn follow(&self, config: &Config) -> Result<(), ReadFault> {
        let mut paths: Vec<PathBuf> = config.plugins.iter().flat_map(PluginConfig::files).collect();
        paths.extend(self.file.clone());
        paths.extend(config.server.tls.iter().flat_map(|tls| [tls.certificate.clone(), tls.key.clone()]));
        self.files.follow(self.reader().run(move || stamps(paths)).await?);
        Ok(())
    }

    /// Awaits what makes the node read its files again. What was told of a file is not forgotten for a configuration that `is_unread`,
    /// and with it is read again after a while.
    pub async fn changed(&mut self, is_unread: bool) -> Cause {
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
