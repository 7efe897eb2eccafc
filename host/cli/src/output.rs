//! Writing to standard output and standard error: results to the one, notes to the other. Unlike `println!`,
//! which panics, a result that cannot be written is an error, and a note that cannot be written is dropped.
//! Texts are escaped, so that what others have named or sent cannot control the terminal, and is always a
//! single line.

use std::{
    fmt,
    io::{self, Write},
    os::fd::AsFd,
};
use switchyard_process::escape::Escaped;
use tokio::net::unix::pipe::Sender;

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(crate) struct OutputError(#[from] io::Error);

impl OutputError {
    /// The reader closed the pipe, as `head` does when it has enough. This needs no message.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Several independent problems, each shown on a line of its own.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(crate) struct Problems(pub(crate) Vec<String>);

/// The arguments are invalid in combination, or one of them is in a way that must not be shown. The program
/// exits with status 2, as it does when clap rejects an argument.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidArguments(pub(crate) String);

/// Writes a line of the result.
pub(crate) fn write_result_line(text: impl fmt::Display) -> Result<(), OutputError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(format!("{}\n", Escaped(text)).as_bytes())?;
    Ok(stdout.flush()?)
}

/// A pipe that is writable takes at least this much without blocking (POSIX: `_POSIX_PIPE_BUF`).
const MIN_PIPE_SPACE_BYTES: usize = 512;

/// Writes a line of the result when its reader is ready, which may take forever. Blocks no thread.
pub(crate) async fn write_result_line_when_ready(text: &str) -> Result<(), OutputError> {
    let text = format!("{}\n", Escaped(text));
    for part in text.as_bytes().chunks(MIN_PIPE_SPACE_BYTES) {
        // A new sender for each part, because the pipe may be full again. The sender only waits; nothing is
        // written to it.
        match Sender::from_owned_fd_unchecked(io::stdout().as_fd().try_clone_to_owned()?) {
            Ok(sender) => sender.writable().await?,
            // A file is always writable, and cannot be waited for.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => Err(error)?,
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(part)?;
        stdout.flush()?;
    }
    Ok(())
}

/// Tells the user something on standard error while a command runs, after the program's name.
pub fn note(text: impl fmt::Display) {
    write_stderr_line(format_args!("switchyard: {text}"));
}

/// Writes a line to standard error.
pub(crate) fn write_stderr_line(text: impl fmt::Display) {
    write_stderr(format_args!("{}\n", Escaped(text)));
}

/// Replaces the last line of the terminal on standard error. The next call, or the next line, replaces this
/// one.
pub(crate) fn replace_stderr_line(text: impl fmt::Display) {
    write_stderr(format_args!("\r\x1b[2K{}", Escaped(text)));
}

fn write_stderr(text: fmt::Arguments) {
    let mut stderr = io::stderr().lock();
    stderr.write_all(text.to_string().as_bytes()).and_then(|()| stderr.flush()).ok();
}

/// Like `println!` for a single line, with a `Result`.
macro_rules! print_line {
    ($($text:tt)*) => { $crate::output::write_result_line(format_args!($($text)*)) };
}
pub(crate) use print_line;
