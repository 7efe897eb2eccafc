//! Reading files that others may be writing: how to notice that a file has changed, and how to read a
//! consistent state of it. Does not watch files.

use std::{
    fmt,
    fs::{self, File, FileType, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How often a file that changes while it is read is read again.
const MAX_ATTEMPTS: u32 = 10;
/// The pause between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// The resolution of file times. Two states of a file within it may look the same.
const TIMESTAMP_RESOLUTION: Duration = Duration::from_millis(20);

/// One state of the file at a path. If two are equal, nobody has written to the file or replaced it in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    /// When the content was changed: seconds and nanoseconds.
    modified: (i64, i64),
    /// When the content or the attributes were changed, likewise.
    changed: (i64, i64),
}

impl FileStamp {
    /// The state of the file at a path, following links; `None` if there is no file or it cannot be examined.
    pub fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().map(Self::from)
    }

    /// Whether it is the same file, whatever its content is.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Whether the file was changed so recently that its next state may look the same.
    fn is_fresh(&self, now: SystemTime) -> bool {
        let (seconds, nanos) = self.changed;
        let Ok(seconds) = u64::try_from(seconds) else { return false };
        let changed = UNIX_EPOCH + Duration::new(seconds, nanos as u32);
        now.duration_since(changed).is_ok_and(|age| age < TIMESTAMP_RESOLUTION)
    }
}

impl From<&Metadata> for FileStamp {
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

/// Why a file cannot be read. The message does not name the file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system reports an error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not a regular file but, for example, `a folder`.
    #[error("expected a regular file, found {0}")]
    NotRegular(&'static str),
    /// It has more bytes than this.
    #[error("the file has more than {0} bytes")]
    TooLarge(u64),
    /// It changed during each of several attempts.
    #[error("the file keeps changing while it is read")]
    Changing,
    /// It is not valid UTF-8.
    #[error("the file is not valid UTF-8")]
    NotUtf8,
}

impl FileError {
    /// Whether a later attempt may succeed although nobody changes the file.
    fn is_temporary(&self) -> bool {
        match self {
            Self::Io(error) => error.kind() != io::ErrorKind::NotFound,
            Self::Changing => true,
            Self::NotRegular(_) | Self::TooLarge(_) | Self::NotUtf8 => false,
        }
    }
}

/// Why the content of a file cannot be used. The message names the file.
#[derive(Debug, thiserror::Error)]
pub enum UnusableFile {
    /// The file could not be read, and may be readable later although nobody changes it: the process has too
    /// many open files, or a disk does not answer.
    #[error("{0}")]
    Temporary(String),
    /// The file is invalid until somebody changes it.
    #[error("{0}")]
    Invalid(String),
}

impl UnusableFile {
    /// The file that `what` names could not be read.
    pub fn new(what: impl fmt::Display, error: &FileError) -> Self {
        let message = format!("{what}: {error}");
        match error.is_temporary() {
            true => Self::Temporary(message),
            false => Self::Invalid(message),
        }
    }
}

/// Reads a regular file as it was at one moment, following links. Blocks: up to half a second for a file that
/// keeps changing, and for as long as the file system does not answer.
///
/// # Errors
///
/// If the file cannot be read, is not a regular file, has more than `max_bytes`, or keeps changing.
pub fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, FileError> {
    for attempt in 0..MAX_ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(RETRY_DELAY);
        }
        if let Some(bytes) = read_unchanged(path, max_bytes)? {
            return Ok(bytes);
        }
    }
    Err(FileError::Changing)
}

/// `None` if the file changed while it was read.
fn read_unchanged(path: &Path, max_bytes: u64) -> Result<Option<Vec<u8>>, FileError> {
    // Checked before it is opened, because opening a device may have an effect.
    must_be_regular(&fs::metadata(path)?)?;
    let file = open(path)?;
    let before = file.metadata()?;
    must_be_regular(&before)?;
    if before.len() > max_bytes {
        return Err(FileError::TooLarge(max_bytes));
    }
    let before = FileStamp::from(&before);
    if before.is_fresh(SystemTime::now()) {
        return Ok(None);
    }
    let bytes = read_at_most(&file, max_bytes)?;
    let is_unchanged = FileStamp::from(&file.metadata()?) == before && FileStamp::of(path) == Some(before);
    Ok(is_unchanged.then_some(bytes))
}

