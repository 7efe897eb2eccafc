//! Tells when files that the node is made of have changed.

use crate::{config::Config, plugin::PluginConfig};
use notify::{
    EventKind, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use std::{
    collections::HashSet,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use tokio::sync::mpsc;

/// Tells of changes to the configuration's own files, from before they are read, so that none is missed.
pub struct Changes {
    pub told: mpsc::UnboundedReceiver<()>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Changes {
    pub fn new(config: &Config, file: Option<&Path>) -> Self {
        let (changed, told) = mpsc::unbounded_channel();
        Self { told, _watcher: watcher(config, file, changed) }
    }
}

/// Folders are watched, because a file that is replaced is another file.
fn watcher(
    config: &Config,
    file: Option<&Path>,
    changed: mpsc::UnboundedSender<()>,
) -> Option<notify::RecommendedWatcher> {
    let mut files: HashSet<PathBuf> = config.plugins.iter().flat_map(PluginConfig::files).collect();
    files.extend(file.map(Path::to_owned));
    files.extend(config.server.tls.iter().flat_map(|tls| [tls.certificate.clone(), tls.key.clone()]));
    let absolute = |file: &PathBuf| std::path::absolute(file).ok();
    let files: HashSet<PathBuf> = files.iter().filter_map(absolute).collect();
    let folders: HashSet<PathBuf> = files.iter().filter_map(|file| Some(file.parent()?.to_owned())).collect();
    // Mounted secrets are replaced by moving the link `..data` beside them.
    let concerns = move |path: &PathBuf| {
        files.contains(path)
            || path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".."))
    };
    let handler = move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        if event.paths.iter().any(|path| concerns(path) && is_whole(&event, path)) {
            changed.send(()).ok();
        }
    };
    let started = notify::recommended_watcher(handler).and_then(|mut watcher| {
        folders.iter().try_for_each(|folder| watcher.watch(folder, RecursiveMode::NonRecursive))?;
        Ok(watcher)
    });
    started
        .inspect_err(|error| tracing::warn!(%error, "files are not watched; send SIGHUP after a change"))
        .ok()
}

/// Whether a file may be read now. One that is being written is not: it is when it is closed or renamed, or appears as a link.
fn is_whole(event: &notify::Event, path: &Path) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(ModifyKind::Name(_)) => true,
        EventKind::Create(_) => {
            path.symlink_metadata().is_ok_and(|file| file.is_symlink() || file.nlink() > 1)
        }
        // Elsewhere nobody tells when a file is closed.
        _ => !cfg!(target_os = "linux") || event.need_rescan(),
    }
}
