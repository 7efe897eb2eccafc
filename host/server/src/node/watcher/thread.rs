//! The thread of a [`FileWatcher`](super::FileWatcher): receives events of the system, compares file states,
//! and runs functions that read files. Does not decide when a file has settled.

use super::{
    events::report,
    file_states::FileStates,
    requests::{Requests, WatchRequest},
};
use arc_swap::ArcSwap;
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use std::{
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use switchyard_process::file::FileStamp;
use tokio::sync::Notify;

/// How often the states of all files are compared.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// When a file that has changed is checked again: it is read when two checks in a row saw the same state.
/// With [`CHECK_INTERVAL`] this leaves time to read a file within 5 s after its change.
const RECHECK_DELAY: Duration = Duration::from_secs(1);

pub(super) struct WatcherThread {
    requests: Arc<Requests>,
    states: FileStates,
    /// The directories of the files, each as it was when the system began to watch it; `None` if it does not
    /// watch it.
    folders: HashMap<PathBuf, Option<FileStamp>>,
    /// Reports events of the system. Created with the first files.
    watcher: Option<RecommendedWatcher>,
    /// The files whose events matter.
    files: Arc<ArcSwap<HashSet<PathBuf>>>,
    changed: Weak<Notify>,
    has_tried_watcher: bool,
    has_warned: bool,
}

impl Drop for WatcherThread {
    /// Also runs on a panic: nobody may wait for this thread then.
    fn drop(&mut self) {
        self.requests.close();
    }
}

impl WatcherThread {
    pub(super) fn new(requests: Arc<Requests>, changed: Weak<Notify>) -> Self {
        Self {
            requests,
            states: FileStates::default(),
            folders: HashMap::new(),
            watcher: None,
            files: Arc::new(ArcSwap::from_pointee(HashSet::new())),
            changed,
            has_tried_watcher: false,
            has_warned: false,
        }
    }

    fn create_watcher(&mut self) {
        let (requests, files) = (self.requests.clone(), self.files.clone());
        // If the system has no thread for it, `notify` returns a watcher without a word, and drops its
        // handler; such a watcher panics when it is used or dropped.
        let alive = Arc::new(());
        let held = alive.clone();
        let handler = move |event: notify::Result<Event>| {
            let _held = &held;
            let Ok(event) = event else { return };
            report(&event, &files.load(), &requests);
        };
        match notify::recommended_watcher(handler) {
            Ok(watcher) if Arc::strong_count(&alive) == 1 => {
                std::mem::forget(watcher);
                self.warn(&std::io::Error::from(std::io::ErrorKind::WouldBlock).into());
            }
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => self.warn(&error),
        }
    }

    pub(super) fn run(mut self) {
        let requests = self.requests.clone();
        let mut next_check = Instant::now() + CHECK_INTERVAL;
        loop {
            let pending = requests.take(next_check);
            // Dropped together with the `FileWatcher`.
            let Some(changed) = self.changed.upgrade() else { return };
            if pending.stop {
                return;
            }
            #[cfg(test)]
            assert!(!pending.panic, "on purpose");
            let mut has_changes = pending.watch.is_some_and(|request| self.watch(request));
            has_changes |= pending.recheck_all && self.states.recheck_all(FileStamp::of);
            for (file, event) in pending.events {
                has_changes |= self.states.apply(&file, event, Instant::now(), FileStamp::of);
            }
            if let Some(job) = pending.job {
                // The caller notices a panic, because the job drops its channel.
                catch_unwind(AssertUnwindSafe(job)).ok();
            }
            if Instant::now() >= next_check {
                self.watch_folders();
                has_changes |= self.states.check(Instant::now(), FileStamp::of);
                next_check = Instant::now() + CHECK_INTERVAL;
            }
            if self.states.has_unsettled() {
                next_check = next_check.min(Instant::now() + RECHECK_DELAY);
            }
            if has_changes {
                changed.notify_one();
            }
        }
    }

    /// Watches these files from now on. Returns whether to report them as changed, because the caller did not
    /// wait until they were watched.
    fn watch(&mut self, WatchRequest { files, done }: WatchRequest) -> bool {
        if !self.has_tried_watcher && !files.is_empty() {
            self.has_tried_watcher = true;
            self.create_watcher();
        }
        let folder = |file: &PathBuf| Some((file.parent()?.to_owned(), None));
        let mut folders: HashMap<_, _> = files.iter().filter_map(folder).collect();
        for (folder, watched) in std::mem::take(&mut self.folders) {
            match folders.get_mut(&folder) {
                Some(same) => *same = watched,
                None => self.unwatch(&folder),
            }
        }
        self.folders = folders;
        self.files.store(Arc::new(files.iter().cloned().collect()));
        self.states.track(files, FileStamp::of);
        let is_late = done.is_some_and(|done| done.send(()).is_err());
        self.watch_folders();
        is_late
    }

    /// Has the system watch each directory, or another one that is now at the same path.
    fn watch_folders(&mut self) {
        for folder in self.folders.keys().cloned().collect::<Vec<_>>() {
            let (current, watched) = (FileStamp::of(&folder), self.folders[&folder]);
            let is_same = match (&current, &watched) {
                (Some(current), Some(watched)) => current.is_same_file(watched),
                (current, watched) => current.is_none() && watched.is_none(),
            };
            if is_same {
                continue;
            }
            if watched.is_some() {
                self.unwatch(&folder);
            }
            let watching = match &mut self.watcher {
                Some(watcher) if current.is_some() => watcher.watch(&folder, RecursiveMode::NonRecursive),
                _ => continue,
            };
            match watching {
                Ok(()) => drop(self.folders.insert(folder.clone(), current)),
                Err(error) => self.warn(&error),
            }
            // The end of a write that is in progress will not be reported, or was not.
            self.states.forget_writes(&folder);
        }
    }

    fn unwatch(&mut self, folder: &Path) {
        if let Some(watcher) = &mut self.watcher {
            // Fails if the directory was deleted, because then the system has removed the watch already.
            watcher.unwatch(folder).ok();
        }
        if let Some(watched) = self.folders.get_mut(folder) {
            *watched = None;
        }
    }

    fn warn(&mut self, error: &notify::Error) {
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(%error, "the system does not report changed files; they are checked every {CHECK_INTERVAL:?}");
        }
    }
}
