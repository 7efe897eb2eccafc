//! The query parameters of a call. Unlike axum's extractors, these name the parameter and what is right, and reject
//! parameters that the call does not have: a misspelt one would otherwise be ignored.

use super::api::ApiError;
use axum::{
    extract::{FromRequestParts, MatchedPath},
    http::request::Parts,
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::Error as _};
use switchyard_protocol::Refusal;

/// The query parameters of a call that has some.
pub(super) struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let parsed = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        let invalid = |text: String| {
            let reason = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            Refusal::invalid(format!("query: {reason}"))
        };
        let axum::extract::Query(query) = parsed.map_err(|rejection| invalid(rejection.body_text()))?;
        Ok(Self(query))
    }
}

/// The calls that have query parameters.
const CALLS_WITH_QUERY: [&str; 4] =
    ["/v1/rooms", "/v1/rooms/{room}/history", "/v1/connections", "/v1/plugins/{name}/rollback"];

/// Rejects query parameters of a call that has none.
pub(super) fn check_no_query(parts: &Parts) -> Result<(), Refusal> {
    let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    match parts.uri.query() {
        Some(query) if !query.is_empty() && !CALLS_WITH_QUERY.contains(&path) => {
            Err(Refusal::invalid(format!("{} {path} has no query parameters, got '{query}'", parts.method)))
        }
        _ => Ok(()),
    }
}

/// Parses a number that is not negative.
pub(super) fn parse_number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("expected an integer that is not negative, got '{text}'"))
}

/// For serde: an optional number.
pub(super) fn number<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(input)?;
    parse_number(&text).map(Some).map_err(D::Error::custom)
}
