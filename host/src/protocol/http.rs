//! What the two listeners share of HTTP: how a key is presented and how a refusal is answered.

use super::{Code, Refusal, reply};
use axum::{
    Extension,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

/// The key of a request, where there is one.
pub fn presented(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let wrong = || {
        let right = "Authorization: Bearer KEY or X-API-Key: KEY";
        Refusal::new(Code::InvalidKey, format!("the key of the request cannot be read; it is {right}"))
    };
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.to_str().map_err(|_| wrong())?;
        let (scheme, key) = value.split_once(' ').ok_or_else(wrong)?;
        return if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(key.trim())) } else { Err(wrong()) };
    }
    headers.get("x-api-key").map(|value| value.to_str().map_err(|_| wrong())).transpose()
}

/// The code is among the response's extensions, too.
pub fn refuse(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.code.status()).expect("codes have valid statuses");
    let body = serde_json::to_string(&reply::ErrorBody { error: refusal }).expect("plain data");
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, kind, Extension(refusal.code), body).into_response()
}
