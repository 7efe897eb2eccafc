//! Escaping of untrusted text on its way to a terminal or a log. Characters that would move the cursor, begin
//! another line or change the direction of text become escapes. Does not write anything itself.

use std::fmt::{self, Write};

/// Control characters (C0, DEL, C1), the two line separators of Unicode, and the marks that set the direction
/// of text.
fn is_escaped(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Displays a value with control characters and the like as JSON escapes, such as `\n` and `\u001b`.
///
/// JSON text on one line, without tabs between its tokens, keeps its meaning: it has such characters only in
/// strings.
pub struct Escaped<T>(pub T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(Escaper(f), "{}", self.0)
    }
}

/// Escapes what is written to it, and passes it on.
pub(crate) struct Escaper<W>(pub W);

impl<W: Write> Write for Escaper<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_escaped(*c)) {
            self.0.write_str(&rest[..at])?;
            match c {
                '\n' => self.0.write_str("\\n")?,
                '\r' => self.0.write_str("\\r")?,
                '\t' => self.0.write_str("\\t")?,
                c => write!(self.0, "\\u{:04x}", u32::from(c))?,
            }
            rest = &rest[at + c.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_controls_a_terminal_is_escaped() {
        for (text, expected) in [
            ("plain, ä, 漢, 👩‍🚀, \u{feff}", "plain, ä, 漢, 👩‍🚀, \u{feff}"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[31m\u{7}\0\u{7f}", "\\u001b[31m\\u0007\\u0000\\u007f"),
            ("\u{9b}2J\u{85}", "\\u009b2J\\u0085"),
            ("\u{202e}\u{202a}\u{2028}\u{2029}", "\\u202e\\u202a\\u2028\\u2029"),
            ("\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}", "\\u2066\\u2069\\u200e\\u200f\\u061c"),
            ("\u{200d}\u{2027}\u{202f}\u{2065}\u{206a}", "\u{200d}\u{2027}\u{202f}\u{2065}\u{206a}"),
        ] {
            assert_eq!(Escaped(text).to_string(), expected);
        }
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let value = serde_json::json!({"a\u{202e}": ["\u{9b}31m", "\u{1b}[0m", "\u{7f}\n"]});
        let shown = Escaped(&value).to_string();
        assert!(!shown.contains(is_escaped), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
