//! Tells when files that the node is made of have changed: at once where the system says so, and within seconds whatever it says. A thread
//! of its own looks at where each path leads, because a folder that is a link, comes later, is renamed or is on another machine is told of
//! by nobody.

mod seen;

use crate::{
    file::{NotTaken, Stamp},
    vital::Vitals,
};
use arc_swap::ArcSwap;
use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};
use seen::Seen;
use std::{
    collections::{HashMap, HashSet},
    io,
    os::unix::fs::MetadataExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, oneshot};

/// Between two looks at all files, and before one that has changed is looked at again: it is read when both looks saw the same. Both together
/// leave time to read it within 5 s of the change.
const LOOK: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_secs(1);
/// How long whoever wants files read waits for it. A file system on another machine may answer never.
const READ: Duration = Duration::from_secs(30);

/// Where paths led at some moment; `None`: nowhere.
pub type Stamps = HashMap<PathBuf, Option<Stamp>>;

/// Blocks as file systems do.
pub fn stamps(files: impl IntoIterator<Item = PathBuf>) -> Stamps {
    let absolute = files.into_iter().filter_map(|file| std::path::absolute(file).ok());
    absolute.map(|file| (file.clone(), Stamp::of(&file))).collect()
}

pub struct Files {
    changed: Arc<Notify>,
    orders: Sender<Order>,
}

enum Order {
    Follow(Stamps),
    /// The system says that this happened to a file.
    Told(PathBuf, Happened),
    /// It may have happened to any.
    Any,
    Work(Box<dyn FnOnce() + Send>),
    End,
    #[cfg(test)]
    Panic,
}

/// Has what reads files done on the thread that looks at them: it is there already when the system gives no more.
#[derive(Clone)]
pub struct Reader(Sender<Order>);

/// Why files were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadFault {
    #[error("reading files panicked, which is a fault of the program")]
    Panicked,
    #[error("reading files does not come to an end: a file system does not answer; send SIGHUP when it does")]
    Endless,
}

impl From<ReadFault> for NotTaken {
    fn from(fault: ReadFault) -> Self {
        Self::Unread(fault.to_string())
    }
}

impl Reader {
    /// What comes too late is not done, or comes to nothing: the work gives what it read and changes nothing itself.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ReadFault> {
        let (done, is_done) = oneshot::channel();
        let work = move || {
            if !done.is_closed() {
                done.send(work()).ok();
            }
        };
        self.0.send(Order::Work(Box::new(work))).ok();
        match tokio::time::timeout(READ, is_done).await {
            Ok(read) => read.map_err(|_| ReadFault::Panicked),
            Err(_) => Err(ReadFault::Endless),
        }
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
    /// Follows nothing yet.
    pub fn start(vitals: &Vitals) -> io::Result<Self> {
        let (orders, taken) = channel();
        let changed = Arc::new(Notify::new());
        let follower = Follower::new(orders.clone(), Arc::downgrade(&changed));
        vitals.thread("the thread that looks at files".into(), move || follower.run(&taken))?;
        Ok(Self { changed, orders })
    }

    pub fn reader(&self) -> Reader {
        Reader(self.orders.clone())
    }

    /// From now on these files are followed and no others. What happens to one after its stamp was taken is told.
    pub fn follow(&self, files: Stamps) {
        self.orders.send(Order::Follow(files)).ok();
    }

    /// Returns when a file may be read that has changed, however often it did.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.orders.send(Order::End).ok();
    }
}

struct Follower {
    seen: Seen,
    /// The folders of the files, as they are watched; `None`: not yet.
    folders: HashMap<PathBuf, Option<Stamp>>,
    watcher: Option<RecommendedWatcher>,
    /// Those that the system's events are about.
    files: Arc<ArcSwap<HashSet<PathBuf>>>,
    changed: Weak<Notify>,
    has_warned: bool,
}

