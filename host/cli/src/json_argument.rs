//! Parsers of arguments that are JSON: a message, a filter, the configuration of a plugin.

use serde_json::value::RawValue;

/// Parses the data of a message, and keeps its text.
pub(crate) fn parse_data(text: &str) -> Result<Box<RawValue>, String> {
    let expected = r#"expected something like '{"a":1}' for an object or '"a"' for a string"#;
    serde_json::from_str(text).map_err(|error| format!("invalid JSON: {error}; {expected}"))
}

/// Parses a filter, and keeps its text.
pub(crate) fn parse_filter(text: &str) -> Result<Box<RawValue>, String> {
    match serde_json::from_str::<Box<RawValue>>(text) {
        Ok(filter) if filter.get().starts_with('{') => Ok(filter),
        Ok(_) => Err(r#"expected a JSON object such as {"minChange":0.05}"#.to_owned()),
        Err(error) => {
            Err(format!(r#"invalid JSON: {error}; expected an object such as {{"minChange":0.05}}"#))
        }
    }
}

/// Parses the configuration of a plugin.
pub(crate) fn parse_config(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!(r#"invalid JSON: {error}; expected an object such as {{"max":10}}"#))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_is_expected() {
        assert_eq!(parse_data(r#" {"x" : 1.10} "#).unwrap().get(), r#"{"x" : 1.10}"#);
        assert!(parse_data("hello").unwrap_err().ends_with(r#"for an object or '"a"' for a string"#));
        assert_eq!(parse_filter(r#" {"a" : 1} "#).unwrap().get(), r#"{"a" : 1}"#);
        assert!(parse_filter("[1]").unwrap_err().contains("expected a JSON object"));
        assert!(parse_filter("{a:1}").unwrap_err().contains("invalid JSON"));
        assert_eq!(parse_config("{}").unwrap(), serde_json::json!({}));
        assert!(parse_config("oops").unwrap_err().ends_with(r#"expected an object such as {"max":10}"#));
    }
}
