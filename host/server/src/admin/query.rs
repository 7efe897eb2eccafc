//! The query parameters of a call. Unlike axum's extractors, these name the parameter and what is right, and
//! reject parameters that the call does not have: a misspelt one would otherwise be ignored.

use axum::{
    extract::{MatchedPath, Query},
    http::request::Parts,
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::Error as _};
use std::fmt;
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

/// Parses a number that is not negative.
pub(super) fn parse_number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("expected an integer that is not negative, got '{}'", Excerpt(text)))
}

/// For serde: an optional number.
pub(super) fn number<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(input)?;
    parse_number(&text).map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_repeats_only_the_beginning_of_a_query() {
        let long = "ä".repeat(MAX_QUOTED_CHARS);
        assert_eq!(Excerpt(&long).to_string(), long);
        assert_eq!(Excerpt(&format!("{long}x")).to_string(), format!("{long}…"));
    }
}
