//! Notices when files that the node uses have changed: at once if the system reports it, and within seconds
//! in any case. Does not know what is in the files.
//!
//! A thread compares the state of each file regularly, because the system does not report everything: not if
//! a directory is a symbolic link, appears later, is renamed, or is on another machine. If a file system does
//! not answer, only this thread waits for it, and callers that read files on it.

mod events;
mod file_states;
mod reader;
mod requests;
mod thread;

pub use reader::{FileReader, ReadError};

use requests::{Requests, WatchRequest};
use std::{io, path::PathBuf, sync::Arc, time::Duration};
use switchyard_process::vital::VitalTasks;
use thread::WatcherThread;
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

/// How long the caller of [`FileWatcher::watch`] waits until the files are watched.
const WATCH_TIMEOUT: Duration = Duration::from_secs(1);

/// A set of files, and the thread that watches them until this is dropped.
pub(super) struct FileWatcher {
    changed: Arc<Notify>,
    reader: FileReader,
}

impl FileWatcher {
    /// Starts the thread, which watches no files yet. `what` the files are is the end of the thread's name.
    pub(super) fn start(vitals: &VitalTasks, what: &str) -> io::Result<Self> {
        let (requests, changed) = (Arc::<Requests>::default(), Arc::new(Notify::new()));
        let thread = WatcherThread::new(requests.clone(), Arc::downgrade(&changed));
        vitals.spawn_thread(format!("the thread that watches {what}"), move || thread.run())?;
        Ok(Self { changed, reader: FileReader::new(requests) })
    }

    /// Reads files on the thread of this watcher.
    pub(super) fn reader(&self) -> FileReader {
        self.reader.clone()
    }

    /// Watches these files from now on, and no others. Await it before you read the files, so that no change
    /// is missed.
    ///
    /// It fails if the file system does not answer. Then the files are watched as soon as it does, and are
    /// reported as changed, because they may have changed before.
    pub(super) fn watch(&self, files: Vec<PathBuf>) -> impl Future<Output = Result<(), ReadError>> + use<> {
        let (done, is_done) = oneshot::channel();
        self.request(files, Some(done));
        async { timeout(WATCH_TIMEOUT, is_done).await.ok().and_then(Result::ok).ok_or(ReadError::TimedOut) }
    }

    /// The same for files that are only read by [`reader`](Self::reader), which serves requests in order.
    pub(super) fn watch_before_reading(&self, files: Vec<PathBuf>) {
        self.request(files, None);
    }

    fn request(&self, files: Vec<PathBuf>, done: Option<oneshot::Sender<()>>) {
        let files = files.into_iter().filter_map(|file| std::path::absolute(file).ok()).collect();
        self.reader.requests().add(|pending| pending.watch = Some(WatchRequest { files, done }));
    }

    /// Returns when at least one file has changed since the last call and can be read.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for FileWatcher {
    fn drop(&mut self) {
        self.reader.requests().add(|pending| pending.stop = true);
    }
}

#[cfg(test)]
mod tests {
    use super::{events::report, *};
    use notify::{
        Event, EventKind,
        event::{AccessKind, AccessMode},
    };
    use std::{collections::HashSet, sync::mpsc};

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn watcher() -> FileWatcher {
        FileWatcher::start(&VitalTasks::default(), "files").unwrap()
    }

    /// Blocks the thread, as a file system that does not answer would, until the returned sender is dropped.
    async fn block(watcher: &FileWatcher) -> mpsc::Sender<()> {
        let ((end, ends), (begin, begins)) = (mpsc::channel::<()>(), oneshot::channel());
        let reader = watcher.reader();
        let job = move || (begin.send(()).ok(), ends.recv().ok());
        tokio::spawn(async move { reader.run_without_timeout(job).await });
        begins.await.unwrap();
        end
    }

    #[tokio::test(start_paused = true)]
    async fn reading_that_blocks_times_out_and_later_files_are_read() {
        let watcher = watcher();
        let (reader, (end, ends)) = (watcher.reader(), mpsc::channel::<()>());
        let blocked = reader.run(move || ends.recv().ok());
        assert_eq!(blocked.await, Err(ReadError::TimedOut));
        let (late, is_late) = mpsc::channel();
        assert_eq!(reader.run(move || late.send(()).ok()).await, Err(ReadError::TimedOut));
        end.send(()).unwrap();
        tokio::time::resume();
        assert_eq!(reader.run(|| 7).await, Ok(7));
        assert!(is_late.try_recv().is_err(), "its caller has given up");
        assert_eq!(reader.run(|| panic!("on purpose")).await, Err::<(), _>(ReadError::Panicked));
        assert_eq!(reader.run(|| 8).await, Ok(8));
    }

    #[tokio::test]
    async fn a_panic_of_the_thread_stops_the_node() {
        let vitals = VitalTasks::default();
        let watcher = FileWatcher::start(&vitals, "files").unwrap();
        watcher.reader.requests().add(|pending| pending.panic = true);
        timeout(TIMEOUT, vitals.failed()).await.unwrap();
        assert_eq!(vitals.failure(), Some("the thread that watches files panicked: on purpose"));
        assert_eq!(watcher.reader().run(|| 1).await, Err(ReadError::Panicked));
    }

    #[tokio::test]
    async fn files_that_cannot_be_watched_in_time_are_watched_and_reported_later() {
        let (watcher, folder) = (watcher(), tempfile::tempdir().unwrap());
        let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
        watcher.watch(vec![first]).await.unwrap();
        let end = block(&watcher).await;
        assert_eq!(watcher.watch(vec![second.clone()]).await, Err(ReadError::TimedOut));
        assert!(timeout(Duration::from_millis(100), watcher.changed()).await.is_err());
        drop(end);
        timeout(TIMEOUT, watcher.changed()).await.expect("they may have changed before");
        std::fs::write(second, "text").unwrap();
        timeout(TIMEOUT, watcher.changed()).await.expect("it is watched");
    }

    #[tokio::test]
    async fn events_do_not_pile_up_while_a_file_system_does_not_answer() {
        let (watcher, folder) = (watcher(), tempfile::tempdir().unwrap());
        let file = folder.path().join("file");
        watcher.watch(vec![file.clone()]).await.unwrap();
        let end = block(&watcher).await;
        let kind = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let (event, watched) = (Event::new(kind).add_path(file.clone()), HashSet::from([file]));
        for _ in 0..10_000 {
            report(&event, &watched, watcher.reader.requests());
        }
        assert_eq!(watcher.reader.requests().event_count(), 1);
        drop(end);
        timeout(TIMEOUT, watcher.changed()).await.expect("the change is reported");
    }
}
