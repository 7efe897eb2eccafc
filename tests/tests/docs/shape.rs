//! What an example may leave open: `…` in a string matches any text, `$name` matches a value that must be the
//! same wherever it appears again, and KEY and ZED-KEY are the keys of the tests.

use serde_json::Value;
use std::collections::HashMap;
use switchyard_tests::{KEY, READER};

#[derive(Default)]
pub struct Captured(HashMap<String, Value>);

impl Captured {
    /// What to send for a line of the document.
    pub fn fill(&self, text: &str) -> String {
        let mut names: Vec<_> = self.0.keys().collect();
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        let mut text = text.replace("ZED-KEY", READER).replace("KEY", KEY);
        for name in names {
            let value = &self.0[name];
            let bare = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text =
                text.replace(&format!("\"${name}\""), &value.to_string()).replace(&format!("${name}"), &bare);
        }
        text
    }

    /// Every field of the example must be present and equal. There may be more fields.
    pub fn compare(&mut self, example: &str, actual: &Value) -> Result<(), String> {
        let expected: Value = serde_json::from_str(&quoted(example))
            .map_err(|error| format!("the example is no JSON: {error}"))?;
        self.same("", &expected, actual).map_err(|why| format!("{why}\n    came: {actual}"))
    }

    fn same(&mut self, path: &str, expected: &Value, actual: &Value) -> Result<(), String> {
        match (expected, actual) {
            (Value::Object(expected), Value::Object(actual)) => {
                expected.iter().try_for_each(|(name, value)| {
                    let path = format!("{path}.{name}");
                    let actual = actual.get(name).ok_or_else(|| format!("{path} is not there"))?;
                    self.same(&path, value, actual)
                })
            }
            (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => {
                let pairs = expected.iter().zip(actual).enumerate();
                pairs.into_iter().try_for_each(|(n, (e, a))| self.same(&format!("{path}[{n}]"), e, a))
            }
            (Value::String(text), _) if is_name(text) => {
                let known = self.0.entry(text[1..].to_owned()).or_insert_with(|| actual.clone());
                match known == actual {
                    true => Ok(()),
                    false => Err(format!("{path} is {actual}, but {text} was {known}")),
                }
            }
            (Value::String(text), Value::String(actual)) if lookalike(text, actual) => Ok(()),
            (expected, actual) if expected == actual => Ok(()),
            _ => Err(format!("{path} is {actual}, not {expected}")),
        }
    }
}

/// Turns `$name` outside of strings, where it stands for a number, into a string.
fn quoted(example: &str) -> String {
    let (mut text, mut inside, mut name) = (String::new(), false, false);
    for c in example.chars() {
        if name && !(c.is_ascii_alphanumeric() || c == '_') {
            text.push('"');
            name = false;
        }
        if c == '"' {
            inside = !inside;
        }
        if c == '$' && !inside {
            text.push('"');
            name = true;
        }
        text.push(c);
    }
    text
}

fn is_name(text: &str) -> bool {
    text.strip_prefix('$')
        .is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric()))
}

/// Whether a text matches the example, in which `…` matches any text.
pub fn lookalike(example: &str, actual: &str) -> bool {
    let Some((start, rest)) = example.split_once('…') else { return example == actual };
    let Some(actual) = actual.strip_prefix(start) else { return false };
    if rest.is_empty() {
        return true;
    }
    (0..=actual.len()).any(|at| actual.is_char_boundary(at) && lookalike(rest, &actual[at..]))
}

#[test]
fn examples_are_compared_strictly() {
    let mut known = Captured::default();
    let actual = serde_json::json!({"a": "s_12", "n": 7, "m": [1, "wait 250 ms"], "more": true});
    known.compare(r#"{"a":"$token","n":$n,"m":[1,"wait … ms"]}"#, &actual).unwrap();
    assert_eq!(known.fill(r#"{"a":"$token","b":$n}"#), r#"{"a":"s_12","b":7}"#);
    for wrong in
        [r#"{"n":8}"#, r#"{"b":1}"#, r#"{"m":[1]}"#, r#"{"m":[1,"wait … s"]}"#, r#"{"n":"$token"}"#, "{"]
    {
        known.compare(wrong, &actual).unwrap_err();
    }
}
