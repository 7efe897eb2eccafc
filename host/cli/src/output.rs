//! What commands print: results on standard output, remarks on standard error. Unlike `println!`, which panics, a result
//! that cannot be written is an error; a remark that cannot be written is dropped. Everything is one line, whatever is in it:
//! what others have named or sent cannot drive the terminal that shows it.

use std::{
    fmt,
    io::{self, Write},
    os::fd::AsFd,
};
use switchyard_process::escape::Escaped;
use tokio::net::unix::pipe::Sender;

/// Standard output does not take what it is given.
#[derive(Debug, thiserror::Error)]
#[error("standard output")]
pub(crate) struct OutputError(#[from] io::Error);

impl OutputError {
    /// Whoever read it has enough, as `head` does. Nothing needs to be said about that.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Several things are wrong. Each is a line of its own.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(crate) struct Faults(pub Vec<String>);

/// A line of the result.
pub(crate) fn line(text: impl fmt::Display) -> Result<(), OutputError> {
    let mut to = io::stdout().lock();
    to.write_all(format!("{}\n", Escaped(text)).as_bytes())?;
    Ok(to.flush()?)
}

/// What any pipe takes without waiting once it takes something.
const AT_ONCE: usize = 512;

/// A line of the result, which may be long in coming: whoever reads it may be stopped. It blocks nobody and takes no thread.
pub(crate) async fn line_when_it_is_taken(text: &str) -> Result<(), OutputError> {
    let text = format!("{}\n", Escaped(text));
    for part in text.as_bytes().chunks(AT_ONCE) {
        // Asked anew for each part: after that it may be full.
        // Nothing is written by this one, which only awaits.
        match Sender::from_owned_fd_unchecked(io::stdout().as_fd().try_clone_to_owned()?) {
            Ok(ready) => ready.writable().await?,
            // A file is always ready, and cannot be awaited.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => Err(error)?,
        }
        let mut to = io::stdout().lock();
        to.write_all(part)?;
        to.flush()?;
    }
    Ok(())
}

/// A line for a person.
pub(crate) fn remark(text: impl fmt::Display) {
    write(format_args!("{}\n", Escaped(text)));
}

/// Puts this in the place of the terminal's last line, so that the next takes its place.
pub(crate) fn progress(text: impl fmt::Display) {
    write(format_args!("\r\x1b[2K{}", Escaped(text)));
}

fn write(text: fmt::Arguments) {
    let mut to = io::stderr().lock();
    to.write_all(text.to_string().as_bytes()).and_then(|()| to.flush()).ok();
}

/// Like `println!`, with a `Result`, of one line.
macro_rules! print_line {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}
pub(crate) use print_line;
