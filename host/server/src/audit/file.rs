//! The file of the audit log, and the thread that writes it. Knows no fields.

use prometheus_client::metrics::counter::Counter;
use std::{
    fmt::Display,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};
use switchyard_process::lock::LockExt;

/// Maximum number of lines that wait to be written.
const MAX_QUEUED_LINES: usize = 16_384;
/// Maximum number of bytes that wait to be written.
const MAX_QUEUED_BYTES: usize = 8 << 20;
/// How often it is logged, at most, that lines are lost.
const LOSS_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How often a flush tries to get into a full queue.
const FLUSH_RETRY_DELAY: Duration = Duration::from_millis(10);
/// The permissions of a file that did not exist: it says who did what, which not everybody may read.
const MODE: u32 = 0o640;

/// The audit file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("audit.file: {}: {error}; expected a file that this user may append to, or a folder in which one can be created", file.display())]
pub struct AuditFileError {
    file: PathBuf,
    error: io::Error,
}

/// A file that lines are appended to, by a thread of its own.
pub(super) struct AuditFile {
    queue: SyncSender<QueueItem>,
    queued_bytes: Arc<AtomicUsize>,
    losses: Arc<Losses>,
}

/// Lines that are not in the file.
struct Losses {
    path: PathBuf,
    lost: Counter,
    last_logged: Mutex<Option<Instant>>,
}

impl Losses {
    /// Counts a line, and reports that lines are lost, but not too often.
    fn count(&self, reason: impl Display) {
        self.lost.inc();
        let mut last_logged = self.last_logged.locked();
        if last_logged.is_none_or(|logged| logged.elapsed() >= LOSS_LOG_INTERVAL) {
            *last_logged = Some(Instant::now());
            let (file, lost) = (self.path.display(), self.lost.get());
            tracing::error!(%file, lost, "audit lines are lost: {reason}");
        }
    }
}

enum QueueItem {
    Line(String),
    Reopen,
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// Checks whether a file can be appended to, or created. Does not create it.
pub(super) fn check(path: &Path) -> Result<(), AuditFileError> {
    let checked = match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            check_folder(folder.unwrap_or(Path::new(".")))
        }
        opened => opened.map(drop),
    };
    checked.map_err(|error| AuditFileError { file: path.to_owned(), error })
}

/// Checks whether files can be created in a folder, by creating one, which is removed at once.
fn check_folder(folder: &Path) -> io::Result<()> {
    let random = getrandom::u64().map_err(io::Error::other)?;
    let file = folder.join(format!(".switchyard-check.{random:016x}"));
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(&file)?;
    fs::remove_file(&file)
}

/// Opens or creates the file. Also returns whether its last line is torn, because a node or the machine stopped while it
/// was written.
fn open(path: &Path) -> io::Result<(File, bool)> {
    let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
    let metadata = file.metadata()?;
    // A file that may be written and not read is taken for a whole one.
    let is_torn = metadata.is_file() && metadata.len() > 0 && last_byte(path).is_ok_and(|last| last != b'\n');
    Ok((file, is_torn))
}

fn last_byte(path: &Path) -> io::Result<u8> {
    let (mut file, mut last) = (File::open(path)?, [0]);
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last[0])
}

impl AuditFile {
    /// Opens or creates the file, and starts the thread. `lost` counts lines that were not written.
    pub(super) fn open(path: PathBuf, lost: Counter) -> Result<Self, AuditFileError> {
        let started = open(&path).and_then(|(file, is_torn)| {
            let (queue, items) = sync_channel(MAX_QUEUED_LINES);
            let losses = Arc::new(Losses { path: path.clone(), lost, last_logged: Mutex::default() });
            let audit = Self { queue, queued_bytes: Arc::default(), losses: losses.clone() };
            let queued_bytes = audit.queued_bytes.clone();
            let writer = Writer { file, is_torn, queued_bytes, losses };
            thread::Builder::new().name("audit".into()).spawn(move || writer.run(&items))?;
            Ok(audit)
        });
        started.map_err(|error| AuditFileError { file: path, error })
    }

    /// Enqueues a line. If there is no space, it is lost.
    pub(super) fn append(&self, line: String) {
        let length = line.len();
        let fits = self.queued_bytes.fetch_add(length, Ordering::Relaxed) + length <= MAX_QUEUED_BYTES;
        if !fits || self.queue.try_send(QueueItem::Line(line)).is_err() {
            self.queued_bytes.fetch_sub(length, Ordering::Relaxed);
            self.losses.count("too many wait to be written");
        }
    }

    /// Has the file opened again. If the queue is full, it is on its way to be written to the old one.
    pub(super) fn reopen(&self) {
        if self.queue.try_send(QueueItem::Reopen).is_err() {
            tracing::error!(
                "the audit file is not opened again, because too many lines wait; send SIGHUP again"
            );
        }
    }

