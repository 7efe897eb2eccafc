//! Typed JSON whose errors name the field. Read from slices only: reading from `str` would be a second copy of
//! serde_json's parser in every guest.

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::fmt;

/// Parses `text`; `what` is the word for it in the error ("config", "filter", "data").
pub(crate) fn typed<'a, T: Deserialize<'a>>(what: &str, text: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| explained(what, text, &error))
}

/// The text of a typed value: fields in the order of the type, so that equal values are equal texts.
pub(crate) fn canonical(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

/// `filter.minChange: invalid type: string "high", expected a number`
fn explained(what: &str, text: &[u8], error: &serde_json::Error) -> String {
    let full = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    if error.is_syntax() || error.is_eof() {
        return format!("{what} is not valid JSON: {full}");
    }
    let mut reason = full.strip_suffix(&place).unwrap_or(&full).to_owned();
    let mut at = offset(text, error.line(), error.column());
    if reason.ends_with(DECIMAL) {
        let read = text[..at.unwrap_or(0).min(text.len())].trim_ascii_end();
        at = Some(end_of_value(read, reason.contains("type: map") || reason.contains("type: sequence")));
    }
    let path = path_at(text, at);
    for (rust, words) in WORDS {
        if let Some(rest) = reason.strip_suffix(rust) {
            reason = format!("{rest}{words}");
        }
    }
    format!("{what}{path}: {reason}")
}

/// A decimal is found wrong when it was read, and what was read is then more than the value: a comma or a bracket behind it.
fn end_of_value(read: &[u8], ends_with_bracket: bool) -> usize {
    let is_bracket = |text: &[u8]| text.ends_with(b"]") || text.ends_with(b"}");
    let Some((last, before)) = read.split_last() else { return 0 };
    let before = before.trim_ascii_end();
    match last {
        b',' => before.len(),
        b']' | b'}' if !ends_with_bracket || is_bracket(before) => before.len(),
        _ => read.len(),
    }
}

/// How the errors of [`crate::Decimal`] end.
pub(crate) const DECIMAL: &str = "expected a number";

/// serde speaks of Rust's types; clients write JSON and operators TOML.
const WORDS: [(&str, &str); 7] = [
    ("expected f64", "expected a number"),
    ("expected u16", "expected a whole number, 0 to 65535"),
    ("expected u32", "expected a whole number, 0 to 4294967295"),
    ("expected u64", "expected a whole number, 0 or more"),
    ("expected usize", "expected a whole number, 0 or more"),
    ("expected a sequence", "expected a list"),
    ("expected a map", "expected an object"),
];

/// How many bytes were read when the error came up. Lines count from 1; line 0 means that nothing is known.
fn offset(text: &[u8], line: usize, column: usize) -> Option<usize> {
    let earlier = line.checked_sub(1)?;
    let lines: usize = text.split_inclusive(|byte| *byte == b'\n').take(earlier).map(<[u8]>::len).sum();
    Some(lines + column)
}

/// serde_json knows the place of an error but not the field, so the field is looked up by its place.
fn path_at(text: &[u8], offset: Option<usize>) -> String {
    let mut path = String::new();
    let (Some(offset), Ok(whole)) = (offset, std::str::from_utf8(text)) else { return path };
    let mut inner = whole;
    while let Ok(Parts(parts)) = serde_json::from_slice(inner.as_bytes()) {
        let Some((step, part)) = parts.into_iter().find(|(_, part)| holds(whole, part, offset)) else {
            break;
        };
        path.push_str(&step);
        inner = part;
    }
    path
}

/// The members of an object or the items of a list: the step of the path to each, and its text.
struct Parts<'a>(Vec<(String, &'a str)>);

impl<'de> Deserialize<'de> for Parts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Parts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object or a list")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut parts = Vec::new();
                while let Some((name, part)) = map.next_entry::<String, &RawValue>()? {
                    parts.push((format!(".{name}"), part.get()));
                }
                Ok(Parts(parts))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element::<&RawValue>()? {
                    parts.push((format!("[{}]", parts.len()), part.get()));
                }
                Ok(Parts(parts))
            }
        }
        deserializer.deserialize_any(Members)
    }
}

/// Whether `offset` is within `part`, a piece of `whole`: at its start when serde stumbled over what kind of value it
/// is, else behind what was read of it. Between two parts there is a comma at least, so one of them holds it.
fn holds(whole: &str, part: &str, offset: usize) -> bool {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    (start..=start + part.len()).contains(&offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only errors are looked at")]
    struct Sample {
        min: f64,
        #[serde(default)]
        sizes: Vec<Vec<crate::Decimal>>,
        #[serde(default)]
        least: Option<crate::Decimal>,
        #[serde(default)]
        sides: Vec<Vec<u32>>,
    }

    #[test]
    fn errors_name_the_field_and_what_would_be_right() {
        for (text, error) in [
            (r#"{"min":"high"}"#, r#"filter.min: invalid type: string "high", expected a number"#),
            (
                "{\"min\":1,\n \"sides\": [[1],\n[2, -3]]}",
                "filter.sides[1][1]: invalid value: integer `-3`, expected a whole number, 0 to 4294967295",
            ),
            (r#"{"min":1,"sides":{}}"#, "filter.sides: invalid type: map, expected a list"),
            (r#"{"min":1,"sides":[[1],2]}"#, "filter.sides[1]: invalid type: integer `2`, expected a list"),
            (
                r#"{"min":1,"sizes":[[1,2],["many" , 3]]}"#,
                r#"filter.sizes[1][0]: invalid type: string "many", expected a number"#,
            ),
            (
                r#"{"min":1,"sizes":[[1,2],[3,{} ] ]}"#,
                "filter.sizes[1][1]: invalid type: map, expected a number",
            ),
            (r#"{"min":1,"least":"5"}"#, r#"filter.least: invalid type: string "5", expected a number"#),
            (r#"{"least":[1],"min":1}"#, "filter.least: invalid type: sequence, expected a number"),
            (r#"{"sides":[]}"#, "filter: missing field `min`"),
            (
                r#"{"min":1,"mim":2}"#,
                "filter: unknown field `mim`, expected one of `min`, `sizes`, `least`, `sides`",
            ),
            (r#"{"min":1"#, "filter is not valid JSON: EOF while parsing an object at line 1 column 8"),
        ] {
            assert_eq!(typed::<Sample>("filter", text.as_bytes()).unwrap_err(), error);
        }
    }
}
