//! Tells when files that the node is made of have changed: at once where the system says so, and within seconds whatever it says. A thread
//! of its own looks at where each path leads, because a folder that is a link, comes later, is renamed or is on another machine is told of
//! by nobody. A file system that does not answer holds up that thread and what is read on it, and nobody else.

mod orders;
mod seen;

use arc_swap::ArcSwap;
use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};
use orders::{Follow, Orders};
use seen::Seen;
use std::{
    collections::{HashMap, HashSet},
    io,
    os::unix::fs::MetadataExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use switchyard_process::{
    file::{FileStamp, UnusableFile},
    vital::VitalTasks,
};
use tokio::{
    sync::{Notify, Semaphore, oneshot},
    time::timeout,
};

/// Between two looks at all files, and before one that has changed is looked at again: it is read when both looks saw the same. Both together
/// leave time to read it within 5 s of the change.
const LOOK: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_secs(1);
/// How long whoever wants files read waits for it. A file system on another machine may answer never.
const READ: Duration = Duration::from_secs(30);
/// How long whoever wants files followed waits until they are.
const FOLLOW: Duration = Duration::from_secs(1);

pub(super) struct Files {
    changed: Arc<Notify>,
    reader: Reader,
}

/// Has what reads files done on the thread that looks at them: it is there already when the system gives no more.
#[derive(Clone)]
pub struct Reader {
    orders: Arc<Orders>,
    /// There is one piece of work at a time, so that those which nobody awaits any more do not gather behind one that does not end.
    turn: Arc<Semaphore>,
}

/// Why files were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadFault {
    #[error("reading files panicked, which is a fault of the program")]
    Panicked,
    #[error("reading files does not come to an end: a file system does not answer")]
    Endless,
}

impl From<ReadFault> for UnusableFile {
    fn from(fault: ReadFault) -> Self {
        Self::Temporary(fault.to_string())
    }
}

impl Reader {
    /// What comes too late is not done, or comes to nothing: the work gives what it read and changes nothing itself.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ReadFault> {
        timeout(READ, self.wait(work)).await.unwrap_or(Err(ReadFault::Endless))
    }

    /// The same, however long it takes.
    pub async fn wait<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ReadFault> {
        let turn = self.turn.clone().acquire_owned().await.expect("it is never closed");
        let (done, is_done) = oneshot::channel();
        let work = move || {
            let _turn = turn;
            if !done.is_closed() {
                done.send(work()).ok();
            }
        };
        self.orders.put(|orders| orders.work = Some(Box::new(work)));
        is_done.await.map_err(|_| ReadFault::Panicked)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happened {
    /// Somebody is writing to it, and will close it.
    Written,
    /// It is there as a whole: closed, or put into its place.
    Whole,
}

impl Files {
    /// Follows nothing yet. `whose` files they are is the end of the thread's name.
    pub(super) fn start(vitals: &VitalTasks, whose: &str) -> io::Result<Self> {
        let (orders, changed) = (Arc::<Orders>::default(), Arc::new(Notify::new()));
        let follower = Follower::new(orders.clone(), Arc::downgrade(&changed));
        vitals.spawn_thread(format!("the thread that looks at {whose}"), move || follower.run())?;
        Ok(Self { changed, reader: Reader { orders, turn: Arc::new(Semaphore::new(1)) } })
    }

    pub(super) fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// From now on these files are followed and no others. Whoever reads them awaits that first. Where a file system does not answer, it is an
    /// error; but they are followed as soon as it does, and told to have changed then, since what happened to them before is not known.
    pub(super) fn follow(&self, files: Vec<PathBuf>) -> impl Future<Output = Result<(), ReadFault>> + use<> {
        let (done, is_done) = oneshot::channel();
        self.order(files, Some(done));
        async { timeout(FOLLOW, is_done).await.ok().and_then(Result::ok).ok_or(ReadFault::Endless) }
    }

    /// The same for files that are read on this thread alone, which comes after that.
    pub(super) fn follow_own(&self, files: Vec<PathBuf>) {
        self.order(files, None);
    }

    fn order(&self, files: Vec<PathBuf>, done: Option<oneshot::Sender<()>>) {
        let files = files.into_iter().filter_map(|file| std::path::absolute(file).ok()).collect();
        self.reader.orders.put(|orders| orders.follow = Some(Follow { files, done }));
    }

    /// Returns when a file may be read that has changed, however often it did.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.reader.orders.put(|orders| orders.end = true);
    }
}

