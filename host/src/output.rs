//! What commands print: results on standard output, remarks on standard error. Unlike `println!`, which panics, a result
//! that cannot be written is an error; a remark that cannot be written is dropped.

use std::{
    fmt,
    io::{self, Write},
};

/// Standard output does not take what it is given.
#[derive(Debug, thiserror::Error)]
#[error("standard output")]
pub struct OutputError(#[from] io::Error);

impl OutputError {
    /// Whoever read it has enough, as `head` does. Nothing needs to be said about that.
    pub fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// A line of the result.
pub fn line(text: impl fmt::Display) -> Result<(), OutputError> {
    let mut to = io::stdout().lock();
    to.write_all(format!("{text}\n").as_bytes())?;
    Ok(to.flush()?)
}

/// A remark for a person, as it is.
pub fn remark(text: impl fmt::Display) {
    let mut to = io::stderr().lock();
    to.write_all(text.to_string().as_bytes()).and_then(|()| to.flush()).ok();
}

/// Like `println!`, with a `Result`.
macro_rules! print_line {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}
pub(crate) use print_line;
