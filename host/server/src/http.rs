//! HTTP as both listeners use it: how a request presents its key, and how a refusal is answered. Knows no
//! paths.

mod scheme_hint;

pub(crate) use scheme_hint::{SchemeHint, is_not_http};

use crate::token::looks_like_token;
use axum::{
    Extension,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use switchyard_protocol::{ErrorCode, Refusal, reply, request::Credentials};

/// The key of a request, if it has one. Credentials of another scheme are ignored, because they may be meant
/// for a proxy.
pub(crate) fn presented_key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let invalid = || {
        let message =
            "the key of the request cannot be read; expected Authorization: Bearer KEY or X-API-Key: KEY";
        Refusal::new(ErrorCode::InvalidKey, message)
    };
    for value in headers.get_all(header::AUTHORIZATION) {
        // A single word is a key without its scheme, or the scheme without its key.
        let space = value.as_bytes().iter().position(|byte| *byte == b' ').ok_or_else(invalid)?;
        if value.as_bytes()[..space].eq_ignore_ascii_case(b"bearer") {
            return Ok(Some(value.to_str().map_err(|_| invalid())?[space..].trim()));
        }
    }
    headers.get("x-api-key").map(|value| value.to_str().map_err(|_| invalid())).transpose()
}

/// A key or a token, whichever a text has the form of.
pub(crate) fn credentials(presented: &str) -> Credentials<'_> {
    match looks_like_token(presented) {
        true => Credentials::Token(presented.into()),
        false => Credentials::ApiKey(presented.into()),
    }
}

/// The response to a refused request. Its extensions contain the [`ErrorCode`]. If the refusal says when to
/// retry, so does the header `Retry-After`, in whole seconds.
pub(crate) fn refuse(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.code.status()).expect("codes have valid statuses");
    let body = serde_json::to_string(&reply::ErrorBody { error: refusal }).expect("plain data");
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    let mut response = (status, content_type, Extension(refusal.code), body).into_response();
    if let Some(millis) = refusal.retry_after {
        // Rounded up, because an attempt that comes too early is refused again.
        response.headers_mut().insert(header::RETRY_AFTER, millis.div_ceil(1000).into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn credentials_of_another_scheme_are_not_a_key() {
        let key_of = |lines: &[(&'static str, &'static [u8])]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_bytes(value).unwrap());
            }
            presented_key(&headers).map(|key| key.map(str::to_owned)).map_err(|refusal| refusal.code)
        };
        let key = |key: &str| Ok(Some(key.to_owned()));
        assert_eq!(key_of(&[]), Ok(None));
        assert_eq!(key_of(&[("authorization", b"Bearer sk_1")]), key("sk_1"));
        assert_eq!(key_of(&[("authorization", b"bEARER  sk_1")]), key("sk_1"));
        assert_eq!(key_of(&[("x-api-key", b"sk_1")]), key("sk_1"));
        assert_eq!(key_of(&[("authorization", b"Basic c2tfYWxs")]), Ok(None));
        assert_eq!(key_of(&[("authorization", b"Custom \xff\xfe")]), Ok(None));
        assert_eq!(key_of(&[("authorization", b"Basic c2tfYWxs"), ("x-api-key", b"sk_1")]), key("sk_1"));
        let both = [("authorization", &b"Basic c2tfYWxs"[..]), ("authorization", b"Bearer sk_1")];
        assert_eq!(key_of(&both), key("sk_1"));
        for unreadable in [&b"Bearer"[..], b"sk_1", b"Bearer \xff"] {
            assert_eq!(
                key_of(&[("authorization", unreadable)]),
                Err(ErrorCode::InvalidKey),
                "{unreadable:?}"
            );
        }
    }

    #[test]
    fn a_refusal_says_in_whole_seconds_when_to_retry() {
        for (millis, seconds) in [(1, "1"), (1000, "1"), (1001, "2"), (60_000, "60")] {
            let response = refuse(&Refusal::retry(ErrorCode::RateLimited, "wait", millis));
            assert_eq!(response.status(), 429);
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds, "{millis}");
        }
        let response = refuse(&Refusal::new(ErrorCode::ConnectionLimit, "no more connections"));
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
    }
}