struct Follower {
    orders: Arc<Orders>,
    seen: Seen,
    /// The folders of the files, as they are watched; `None`: not yet.
    folders: HashMap<PathBuf, Option<FileStamp>>,
    /// Where the system tells of files. There is none before there are files.
    watcher: Option<RecommendedWatcher>,
    /// Those that the system's events are about.
    files: Arc<ArcSwap<HashSet<PathBuf>>>,
    changed: Weak<Notify>,
    has_begun: bool,
    has_warned: bool,
}

impl Drop for Follower {
    /// Also when it panics: nobody is to wait for it.
    fn drop(&mut self) {
        self.orders.close();
    }
}

impl Follower {
    fn new(orders: Arc<Orders>, changed: Weak<Notify>) -> Self {
        Self {
            orders,
            seen: Seen::default(),
            folders: HashMap::new(),
            watcher: None,
            files: Arc::new(ArcSwap::from_pointee(HashSet::new())),
            changed,
            has_begun: false,
            has_warned: false,
        }
    }

    /// Asks the system to tell of files.
    fn begin(&mut self) {
        let (orders, files) = (self.orders.clone(), self.files.clone());
        // A watcher does not say that the system has no thread for it: what it was given is dropped then, and it panics when it is
        // used or dropped.
        let alive = Arc::new(());
        let held = alive.clone();
        let handler = move |event: notify::Result<Event>| {
            let _held = &held;
            let Ok(event) = event else { return };
            tell(&event, &files.load(), &orders);
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

    fn run(mut self) {
        let orders = self.orders.clone();
        let mut next = Instant::now() + LOOK;
        loop {
            let batch = orders.take(next);
            // Nobody waits for changes any more.
            let Some(changed) = self.changed.upgrade() else { return };
            if batch.end {
                return;
            }
            #[cfg(test)]
            assert!(!batch.panic, "on purpose");
            let mut is_told = batch.follow.is_some_and(|follow| self.follow(follow));
            is_told |= batch.any && self.seen.take(FileStamp::of);
            for (file, happened) in batch.told {
                is_told |= self.seen.told(&file, happened, Instant::now(), FileStamp::of);
            }
            if let Some(work) = batch.work {
                // A panic is told to who asked.
                catch_unwind(AssertUnwindSafe(work)).ok();
            }
            if Instant::now() >= next {
                self.watch_folders();
                is_told |= self.seen.look(Instant::now(), FileStamp::of);
                next = Instant::now() + LOOK;
            }
            if self.seen.is_unsettled() {
                next = next.min(Instant::now() + AGAIN);
            }
            if is_told {
                changed.notify_one();
            }
        }
    }

    /// Whether they are to be read, because nobody awaited that they are followed.
    fn follow(&mut self, Follow { files, done }: Follow) -> bool {
        if !self.has_begun && !files.is_empty() {
            self.has_begun = true;
            self.begin();
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
        self.seen.follow(files, FileStamp::of);
        let is_late = done.is_some_and(|done| done.send(()).is_err());
        self.watch_folders();
        is_late
    }

    /// Has each folder watched that is where the path leads now.
    fn watch_folders(&mut self) {
        for folder in self.folders.keys().cloned().collect::<Vec<_>>() {
            let (there, watched) = (FileStamp::of(&folder), self.folders[&folder]);
            let is_same = match (&there, &watched) {
                (Some(there), Some(watched)) => there.is_same_file(watched),
                (there, watched) => there.is_none() && watched.is_none(),
            };
            if is_same {
                continue;
            }
            if watched.is_some() {
                self.unwatch(&folder);
            }
            let watching = match &mut self.watcher {
                Some(watcher) if there.is_some() => watcher.watch(&folder, RecursiveMode::NonRecursive),
                _ => continue,
            };
            match watching {
                Ok(()) => drop(self.folders.insert(folder.clone(), there)),
                Err(error) => self.warn(&error),
            }
            // Who writes there now is not told of any more, or not yet.
            self.seen.forget_writers(&folder);
        }
    }

    fn unwatch(&mut self, folder: &Path) {
        if let Some(watcher) = &mut self.watcher {
            // It may be gone, and with it what watched it.
            watcher.unwatch(folder).ok();
        }
        if let Some(watched) = self.folders.get_mut(folder) {
            *watched = None;
        }
    }

    fn warn(&mut self, error: &notify::Error) {
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(%error, "the system does not tell of changed files; they are looked at every {LOOK:?}");
        }
    }
}

/// Says what an event says of these files.
fn tell(event: &Event, files: &HashSet<PathBuf>, orders: &Orders) {
    if event.need_rescan() {
        return orders.put(|orders| orders.any = true);
    }
    for path in &event.paths {
        // Mounted secrets are replaced by moving the link `..data` beside them.
        let is_beside = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".."));
        if !is_beside && !files.contains(path) {
            continue;
        }
        match happened(event.kind, path) {
            Some(Happened::Whole) if is_beside => orders.put(|orders| orders.any = true),
            Some(happened) if !is_beside => {
                orders.put(|orders| _ = orders.told.insert(path.clone(), happened));
            }
            _ => {}
        }
    }
}

