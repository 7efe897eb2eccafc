//! What stands in a log line: message and fields, each in the line, however long and whatever is in it.

use crate::escape::Escaper;
use std::{
    error::Error,
    fmt::{self, Debug, Write},
};
use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format::Writer},
};

/// Bytes of the message and the fields of one line. What is beyond is never formatted.
pub(super) const LONGEST: usize = 4096;

/// How the fields of a line are written. It escapes what would forge a line or drive the terminal that shows it.
pub(super) struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, to: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line { is_colored: to.has_ansi_escapes(), to, left: LONGEST, is_first: true };
        fields.record(&mut line);
        Ok(())
    }
}

struct Line<'writer> {
    to: Writer<'writer>,
    is_colored: bool,
    left: usize,
    is_first: bool,
}

impl Line<'_> {
    fn put(&mut self, field: &Field, value: fmt::Arguments) {
        let name = field.name();
        // Those of `log` say where the line comes from, which stands before it.
        if self.left == 0 || name.starts_with("log.") {
            return;
        }
        let space = if std::mem::take(&mut self.is_first) { "" } else { " " };
        self.to.write_str(space).ok();
        let (start, middle, end) = match self.is_colored {
            true => ("\x1b[3m", "\x1b[0m\x1b[2m=", "\x1b[0m"),
            false => ("", "=", ""),
        };
        if name != "message" {
            write!(self.to, "{start}{}{middle}{end}", name.trim_start_matches("r#")).ok();
        }
        let mut clip = Clip { to: &mut self.to, left: &mut self.left };
        if Escaper(&mut clip).write_fmt(value).is_err() {
            self.left = 0;
            self.to.write_str("… (cut off)").ok();
        }
    }
}

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format_args!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        let (mut all, mut source) = (error.to_string(), error.source());
        while let Some(error) = source {
            all += &format!(": {error}");
            source = error.source();
        }
        self.put(field, format_args!("{all}"));
    }
}

/// Takes so many bytes, and then nothing, which ends the formatting.
pub(super) struct Clip<'a, W> {
    pub to: &'a mut W,
    pub left: &'a mut usize,
}

impl<W: Write> Write for Clip<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() <= *self.left {
            *self.left -= text.len();
            return self.to.write_str(text);
        }
        self.to.write_str(&text[..text.floor_char_boundary(*self.left)])?;
        *self.left = 0;
        Err(fmt::Error)
    }
}
