//! Files that others write while this process runs: how two states of one are told apart, and how one is read whole.

use std::{
    fmt,
    fs::{self, File, FileType, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A file that changes while it is read is read so often, with a pause between two attempts.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(50);
/// Times of files are no finer than this. Two states within it may look the same.
const GRAIN: Duration = Duration::from_millis(20);

/// One state of the file that a path leads to. Where two are the same, nobody has written to it or put another in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None`: nothing is there that could be looked at.
    pub fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().map(Self::from)
    }

    /// Whether it is the same file, whatever is in it.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Whether it came about so short a time before that another that follows may look the same.
    fn is_fresh(&self, now: SystemTime) -> bool {
        let (seconds, nanos) = self.changed;
        let Ok(seconds) = u64::try_from(seconds) else { return false };
        let changed = UNIX_EPOCH + Duration::new(seconds, nanos as u32);
        now.duration_since(changed).is_ok_and(|age| age < GRAIN)
    }
}

impl From<&Metadata> for Stamp {
    fn from(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is {0}, and must be a regular file")]
    Kind(&'static str),
    #[error("it has more than {0} bytes")]
    TooLarge(u64),
    #[error("it changes again and again while it is read")]
    Changing,
    #[error("it is not text in UTF-8")]
    NoText,
}

impl Unreadable {
    /// Whether nothing is wrong with the file, so that it may be read a moment later without being another one by then.
    fn is_passing(&self) -> bool {
        match self {
            Self::Io(error) => error.kind() != io::ErrorKind::NotFound,
            Self::Changing => true,
            Self::Kind(_) | Self::TooLarge(_) | Self::NoText => false,
        }
    }
}

/// Why what files hold is not taken, in a sentence that names the file.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// It could not be read, and may be read later though nobody changes it: no file could be opened, or a disk did not answer.
    #[error("{0}")]
    Unread(String),
    /// It is wrong until somebody changes it.
    #[error("{0}")]
    Wrong(String),
}

impl NotTaken {
    /// `what` says whose file it is.
    pub fn new(what: impl fmt::Display, why: &Unreadable) -> Self {
        let sentence = format!("{what}: {why}");
        match why.is_passing() {
            true => Self::Unread(sentence),
            false => Self::Wrong(sentence),
        }
    }
}

/// Reads a regular file, behind links too, as it was at one moment, of at most so many bytes. Blocks.
pub fn read(path: &Path, largest: u64) -> Result<Vec<u8>, Unreadable> {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        if let Some(bytes) = read_unchanged(path, largest)? {
            return Ok(bytes);
        }
    }
    Err(Unreadable::Changing)
}

/// `None`: it changed meanwhile.
fn read_unchanged(path: &Path, largest: u64) -> Result<Option<Vec<u8>>, Unreadable> {
    // Before it is opened, which may do something to a device.
    must_be_regular(&fs::metadata(path)?)?;
    let file = open(path)?;
    let before = file.metadata()?;
    must_be_regular(&before)?;
    if before.len() > largest {
        return Err(Unreadable::TooLarge(largest));
    }
    let before = Stamp::from(&before);
    if before.is_fresh(SystemTime::now()) {
        return Ok(None);
    }
    let bytes = read_at_most(&file, largest)?;
    let is_unchanged = Stamp::from(&file.metadata()?) == before && Stamp::of(path) == Some(before);
    Ok(is_unchanged.then_some(bytes))
}

/// Never waits for whoever writes into a pipe, which may be there by now.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// The same of a file that holds text.
pub fn read_text(path: &Path, largest: u64) -> Result<String, Unreadable> {
    text(read(path, largest)?)
}

pub fn text(bytes: Vec<u8>) -> Result<String, Unreadable> {
    String::from_utf8(without_mark(&bytes).to_vec()).map_err(|_| Unreadable::NoText)
}

