//! The last known state of each file, and the decision when a changed file is read. Uses neither the file
//! system nor the clock.

use super::events::FileEvent;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use switchyard_process::file::FileStamp;

/// A file that a process has written to and not closed is read once it has been unchanged for this long. The
/// system also reports a write when a file is changed by name, as `truncate` does, and then no close follows.
const MAX_WAIT_FOR_CLOSE: Duration = Duration::from_secs(30);

/// A file that was replaced so often is read even if no two checks in a row saw the same one: files that are
/// moved into place are complete.
const MAX_REPLACEMENTS: u32 = 2;

#[derive(Default)]
pub(super) struct FileStates(HashMap<PathBuf, FileState>);

struct FileState {
    /// The state that was last reported as changed, or at first.
    reported: Option<FileStamp>,
    /// The state at the last check.
    checked: Option<FileStamp>,
    /// Since when the file has been unchanged, if a process has written to it and not closed it.
    written: Option<Instant>,
    /// How often it was replaced by another file since it was reported.
    replacements: u32,
}

impl FileState {
    fn new(stamp: Option<FileStamp>) -> Self {
        Self { reported: stamp, checked: stamp, written: None, replacements: 0 }
    }

    fn has_changed(&self) -> bool {
        self.checked != self.reported
    }

    /// Compares the current state. Returns whether the file has to be read: it has changed, and no process
    /// seems to be writing to it.
    fn check(&mut self, current: Option<FileStamp>, now: Instant) -> bool {
        let is_settled = current == self.checked;
        if !is_same_file(current, self.checked) {
            (self.written, self.replacements) = (None, self.replacements + 1);
        }
        self.written = match self.written {
            Some(_) if !is_settled => Some(now),
            Some(since) if now.saturating_duration_since(since) >= MAX_WAIT_FOR_CLOSE => None,
            written => written,
        };
        self.checked = current;
        let is_due = self.has_changed()
            && self.written.is_none()
            && (is_settled || self.replacements >= MAX_REPLACEMENTS);
        if !self.has_changed() {
            self.replacements = 0;
        }
        if is_due {
            *self = Self::new(current);
        }
        is_due
    }
}