impl Follower {
    fn new(orders: Sender<Order>, changed: Weak<Notify>) -> Self {
        let files = Arc::new(ArcSwap::from_pointee(HashSet::new()));
        let mut follower = Self {
            seen: Seen::default(),
            folders: HashMap::new(),
            watcher: None,
            files: files.clone(),
            changed,
            has_warned: false,
        };
        // A watcher does not say that the system has no thread for it: what it was given is dropped then, and it panics when it is
        // used or dropped.
        let alive = Arc::new(());
        let held = alive.clone();
        let handler = move |event: notify::Result<Event>| {
            let _held = &held;
            let Ok(event) = event else { return };
            for order in told(&event, &files.load()) {
                orders.send(order).ok();
            }
        };
        match notify::recommended_watcher(handler) {
            Ok(watcher) if Arc::strong_count(&alive) == 1 => {
                std::mem::forget(watcher);
                follower.warn(&std::io::Error::from(std::io::ErrorKind::WouldBlock).into());
            }
            Ok(watcher) => follower.watcher = Some(watcher),
            Err(error) => follower.warn(&error),
        }
        follower
    }

    fn run(mut self, orders: &Receiver<Order>) {
        let mut next = Instant::now() + LOOK;
        loop {
            let order = orders.recv_timeout(next.saturating_duration_since(Instant::now()));
            // Nobody waits for changes any more.
            let Some(changed) = self.changed.upgrade() else { return };
            let mut is_told = match order {
                Ok(Order::Follow(files)) => {
                    self.follow(files);
                    false
                }
                Ok(Order::Told(file, happened)) => self.seen.told(&file, happened, Instant::now(), Stamp::of),
                Ok(Order::Any) => self.seen.take(Stamp::of),
                Ok(Order::Work(work)) => {
                    // A panic is told to who asked.
                    catch_unwind(AssertUnwindSafe(work)).ok();
                    false
                }
                Ok(Order::End) | Err(RecvTimeoutError::Disconnected) => return,
                #[cfg(test)]
                Ok(Order::Panic) => panic!("on purpose"),
                Err(RecvTimeoutError::Timeout) => false,
            };
            if Instant::now() >= next {
                self.watch_folders();
                is_told |= self.seen.look(Instant::now(), Stamp::of);
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

    fn follow(&mut self, files: Stamps) {
        let folder = |file: &PathBuf| Some((file.parent()?.to_owned(), None));
        let mut folders: HashMap<_, _> = files.keys().filter_map(folder).collect();
        for (folder, watched) in std::mem::take(&mut self.folders) {
            match folders.get_mut(&folder) {
                Some(same) => *same = watched,
                None => self.unwatch(&folder),
            }
        }
        self.folders = folders;
        self.files.store(Arc::new(files.keys().cloned().collect()));
        self.seen.follow(files);
        self.watch_folders();
    }

    /// Has each folder watched that is where the path leads now.
    fn watch_folders(&mut self) {
        for folder in self.folders.keys().cloned().collect::<Vec<_>>() {
            let (there, watched) = (Stamp::of(&folder), self.folders[&folder]);
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

/// What an event says of these files.
fn told(event: &Event, files: &HashSet<PathBuf>) -> Vec<Order> {
    if event.need_rescan() {
        return vec![Order::Any];
    }
    let order = |path: &PathBuf| {
        // Mounted secrets are replaced by moving the link `..data` beside them.
        let is_beside = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".."));
        if !is_beside && !files.contains(path) {
            return None;
        }
        match happened(event.kind, path)? {
            Happened::Whole if is_beside => Some(Order::Any),
            _ if is_beside => None,
            happened => Some(Order::Told(path.clone(), happened)),
        }
    };
    event.paths.iter().filter_map(order).collect()
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

    #[tokio::test(start_paused = true)]
    async fn reading_that_does_not_end_is_an_error_and_what_comes_after_it_is_read() {
        let files = Files::start(&Vitals::default()).unwrap();
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
        let vitals = Vitals::default();
        let files = Files::start(&vitals).unwrap();
        files.orders.send(Order::Panic).unwrap();
        tokio::time::timeout(Duration::from_secs(10), vitals.failed()).await.unwrap();
        assert_eq!(vitals.failure(), Some("the thread that looks at files panicked: on purpose"));
        assert_eq!(files.reader().run(|| 1).await, Err(ReadFault::Panicked));
    }
}