/// Reads to the end, where that is not too far.
pub fn read_at_most(file: &File, largest: u64) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = vec![];
    file.take(largest.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > largest {
        true => Err(Unreadable::TooLarge(largest)),
        false => Ok(bytes),
    }
}

/// A file's text without the mark that some editors put before it, to say that it is UTF-8.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// What a person gives a command, in a file or through a pipe.
pub fn read_input(path: &Path) -> Result<String, Unreadable> {
    text(fs::read(path)?)
}

fn must_be_regular(file: &Metadata) -> Result<(), Unreadable> {
    kind(file.file_type()).map_or(Ok(()), |kind| Err(Unreadable::Kind(kind)))
}

/// What a file is that is no regular one.
pub fn kind(file: FileType) -> Option<&'static str> {
    match file {
        file if file.is_file() => None,
        file if file.is_dir() => Some("a folder"),
        file if file.is_fifo() => Some("a pipe"),
        file if file.is_socket() => Some("a socket"),
        _ => Some("a device"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write,
        sync::atomic::{AtomicBool, Ordering},
    };

    #[test]
    fn only_a_regular_file_is_read_and_the_error_says_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink("file", folder.path().join("link")).unwrap();
        assert_eq!(read(&folder.path().join("link"), 4).unwrap(), b"text");
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        for (path, expected) in [
            (folder.path().to_owned(), "it is a folder, and must be a regular file"),
            (folder.path().join("socket"), "it is a socket,"),
            ("/dev/null".into(), "it is a device,"),
            (folder.path().join("none"), "No such file"),
        ] {
            let error = read(&path, 1000).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{}: {error}", path.display());
        }
    }

    #[test]
    fn no_more_is_read_than_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "12345").unwrap();
        assert_eq!(read(&file, 5).unwrap(), b"12345");
        assert_eq!(read(&file, 4).unwrap_err().to_string(), "it has more than 4 bytes");
        // What says nothing of its size.
        let endless = File::open("/dev/zero").unwrap();
        assert_eq!(read_at_most(&endless, 4).unwrap_err().to_string(), "it has more than 4 bytes");
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_is_opened_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let (opened, is_open) = std::sync::mpsc::channel();
        let opening = move || opened.send(open(&pipe).map(|file| file.metadata().unwrap().file_type()));
        std::thread::Builder::new().spawn(opening).unwrap();
        let kind_of = is_open.recv_timeout(Duration::from_secs(10)).expect("it does not wait").unwrap();
        assert_eq!(kind(kind_of), Some("a pipe"));
    }

    #[test]
    fn a_file_that_is_written_over_and_over_is_never_read_in_part() {
        let folder = tempfile::tempdir().unwrap();
        let (file, new) = (folder.path().join("file"), folder.path().join("new"));
        let whole = |byte: u8| vec![byte; 1 << 20];
        fs::write(&file, whole(0)).unwrap();
        let ends = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for byte in (0..=255).cycle().take_while(|_| !ends.load(Ordering::Relaxed)) {
                    // Sometimes in place and slowly, sometimes in one step.
                    if byte % 2 == 0 {
                        fs::write(&new, whole(byte)).unwrap();
                        fs::rename(&new, &file).unwrap();
                    } else {
                        let mut file = File::create(&file).unwrap();
                        whole(byte).chunks(1 << 16).for_each(|part| file.write_all(part).unwrap());
                    }
                    std::thread::sleep(Duration::from_millis(u64::from(byte) * 7 % 60));
                }
            });
            let mut read_whole = 0;
            for _ in 0..30 {
                match read(&file, 2 << 20) {
                    Ok(bytes) => {
                        read_whole += 1;
                        // What was cut off and not yet written again is a state of the file, too.
                        let first = bytes.first().copied().unwrap_or(0);
                        assert!(bytes.iter().all(|byte| *byte == first), "parts of two states");
                    }
                    Err(Unreadable::Changing) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            ends.store(true, Ordering::Relaxed);
            assert!(read_whole > 0, "it was read now and then");
        });
    }
}
