//! Reading JSON into types, with errors that name the field. Everything is read from slices: reading from
//! `str` as well would add a second copy of serde_json's parser to every plugin.

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::fmt;

/// Parses `text`. The error calls it `what`: "config", "filter" or "data".
pub(crate) fn typed<'a, T: Deserialize<'a>>(what: &str, text: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| describe_error(what, text, &error))
}

/// Serializes a value. Fields have the order of the type, so equal values have equal texts.
pub(crate) fn canonical(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

/// An error such as `filter.minChange: invalid type: string "high", expected a number`.
fn describe_error(what: &str, text: &[u8], error: &serde_json::Error) -> String {
    let full = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    if error.is_syntax() || error.is_eof() {
        return format!("{what} is not valid JSON: {full}");
    }
    let mut reason = full.strip_suffix(&position).unwrap_or(&full).to_owned();
    let mut at = offset(text, error.line(), error.column());
    if reason.ends_with(DECIMAL) {
        let read = text[..at.unwrap_or(0).min(text.len())].trim_ascii_end();
        at = Some(end_of_value(read, reason.contains("type: map") || reason.contains("type: sequence")));
    }
    let path = path_at(text, at);
    for (rust, plain) in EXPECTATIONS {
        if let Some(rest) = reason.strip_suffix(rust) {
            reason = format!("{rest}{plain}");
        }
    }
    format!("{what}{path}: {reason}")
}

/// The end of the value that serde has just read. `Decimal` detects an error only after it has read the whole
/// value, and by then serde_json may have read the comma or bracket behind it too.
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

/// The end of every error of [`crate::Decimal`].
pub(crate) const DECIMAL: &str = "expected a number";

/// Replacements for serde's names of Rust types. Those who read the errors write JSON or TOML.
const EXPECTATIONS: [(&str, &str); 7] = [
    ("expected f64", "expected a number"),
    ("expected u16", "expected a whole number, 0 to 65535"),
    ("expected u32", "expected a whole number, 0 to 4294967295"),
    ("expected u64", "expected a whole number, 0 or more"),
    ("expected usize", "expected a whole number, 0 or more"),
    ("expected a sequence", "expected a list"),
    ("expected a map", "expected an object"),
];

/// The number of bytes read before an error. Lines count from 1; at line 0, the position is unknown.
fn offset(text: &[u8], line: usize, column: usize) -> Option<usize> {
    let earlier = line.checked_sub(1)?;
    let lines: usize = text.split_inclusive(|byte| *byte == b'\n').take(earlier).map(<[u8]>::len).sum();
    Some(lines + column)
}

/// The path of the field at `offset`. serde_json reports the position of an error but not the field.
fn path_at(text: &[u8], offset: Option<usize>) -> String {
    let mut path = String::new();
    let (Some(offset), Ok(whole)) = (offset, std::str::from_utf8(text)) else { return path };
    let mut inner = whole;
    while let Ok(Parts(parts)) = serde_json::from_slice(inner.as_bytes()) {
        let Some((step, part)) = parts.into_iter().find(|(_, part)| contains(whole, part, offset)) else {
            break;
        };
        path.push_str(&step);
        inner = part;
    }
    path
}

/// The fields of an object or the items of a list, each as its step in the path and its text.
struct Parts<'a>(Vec<(String, &'a str)>);

impl<'de> Deserialize<'de> for Parts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PartsVisitor;
        impl<'de> Visitor<'de> for PartsVisitor {
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
        deserializer.deserialize_any(PartsVisitor)
    }
}

/// Whether `offset` is within `part`, a slice of `whole`. It is at the start of `part` if serde did not
/// expect this kind of value, otherwise behind what serde has read of it. There is at least a comma between
/// two parts, so the end of a part is never the start of the next one.
fn contains(whole: &str, part: &str, offset: usize) -> bool {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    (start..=start + part.len()).contains(&offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "the tests only look at errors")]
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
    fn errors_name_the_field_and_what_was_expected() {
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
