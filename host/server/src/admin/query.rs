//! The query parameters of a call. Unlike axum's extractors, these name the parameter and what is right, and
//! reject parameters that the call does not have: a misspelt one would otherwise be ignored.

use axum::{
    extract::{MatchedPath, Query},
    http::request::Parts,
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{fmt, ops::RangeInclusive};
use switchyard_protocol::Refusal;

/// How much of a caller's text an error repeats.
const MAX_QUOTED_CHARS: usize = 100;

/// The query parameters of a call. Each call names its own in the type of its [`Caller`](super::api::Caller),
/// so that none can be forgotten.
pub(super) trait QueryParameters: DeserializeOwned {
    fn parse(parts: &Parts) -> Result<Self, Refusal> {
        let Query(query) = Query::try_from_uri(&parts.uri).map_err(|rejection| {
            let text = rejection.body_text();
            let reason = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            Refusal::invalid(format!("query: {}", Excerpt(reason)))
        })?;
        Ok(query)
    }
}

/// The parameters of a call that has none.
#[derive(Deserialize)]
pub(super) struct NoQuery {}

impl QueryParameters for NoQuery {
    fn parse(parts: &Parts) -> Result<Self, Refusal> {
        match parts.uri.query() {
            None | Some("") => Ok(Self {}),
            Some(query) => {
                let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
                let (method, query) = (&parts.method, Excerpt(query));
                Err(Refusal::invalid(format!("{method} {path} has no query parameters, got '{query}'")))
            }
        }
    }
}

/// The beginning of a text that a caller sent.
struct Excerpt<'a>(&'a str);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0.char_indices().nth(MAX_QUOTED_CHARS) {
            Some((end, _)) => write!(f, "{}…", &self.0[..end]),
            None => f.write_str(self.0),
        }
    }
}

/// The largest offset: integers up to it are exact in every language.
const MAX_OFFSET: u64 = (1 << 53) - 1;

/// Parses an integer within `range`. `name` is the parameter.
pub(super) fn parse_number(name: &str, text: &str, range: RangeInclusive<u64>) -> Result<u64, Refusal> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (min, max, text) = (range.start(), range.end(), Excerpt(text));
        Refusal::invalid(format!("{name} must be an integer from {min} to {max}, got '{text}'"))
    })
}

/// Parses the offset of a message.
pub(super) fn parse_offset(text: &str) -> Result<u64, Refusal> {
    parse_number("offset", text, 0..=MAX_OFFSET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_out_of_range_is_told_with_its_name_and_the_range() {
        assert_eq!(parse_number("limit", "1000", 1..=1000).unwrap(), 1000);
        for text in ["0", "1001", "-1", "99999999999999999999", "ten", "1.5", ""] {
            let refusal = parse_number("limit", text, 1..=1000).unwrap_err();
            assert_eq!(refusal.message, format!("limit must be an integer from 1 to 1000, got '{text}'"));
        }
        assert!(parse_offset("9007199254740991").is_ok() && parse_offset("9007199254740992").is_err());
    }

    #[test]
    fn an_error_repeats_only_the_beginning_of_a_query() {
        let long = "ä".repeat(MAX_QUOTED_CHARS);
        assert_eq!(Excerpt(&long).to_string(), long);
        assert_eq!(Excerpt(&format!("{long}x")).to_string(), format!("{long}…"));
    }
}