fn is_same_file(one: Option<FileStamp>, other: Option<FileStamp>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.is_same_file(&other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

impl FileStates {
    /// Tracks these files from now on, and no others. Files that were tracked before keep their state.
    pub(super) fn track(&mut self, files: Vec<PathBuf>, stamp: impl Fn(&Path) -> Option<FileStamp>) {
        let mut before = std::mem::take(&mut self.0);
        let known = |path: PathBuf| {
            let file = before.remove(&path).unwrap_or_else(|| FileState::new(stamp(&path)));
            (path, file)
        };
        self.0 = files.into_iter().map(known).collect();
    }

    /// Applies an event of a file. Returns whether the file has to be read.
    pub(super) fn apply(
        &mut self,
        path: &Path,
        event: FileEvent,
        now: Instant,
        stamp: impl Fn(&Path) -> Option<FileStamp>,
    ) -> bool {
        let Some(file) = self.0.get_mut(path) else { return false };
        match event {
            FileEvent::Written => file.written = Some(now),
            FileEvent::Complete => *file = FileState::new(stamp(path)),
        }
        event == FileEvent::Complete
    }

    /// Compares all files without waiting until they settle. Returns whether at least one has to be read.
    pub(super) fn recheck_all(&mut self, stamp: impl Fn(&Path) -> Option<FileStamp>) -> bool {
        let mut is_due = false;
        for (path, file) in &mut self.0 {
            let current = stamp(path);
            is_due |= current != file.reported;
            *file = FileState::new(current);
        }
        is_due
    }

    /// Compares all files. Returns whether at least one has to be read.
    pub(super) fn check(&mut self, now: Instant, stamp: impl Fn(&Path) -> Option<FileStamp>) -> bool {
        let mut is_due = false;
        for (path, file) in &mut self.0 {
            is_due |= file.check(stamp(path), now);
        }
        is_due
    }

    /// Whether a file has changed and was not reported yet, so that it has to be checked again soon.
    pub(super) fn has_unsettled(&self) -> bool {
        self.0.values().any(|file| file.has_changed() && file.written.is_none())
    }

    /// Forgets which files of a directory are being written to, because the system will not report when they
    /// are closed.
    pub(super) fn forget_writes(&mut self, folder: &Path) {
        let inside = self.0.iter_mut().filter(|(path, _)| path.parent() == Some(folder));
        inside.for_each(|(_, file)| file.written = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Write, os::unix::fs::symlink};

    /// A directory with one file that is tracked.
    struct Fixture {
        folder: tempfile::TempDir,
        states: FileStates,
        now: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            let (folder, states) = (tempfile::tempdir().unwrap(), FileStates::default());
            let mut fixture = Self { folder, states, now: Instant::now() };
            fs::write(fixture.file(), "one").unwrap();
            fixture.states.track(vec![fixture.file()], FileStamp::of);
            assert!(!fixture.check() && !fixture.states.has_unsettled(), "nothing has changed");
            fixture
        }

        fn file(&self) -> PathBuf {
            self.folder.path().join("file")
        }

        /// Checks the file, a second after the last check.
        fn check(&mut self) -> bool {
            self.now += Duration::from_secs(1);
            self.states.check(self.now, FileStamp::of)
        }

        fn apply(&mut self, event: FileEvent) -> bool {
            let file = self.file();
            self.states.apply(&file, event, self.now, FileStamp::of)
        }

        fn replace(&self, text: &str) {
            let new = self.folder.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, self.file()).unwrap();
        }
    }

    #[test]
    fn a_change_is_reported_once_after_two_equal_checks() {
        let mut fixture = Fixture::new();
        fixture.replace("two");
        assert!(!fixture.check() && fixture.states.has_unsettled());
        assert!(fixture.check());
        assert!(!fixture.check() && !fixture.states.has_unsettled());
        fs::remove_file(fixture.file()).unwrap();
        assert!(
            !fixture.check() && fixture.check() && !fixture.check(),
            "a deleted file has changed as well"
        );
    }

    #[test]
    fn a_change_that_the_system_reported_is_not_reported_again() {
        let mut fixture = Fixture::new();
        fixture.replace("two");
        assert!(fixture.apply(FileEvent::Complete));
        assert!(!fixture.check() && !fixture.check());
    }

    #[test]
    fn a_growing_file_is_reported_when_it_stops_growing() {
        let mut fixture = Fixture::new();
        let mut file = fs::File::create(fixture.file()).unwrap();
        for _ in 0..10 {
            file.write_all(b"more").unwrap();
            assert!(!fixture.check());
        }
        assert!(fixture.check());
    }

    #[test]
    fn a_file_that_is_open_for_writing_is_not_reported() {
        let mut fixture = Fixture::new();
        let mut file = fs::File::create(fixture.file()).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!fixture.apply(FileEvent::Written));
        assert!((0..29).all(|_| !fixture.check()));
        assert!(!fixture.states.has_unsettled(), "the system will report when it is closed");
        assert!(fixture.apply(FileEvent::Complete));
        // Unless it was replaced by another file, or the directory is not watched any more.
        fixture.apply(FileEvent::Written);
        fixture.replace("two");
        assert!(!fixture.check() && fixture.check());
        fixture.apply(FileEvent::Written);
        fs::write(fixture.file(), "three times").unwrap();
        let folder = fixture.folder.path().to_owned();
        fixture.states.forget_writes(&folder);
        assert!(!fixture.check() && fixture.check());
    }

    #[test]
    fn a_file_that_is_never_closed_is_reported_after_it_was_unchanged_for_long() {
        let mut fixture = Fixture::new();
        let truncate = |fixture: &Fixture, length: u64| {
            fs::File::options().write(true).open(fixture.file()).unwrap().set_len(length).unwrap();
        };
        // The system reports `truncate` like this.
        truncate(&fixture, 2);
        assert!(!fixture.apply(FileEvent::Written));
        assert!((0..20).all(|_| !fixture.check()));
        // Another write restarts the wait, whether it is reported or only found by a check.
        truncate(&fixture, 1);
        assert!((0..30).all(|_| !fixture.check()));
        assert!(fixture.check() && !fixture.check());
        truncate(&fixture, 0);
        assert!(!fixture.check() && fixture.check(), "later changes are reported as usual");
    }

    #[test]
    fn a_file_that_is_replaced_all_the_time_is_still_reported() {
        let mut fixture = Fixture::new();
        let mut checks = 0;
        let is_reported = (0..10).any(|n| {
            checks += 1;
            fixture.replace(&format!("number {n}"));
            fixture.check()
        });
        assert!(is_reported && checks <= 3, "{checks} checks");
    }

    #[test]
    fn a_redirected_link_to_the_directory_is_a_change() {
        let (folder, mut states) = (tempfile::tempdir().unwrap(), FileStates::default());
        for name in ["one", "two"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("file"), "the same").unwrap();
        }
        let (current, new) = (folder.path().join("current"), folder.path().join("new"));
        symlink("one", &current).unwrap();
        states.track(vec![current.join("file")], FileStamp::of);
        symlink("two", &new).unwrap();
        fs::rename(new, current).unwrap();
        let now = Instant::now();
        let mut check = || states.check(now, FileStamp::of);
        assert!(!check() && check() && !check());
    }
}
