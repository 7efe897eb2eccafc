//! The source files of a project: noticing that they have changed, also while a build was running, and ignoring
//! what builds write.

use anyhow::{Context, bail};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{sync::Notify, time::timeout};

/// Folders that builds and package managers write.
const GENERATED_FOLDERS: [&str; 4] = ["target", "node_modules", "venv", "__pycache__"];
/// Files that builds write.
const GENERATED_FILES: [&str; 2] = ["Cargo.lock", "package-lock.json"];
/// More files than any plugin has.
const MAX_FILES: usize = 10_000;
/// How long nothing may happen before a change is complete: editors write a file in several steps.
const QUIET_PERIOD: Duration = Duration::from_millis(50);

/// When a file was changed, and its size.
type State = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

pub(super) struct Sources {
    folder: PathBuf,
    watcher: RecommendedWatcher,
    watched: HashSet<PathBuf>,
    events: Arc<Notify>,
    /// As of the last build.
    state: State,
}

impl Sources {
    pub(super) fn watch(folder: PathBuf) -> anyhow::Result<Self> {
        let events = Arc::new(Notify::new());
        let notify = events.clone();
        // Errors too: what is there is looked up after each event.
        let handler = move |_: notify::Result<notify::Event>| notify.notify_one();
        let watcher = notify::recommended_watcher(handler).context("files cannot be watched")?;
        let mut sources = Self { folder, watcher, watched: HashSet::new(), events, state: State::new() };
        sources.state = sources.scan()?;
        Ok(sources)
    }

    /// Waits until the files are other than at the last return of this.
    pub(super) async fn changed(&mut self) -> anyhow::Result<()> {
        loop {
            let state = self.scan()?;
            if state != self.state {
                self.state = state;
                return Ok(());
            }
            self.events.notified().await;
            while timeout(QUIET_PERIOD, self.events.notified()).await.is_ok() {}
        }
    }

    /// The state of all files. Watches each folder before it reads it, so that no change is missed.
    fn scan(&mut self) -> anyhow::Result<State> {
        let (mut state, mut folders) = (State::new(), vec![self.folder.clone()]);
        self.watched.retain(|folder| folder.is_dir());
        while let Some(folder) = folders.pop() {
            if self.watched.insert(folder.clone()) {
                let watched = self.watcher.watch(&folder, RecursiveMode::NonRecursive);
                watched.with_context(|| format!("cannot watch {}", folder.display()))?;
            }
            // It may be gone by now.
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
                if kind.is_dir() && !is_generated_folder(&path) {
                    folders.push(path);
                } else if kind.is_file() && !is_generated_file(&path) {
                    let Ok(metadata) = entry.metadata() else { continue };
                    state.insert(path, (metadata.modified().ok(), metadata.len()));
                }
            }
            if state.len() > MAX_FILES {
                bail!(
                    "{} has more than {MAX_FILES} files; run this in the folder of the plugin",
                    self.folder.display()
                );
            }
        }
        Ok(state)
    }
}

fn is_generated_folder(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    GENERATED_FOLDERS.contains(&&*name) || name.starts_with('.') && name != ".cargo"
}

fn is_generated_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    GENERATED_FILES.contains(&&*name)
        || name.starts_with('.')
        || name.ends_with('~')
        || path.extension().is_some_and(|extension| extension == "wasm")
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_change_of_a_source_file_is_noticed_once() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let file = folder.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("src/lib.rs", "1");
        let mut sources = Sources::watch(folder.path().to_owned()).unwrap();
        assert!(sources.changed().now_or_never().is_none());
        // As a build does, and an editor for itself.
        for file in
            ["target/release/a.wasm", "b.wasm", "Cargo.lock", ".git/index", "src/lib.rs~", "src/.lib.rs.swp"]
        {
            write(file, "new");
        }
        assert!(sources.changed().now_or_never().is_none());
        write("src/lib.rs", "12");
        sources.changed().await.unwrap();
        assert!(sources.changed().now_or_never().is_none());
        // In a folder that is new.
        write("src/more/one.rs", "1");
        sources.changed().await.unwrap();
        write("src/more/one.rs", "12");
        sources.changed().await.unwrap();
        fs::remove_file(folder.path().join("src/more/one.rs")).unwrap();
        sources.changed().await.unwrap();
    }
}
