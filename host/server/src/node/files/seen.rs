//! What was seen of each file, and which of them may be read. Knows no file system, and of the clock what it is told.

use super::Happened;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use switchyard_process::file::FileStamp;

/// A file that somebody has written to and not closed is read all the same once it has stayed the same for so long: what changes a file by
/// its name, as `truncate` may, is told of as if somebody wrote, and there is nothing to be closed.
const UNCLOSED: Duration = Duration::from_secs(30);

/// So many files, one after the other, in the place of one that was read: they are put there whole, faster than anybody looks.
const REPLACED: u32 = 2;

#[derive(Default)]
pub(super) struct Seen(HashMap<PathBuf, File>);

struct File {
    /// As it was when somebody was last told to read it.
    taken: Option<FileStamp>,
    /// As it was at the last look.
    last: Option<FileStamp>,
    /// Somebody has written to it and not yet closed it; since when it stays the same.
    written: Option<Instant>,
    /// How often another file was in its place since it was taken.
    replaced: u32,
}

impl File {
    fn new(stamp: Option<FileStamp>) -> Self {
        Self { taken: stamp, last: stamp, written: None, replaced: 0 }
    }

    fn has_changed(&self) -> bool {
        self.last != self.taken
    }

    /// Whether it is to be read: it has changed, and nobody seems to be at it.
    fn look(&mut self, now: Option<FileStamp>, at: Instant) -> bool {
        let is_settled = now == self.last;
        if !is_same_file(now, self.last) {
            (self.written, self.replaced) = (None, self.replaced + 1);
        }
        self.written = match self.written {
            Some(_) if !is_settled => Some(at),
            Some(since) if at.saturating_duration_since(since) >= UNCLOSED => None,
            written => written,
        };
        self.last = now;
        let is_due =
            self.has_changed() && self.written.is_none() && (is_settled || self.replaced >= REPLACED);
        if !self.has_changed() {
            self.replaced = 0;
        }
        if is_due {
            *self = Self::new(now);
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

impl Seen {
    /// Those that are new are looked at before they are read; of others what was seen holds.
    pub(super) fn follow(&mut self, files: Vec<PathBuf>, stamp: impl Fn(&Path) -> Option<FileStamp>) {
        let mut before = std::mem::take(&mut self.0);
        let known = |path: PathBuf| {
            let file = before.remove(&path).unwrap_or_else(|| File::new(stamp(&path)));
            (path, file)
        };
        self.0 = files.into_iter().map(known).collect();
    }

    /// The system says what happened to a file. Whether it is to be read.
    pub(super) fn told(
        &mut self,
        path: &Path,
        happened: Happened,
        at: Instant,
        stamp: impl Fn(&Path) -> Option<FileStamp>,
    ) -> bool {
        let Some(file) = self.0.get_mut(path) else { return false };
        match happened {
            Happened::Written => file.written = Some(at),
            Happened::Whole => *file = File::new(stamp(path)),
        }
        happened == Happened::Whole
    }

    /// Anything may have happened. Whether there is something to be read.
    pub(super) fn take(&mut self, stamp: impl Fn(&Path) -> Option<FileStamp>) -> bool {
        let mut is_due = false;
        for (path, file) in &mut self.0 {
            let now = stamp(path);
            is_due |= now != file.taken;
            *file = File::new(now);
        }
        is_due
    }

    /// Looks at all of them. Whether there is something to be read.
    pub(super) fn look(&mut self, at: Instant, stamp: impl Fn(&Path) -> Option<FileStamp>) -> bool {
        let mut is_due = false;
        for (path, file) in &mut self.0 {
            is_due |= file.look(stamp(path), at);
        }
        is_due
    }

    /// Whether one has changed and is not read yet, so that it is to be looked at again soon.
    pub(super) fn is_unsettled(&self) -> bool {
        self.0.values().any(|file| file.has_changed() && file.written.is_none())
    }

    /// Nobody will tell of those who close files there.
    pub(super) fn forget_writers(&mut self, folder: &Path) {
        let there = self.0.iter_mut().filter(|(path, _)| path.parent() == Some(folder));
        there.for_each(|(_, file)| file.written = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Write, os::unix::fs::symlink};

    /// A folder with one file that is followed.
    struct Place(tempfile::TempDir, Seen, Instant);

    impl Place {
        fn new() -> Self {
            let mut place = Self(tempfile::tempdir().unwrap(), Seen::default(), Instant::now());
            fs::write(place.file(), "one").unwrap();
            place.1.follow(vec![place.file()], FileStamp::of);
            assert!(!place.look() && !place.1.is_unsettled(), "nothing happened");
            place
        }

        fn file(&self) -> PathBuf {
            self.0.path().join("file")
        }

        /// A second after the last look.
        fn look(&mut self) -> bool {
            self.2 += Duration::from_secs(1);
            self.1.look(self.2, FileStamp::of)
        }

        fn told(&mut self, happened: Happened) -> bool {
            let file = self.file();
            self.1.told(&file, happened, self.2, FileStamp::of)
        }

        fn replace(&self, text: &str) {
            let new = self.0.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, self.file()).unwrap();
        }
    }

    #[test]
    fn a_change_is_told_once_when_two_looks_saw_the_same() {
        let mut place = Place::new();
        place.replace("two");
        assert!(!place.look() && place.1.is_unsettled());
        assert!(place.look());
        assert!(!place.look() && !place.1.is_unsettled());
        fs::remove_file(place.file()).unwrap();
        assert!(!place.look() && place.look() && !place.look(), "what is gone has changed as well");
    }

    #[test]
    fn what_the_system_told_of_is_not_told_again() {
        let mut place = Place::new();
        place.replace("two");
        assert!(place.told(Happened::Whole));
        assert!(!place.look() && !place.look());
    }

    #[test]
    fn a_file_that_grows_is_left_alone_until_it_stays() {
        let mut place = Place::new();
        let mut file = fs::File::create(place.file()).unwrap();
        for _ in 0..10 {
            file.write_all(b"more").unwrap();
            assert!(!place.look());
        }
        assert!(place.look());
    }

    #[test]
    fn a_file_that_somebody_has_open_is_left_alone() {
        let mut place = Place::new();
        let mut file = fs::File::create(place.file()).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!place.told(Happened::Written));
        assert!((0..29).all(|_| !place.look()));
        assert!(!place.1.is_unsettled(), "whoever closes it will be told of");
        assert!(place.told(Happened::Whole));
        // Unless it is another file by then, or nobody tells any more.
        place.told(Happened::Written);
        place.replace("two");
        assert!(!place.look() && place.look());
        place.told(Happened::Written);
        fs::write(place.file(), "three times").unwrap();
        let folder = place.0.path().to_owned();
        place.1.forget_writers(&folder);
        assert!(!place.look() && place.look());
    }

    #[test]
    fn a_file_that_nobody_closes_is_read_when_it_has_stayed_the_same() {
        let mut place = Place::new();
        let cut = |place: &Place, length: u64| {
            fs::File::options().write(true).open(place.file()).unwrap().set_len(length).unwrap();
        };
        // As the system tells of `truncate`.
        cut(&place, 2);
        assert!(!place.told(Happened::Written));
        assert!((0..20).all(|_| !place.look()));
        // Another write begins it anew, whether it is told of or only seen.
        cut(&place, 1);
        assert!((0..30).all(|_| !place.look()));
        assert!(place.look() && !place.look());
        cut(&place, 0);
        assert!(!place.look() && place.look(), "what comes later is read as soon as ever");
    }

    #[test]
    fn a_file_that_is_replaced_all_the_time_is_read_all_the_same() {
        let mut place = Place::new();
        let mut looks = 0;
        let told = (0..10).any(|n| {
            looks += 1;
            place.replace(&format!("number {n}"));
            place.look()
        });
        assert!(told && looks <= 3, "{looks} looks");
    }

    #[test]
    fn a_folder_that_is_a_link_may_lead_elsewhere() {
        let (folder, mut seen) = (tempfile::tempdir().unwrap(), Seen::default());
        for name in ["one", "two"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("file"), "the same").unwrap();
        }
        let (current, new) = (folder.path().join("current"), folder.path().join("new"));
        symlink("one", &current).unwrap();
        seen.follow(vec![current.join("file")], FileStamp::of);
        symlink("two", &new).unwrap();
        fs::rename(new, current).unwrap();
        let now = Instant::now();
        assert!(
            !seen.look(now, FileStamp::of) && seen.look(now, FileStamp::of) && !seen.look(now, FileStamp::of)
        );
    }
}