fn happened(kind: EventKind, path: &Path) -> Option<Happened> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Happened::Whole),
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => None,
        EventKind::Modify(ModifyKind::Name(_)) => Some(Happened::Whole),
        // A link is there at once, anything else is written to first.
        EventKind::Create(_) => {
            let is_link = |file: std::fs::Metadata| file.is_symlink() || file.nlink() > 1;
            path.symlink_metadata().is_ok_and(is_link).then_some(Happened::Whole)
        }
        // Elsewhere nobody tells when a file is closed.
        EventKind::Modify(ModifyKind::Data(_)) if cfg!(target_os = "linux") => Some(Happened::Written),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn files() -> Files {
        Files::start(&VitalTasks::default(), "files").unwrap()
    }

    /// Keeps the thread as a file system does that does not answer, until what it gives is dropped.
    async fn stuck(files: &Files) -> mpsc::Sender<()> {
        let ((end, ends), (begin, begins)) = (mpsc::channel::<()>(), oneshot::channel());
        let reader = files.reader();
        let work = move || (begin.send(()).ok(), ends.recv().ok());
        tokio::spawn(async move { reader.wait(work).await });
        begins.await.unwrap();
        end
    }

    #[tokio::test(start_paused = true)]
    async fn reading_that_does_not_end_is_an_error_and_what_comes_after_it_is_read() {
        let files = files();
        let (reader, (end, ends)) = (files.reader(), mpsc::channel::<()>());
        let stuck = reader.run(move || ends.recv().ok());
        assert_eq!(stuck.await, Err(ReadFault::Endless));
        let (late, is_late) = mpsc::channel();
        assert_eq!(reader.run(move || late.send(()).ok()).await, Err(ReadFault::Endless));
        end.send(()).unwrap();
        tokio::time::resume();
        assert_eq!(reader.run(|| 7).await, Ok(7));
        assert!(is_late.try_recv().is_err(), "nobody awaits it any more");
        assert_eq!(reader.run(|| panic!("on purpose")).await, Err::<(), _>(ReadFault::Panicked));
        assert_eq!(reader.run(|| 8).await, Ok(8));
    }

    #[tokio::test]
    async fn a_thread_of_files_that_panics_ends_the_node() {
        let vitals = VitalTasks::default();
        let files = Files::start(&vitals, "files").unwrap();
        files.reader.orders.put(|orders| orders.panic = true);
        timeout(PATIENCE, vitals.failed()).await.unwrap();
        assert_eq!(vitals.failure(), Some("the thread that looks at files panicked: on purpose"));
        assert_eq!(files.reader().run(|| 1).await, Err(ReadFault::Panicked));
    }

    #[tokio::test]
    async fn files_that_could_not_be_followed_in_time_are_followed_later_and_read_then() {
        let (files, folder) = (files(), tempfile::tempdir().unwrap());
        let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
        files.follow(vec![first]).await.unwrap();
        let end = stuck(&files).await;
        assert_eq!(files.follow(vec![second.clone()]).await, Err(ReadFault::Endless));
        assert!(timeout(Duration::from_millis(100), files.changed()).await.is_err());
        drop(end);
        timeout(PATIENCE, files.changed()).await.expect("what happened meanwhile is not known");
        std::fs::write(second, "text").unwrap();
        timeout(PATIENCE, files.changed()).await.expect("it is followed");
    }

    #[tokio::test]
    async fn events_do_not_gather_while_a_file_system_does_not_answer() {
        let (files, folder) = (files(), tempfile::tempdir().unwrap());
        let file = folder.path().join("file");
        files.follow(vec![file.clone()]).await.unwrap();
        let end = stuck(&files).await;
        let kind = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let (event, followed) = (Event::new(kind).add_path(file.clone()), HashSet::from([file]));
        for _ in 0..10_000 {
            tell(&event, &followed, &files.reader.orders);
        }
        assert_eq!(files.reader.orders.told(), 1);
        drop(end);
        timeout(PATIENCE, files.changed()).await.expect("it is told all the same");
    }
}
