//! The message and the fields of a log line: they stay in that line, whatever they contain and however long
//! they are.

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

/// The most bytes of the message and the fields of one line. The rest is not even formatted.
pub(super) const MAX_LINE_BYTES: usize = 4096;

/// Formats the message and the fields of a line. Escapes what would forge another line or control the terminal.
pub(super) struct EscapedFields;

impl<'writer> FormatFields<'writer> for EscapedFields {
    fn format_fields<R: RecordFields>(&self, to: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line =
            FieldWriter { is_colored: to.has_ansi_escapes(), to, left: MAX_LINE_BYTES, is_first: true };
        fields.record(&mut line);
        Ok(())
    }
}

struct FieldWriter<'writer> {
    to: Writer<'writer>,
    is_colored: bool,
    /// Bytes that may still be written.
    left: usize,
    is_first: bool,
}

impl FieldWriter<'_> {
    fn put(&mut self, field: &Field, value: fmt::Arguments) {
        let name = field.name();
        // The fields of the crate `log` name the callsite, which the line begins with anyway.
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
        let mut limited = LimitedWriter { to: &mut self.to, left: &mut self.left };
        if Escaper(&mut limited).write_fmt(value).is_err() {
            self.left = 0;
            self.to.write_str("… (truncated)").ok();
        }
    }
}

impl Visit for FieldWriter<'_> {
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

/// Accepts this many bytes and then fails, which ends the formatting.
pub(super) struct LimitedWriter<'a, W> {
    pub to: &'a mut W,
    pub left: &'a mut usize,
}

impl<W: Write> Write for LimitedWriter<'_, W> {
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