    /// Waits until everything so far is written, for at most `limit`. Returns whether it is. Blocks.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let (done, is_done) = sync_channel(1);
        let mut item = QueueItem::Flush(done);
        while let Err(TrySendError::Full(full)) = self.queue.try_send(item) {
            if Instant::now() > end {
                return false;
            }
            item = full;
            thread::sleep(FLUSH_RETRY_DELAY);
        }
        is_done.recv_timeout(end.saturating_duration_since(Instant::now())).is_ok()
    }
}

struct Writer {
    file: File,
    /// The last line was written in part.
    is_torn: bool,
    queued_bytes: Arc<AtomicUsize>,
    losses: Arc<Losses>,
}

impl Writer {
    /// Ends when the last handle is dropped.
    fn run(mut self, items: &Receiver<QueueItem>) {
        while let Ok(item) = items.recv() {
            match item {
                QueueItem::Line(line) => {
                    self.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
                    self.write(line);
                }
                QueueItem::Reopen => self.reopen(),
                QueueItem::Flush(done) => drop(done.try_send(())),
            }
        }
    }

    fn write(&mut self, mut line: String) {
        line.push('\n');
        // What is left of a line must not spoil the next one.
        if self.is_torn {
            line.insert(0, '\n');
        }
        let written = self.file.write_all(line.as_bytes());
        self.is_torn = written.is_err();
        if let Err(error) = written {
            self.losses.count(error);
        }
    }

    fn reopen(&mut self) {
        match open(&self.losses.path) {
            Ok(opened) => (self.file, self.is_torn) = opened,
            Err(error) => {
                let file = self.losses.path.display();
                tracing::error!(%error, %file, "the audit file cannot be opened again; it is still written as it was");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const LIMIT: Duration = Duration::from_secs(10);

    fn opened(path: &Path) -> AuditFile {
        AuditFile::open(path.to_owned(), Counter::default()).unwrap()
    }

    #[test]
    fn lines_are_appended_and_the_file_is_not_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.ndjson");
        for line in ["one", "two"] {
            let file = opened(&path);
            file.append(line.to_owned());
            assert!(file.flush(LIMIT));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    }

    /// A line in two parts could be read as one that was never written.
    #[test]
    fn a_torn_line_does_not_spoil_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        fs::write(&path, "one\ntw").unwrap();
        let file = opened(&path);
        file.append("three".to_owned());
        assert!(file.flush(LIMIT));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntw\nthree\n");
        fs::write(&path, "fo").unwrap();
        file.reopen();
        file.append("five".to_owned());
        assert!(file.flush(LIMIT));
        assert_eq!(fs::read_to_string(&path).unwrap(), "fo\nfive\n");
    }

    #[test]
    fn a_renamed_file_is_written_until_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, renamed) = (folder.path().join("audit"), folder.path().join("audit.1"));
        let file = opened(&path);
        file.append("one".to_owned());
        assert!(file.flush(LIMIT));
        fs::rename(&path, &renamed).unwrap();
        file.append("two".to_owned());
        file.reopen();
        file.append("three".to_owned());
        assert!(file.flush(LIMIT));
        assert_eq!(fs::read_to_string(&renamed).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
        // It cannot be opened again: the old one stays.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        file.reopen();
        file.append("four".to_owned());
        assert!(file.flush(LIMIT));
        assert_eq!(file.losses.lost.get(), 0);
    }

    #[test]
    fn what_a_full_disk_refuses_is_counted() {
        let file = opened(Path::new("/dev/full"));
        for _ in 0..3 {
            file.append("line".to_owned());
        }
        assert!(file.flush(LIMIT));
        assert_eq!(file.losses.lost.get(), 3);
        assert_eq!(file.queued_bytes.load(Ordering::Relaxed), 0);
    }

    /// A disk that does not answer.
    #[test]
    fn what_waits_is_bounded_in_number_and_bytes() {
        let waiting = |length: usize| {
            let (queue, items) = sync_channel(MAX_QUEUED_LINES);
            let lost = Counter::default();
            let losses = Losses { path: "audit".into(), lost, last_logged: Mutex::default() };
            let file = AuditFile { queue, queued_bytes: Arc::default(), losses: Arc::new(losses) };
            for _ in 0..MAX_QUEUED_LINES + 1 {
                file.append("x".repeat(length));
            }
            assert!(!file.flush(Duration::from_millis(20)), "nobody writes");
            (
                items.try_iter().filter(|item| matches!(item, QueueItem::Line(_))).count(),
                file.losses.lost.get(),
            )
        };
        assert_eq!(waiting(1), (MAX_QUEUED_LINES, 1));
        let (queued, lost) = waiting(1024);
        assert_eq!((queued, lost), (MAX_QUEUED_BYTES / 1024, (MAX_QUEUED_LINES + 1 - queued) as u64));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_found_and_none_is_created() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("audit");
        assert!(check(&missing).is_ok());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
        // Nobody can create files in /proc, not even root.
        let wrong = [folder.path().join("no/audit"), folder.path().to_owned(), "/proc/audit".into()];
        for wrong in wrong {
            let error = check(&wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("audit.file: {}: ", wrong.display())), "{error}");
            assert!(AuditFile::open(wrong, Counter::default()).is_err());
        }
    }
}
