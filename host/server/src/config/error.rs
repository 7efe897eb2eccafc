//! Why a configuration is rejected, in the terms of TOML: keys, tables and lists. Checks nothing.

use super::{location, redact::redact_urls, shape::expected_shape};
use std::ops::Range;
use switchyard_process::file::UnusableFile;

/// Why a configuration is rejected. The message is one sentence that names the file and the line, or the
/// environment variable. It never shows a password, wherever in the configuration it was put.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] UnusableFile),
    /// The file contains something invalid.
    #[error("{location}: {message}")]
    Content {
        /// The file and the line, such as `switchyard.toml:3`.
        location: String,
        /// What is wrong there. It names the key.
        message: String,
    },
    /// An environment variable that overrides a key is invalid, or several of them are in combination.
    #[error("{variables}: {message}")]
    Variable {
        /// The names of the variables, separated by commas.
        variables: String,
        /// What is wrong with their values.
        message: String,
    },
}

impl ConfigError {
    pub(super) fn content(location: String, message: &str) -> Self {
        Self::Content { location, message: redact_urls(message) }
    }

    pub(super) fn variable(variables: impl Into<String>, message: &str) -> Self {
        Self::Variable { variables: variables.into(), message: redact_urls(message) }
    }
}

/// What is wrong in a text, and where. The message names the key.
pub(super) struct Mistake {
    pub span: Option<Range<usize>>,
    pub message: String,
}

impl Mistake {
    pub(super) fn new(text: &str, error: &toml::de::Error) -> Self {
        let (key, mut message) = describe(text, error);
        // Many messages name the key already.
        if !key.is_empty() && !message.contains(&key) {
            message = format!("{key}: {message}");
        }
        Self { span: error.span(), message }
    }
}

/// Terms of Rust in the messages of serde and the TOML parser, and the terms that operators know.
const TERMS: [(&str, &str); 16] = [
    ("unknown field ", "unknown key "),
    ("missing field ", "missing key "),
    ("duplicate field ", "duplicate key "),
    ("unknown variant ", "unknown value "),
    ("invalid type: map", "invalid type: table"),
    ("invalid type: sequence", "invalid type: list"),
    ("expected a map", "expected a table"),
    ("expected a sequence", "expected a list"),
    ("expected a boolean", "expected true or false"),
    ("expected a nonzero usize", "expected a whole number of at least 1"),
    ("expected u32", "expected a whole number of at most 4294967295"),
    ("expected u64", "expected a whole number"),
    ("expected usize", "expected a whole number"),
    ("expected path string", "expected a path"),
    (
        "string values must be quoted, expected literal string",
        "a string needs quotation marks, such as \"2m\"",
    ),
    (
        "invalid float, expected nothing",
        "invalid number; a string needs quotation marks, such as \"127.0.0.1:8080\"",
    ),
];

/// Keys that are lists of tables.
pub(super) const LISTS_OF_TABLES: [&str; 3] = ["key", "plugin", "room"];

/// The name of the key at which the parser stopped, as far as it can be told, and what is wrong there.
pub(super) fn describe(text: &str, error: &toml::de::Error) -> (String, String) {
    let message = translate(error.message());
    let Some(span) = error.span() else { return (String::new(), message) };
    let key = location::key_at(text, span.start);
    let missing = message.strip_prefix("missing key `").and_then(|rest| rest.strip_suffix('`'));
    if let Some(missing) = missing.filter(|_| !key.is_empty()) {
        let key = format!("{key}.{missing}");
        let hint = expected_shape(&key).map(|shape| format!("; expected {shape}"));
        return (String::new(), format!("{key} is missing{}", hint.unwrap_or_default()));
    }
    let header = location::header_at(text, span.start).unwrap_or_default();
    let is_tier = key == "tier" || (header == "[tier]" && !key.is_empty());
    let wrong_brackets = match message.as_str() {
        message if message.starts_with("invalid type: table, expected a list") => {
            LISTS_OF_TABLES.contains(&&*key).then(|| format!("{key}: write [[{key}]], not [{key}]"))
        }
        message if message.ends_with("expected a table") && is_tier => {
            let given = if header.is_empty() { key.as_str() } else { header };
            Some(format!("tier: write [tier.NAME], such as [tier.default], not {given}"))
        }
        // The parser takes the tables of a list for the fields of the section, so its message misleads.
        _ if LISTS_OF_TABLES.contains(&&*key) => None,
        message if message.starts_with("unknown key") => None,
        _ => (header == format!("[[{key}]]")).then(|| format!("{key}: write [{key}], not [[{key}]]")),
    };
    match wrong_brackets {
        Some(message) => (String::new(), message),
        None => {
            let value = text.get(span).and_then(|value| value.lines().next()).unwrap_or_default();
            let message = with_shape(&key, value, message);
            (key, message)
        }
    }
}

/// The message about a value of the wrong type, with what the value of this key must be and an example.
fn with_shape(key: &str, value: &str, message: String) -> String {
    // Their shapes are those of one item.
    let shape = expected_shape(key).filter(|_| !LISTS_OF_TABLES.contains(&key));
    let Some(shape) = shape else { return message };
    // The parser's message where one of several words is expected.
    if message.starts_with("wanted ") {
        return format!("invalid type: `{value}`, expected {shape}");
    }
    match message.rsplit_once(", expected ").filter(|_| message.starts_with("invalid type: ")) {
        Some((given, _)) => format!("{given}, expected {shape}"),
        None => message,
    }
}

/// The message of a parser as one line, with the terms of TOML.
fn translate(message: &str) -> String {
    let mut message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    for (theirs, ours) in TERMS {
        message = message.replacen(theirs, ours, 1);
    }
    let expected_struct = "expected struct ";
    if let Some(at) = message.find(expected_struct) {
        let name = &message[at + expected_struct.len()..];
        let end = name.find(|c: char| !c.is_alphanumeric()).unwrap_or(name.len());
        message.replace_range(at..at + expected_struct.len() + end, "expected a table");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parser_messages_use_the_terms_of_toml() {
        for (message, expected) in [
            ("unknown field `a`,\n expected one of `b`, `c`", "unknown key `a`, expected one of `b`, `c`"),
            (
                "invalid type: integer `1`, expected struct StoreConfig",
                "invalid type: integer `1`, expected a table",
            ),
            (
                "invalid type: map, expected a sequence in `key`",
                "invalid type: table, expected a list in `key`",
            ),
            (
                "invalid value: integer `0`, expected a nonzero usize",
                "invalid value: integer `0`, expected a whole number of at least 1",
            ),
            ("session.ttl: it is too long", "session.ttl: it is too long"),
        ] {
            assert_eq!(translate(message), expected);
        }
    }
}