/// Opens a file without blocking: if a pipe has replaced it, opening would wait for a writer.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Reads a text file, as [`read`] does, without its byte order mark.
///
/// # Errors
///
/// Those of [`read`], and if the content is not valid UTF-8.
pub fn read_text(path: &Path, max_bytes: u64) -> Result<String, FileError> {
    decode_utf8(read(path, max_bytes)?)
}

/// The text of a file, without its byte order mark.
///
/// # Errors
///
/// If the bytes are not valid UTF-8.
pub fn decode_utf8(bytes: Vec<u8>) -> Result<String, FileError> {
    String::from_utf8(without_bom(&bytes).to_vec()).map_err(|_| FileError::NotUtf8)
}

/// Reads a file to its end, whatever it is.
///
/// # Errors
///
/// If it cannot be read, or has more than `max_bytes`.
pub fn read_at_most(file: &File, max_bytes: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = vec![];
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > max_bytes {
        true => Err(FileError::TooLarge(max_bytes)),
        false => Ok(bytes),
    }
}

/// The content of a file without the UTF-8 byte order mark that some editors put in front.
pub fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Reads the input of a command, from a file or a pipe, without its byte order mark.
///
/// # Errors
///
/// If it cannot be read or is not valid UTF-8.
pub fn read_input(path: &Path) -> Result<String, FileError> {
    decode_utf8(fs::read(path)?)
}

fn must_be_regular(file: &Metadata) -> Result<(), FileError> {
    special_kind(file.file_type()).map_or(Ok(()), |kind| Err(FileError::NotRegular(kind)))
}

/// What a file is if it is not a regular one, such as `a folder`; `None` for a regular file.
pub fn special_kind(file: FileType) -> Option<&'static str> {
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
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink("file", folder.path().join("link")).unwrap();
        assert_eq!(read(&folder.path().join("link"), 4).unwrap(), b"text");
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        for (path, expected) in [
            (folder.path().to_owned(), "expected a regular file, found a folder"),
            (folder.path().join("socket"), "expected a regular file, found a socket"),
            ("/dev/null".into(), "expected a regular file, found a device"),
            (folder.path().join("none"), "No such file"),
        ] {
            let error = read(&path, 1000).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{}: {error}", path.display());
        }
    }

    #[test]
    fn the_size_is_limited() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "12345").unwrap();
        assert_eq!(read(&file, 5).unwrap(), b"12345");
        assert_eq!(read(&file, 4).unwrap_err().to_string(), "the file has more than 4 bytes");
        // A device does not report its size.
        let endless = File::open("/dev/zero").unwrap();
        assert_eq!(read_at_most(&endless, 4).unwrap_err().to_string(), "the file has more than 4 bytes");
    }

    #[test]
    fn opening_a_pipe_that_nobody_writes_to_does_not_wait() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let (opened, is_open) = std::sync::mpsc::channel();
        let opening = move || opened.send(open(&pipe).map(|file| file.metadata().unwrap().file_type()));
        std::thread::Builder::new().spawn(opening).unwrap();
        let file_type = is_open.recv_timeout(Duration::from_secs(10)).expect("it does not wait").unwrap();
        assert_eq!(special_kind(file_type), Some("a pipe"));
    }

    #[test]
    fn a_file_is_never_read_in_part_while_it_is_rewritten() {
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
                        // A file that was truncated and not yet written again has a consistent state, too.
                        let first = bytes.first().copied().unwrap_or(0);
                        assert!(bytes.iter().all(|byte| *byte == first), "parts of two states");
                    }
                    Err(FileError::Changing) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            ends.store(true, Ordering::Relaxed);
            assert!(read_whole > 0, "some attempts succeed");
        });
    }
}
