//! What the two listeners share of HTTP: how a key is presented and how a refusal is answered.

use axum::{
    Extension,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use switchyard_protocol::{ErrorCode, Refusal, reply};

/// The key of a request, where there is one. Credentials of another scheme are not meant for us: a proxy may have asked for them.
pub(crate) fn presented(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let wrong = || {
        let right = "Authorization: Bearer KEY or X-API-Key: KEY";
        Refusal::new(ErrorCode::InvalidKey, format!("the key of the request cannot be read; it is {right}"))
    };
    for value in headers.get_all(header::AUTHORIZATION) {
        // A scheme that stands alone is a key without its scheme, or the scheme without its key.
        let space = value.as_bytes().iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
        if value.as_bytes()[..space].eq_ignore_ascii_case(b"bearer") {
            return Ok(Some(value.to_str().map_err(|_| wrong())?[space..].trim()));
        }
    }
    headers.get("x-api-key").map(|value| value.to_str().map_err(|_| wrong())).transpose()
}

/// The code is among the response's extensions, too.
pub(crate) fn refuse(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.code.status()).expect("codes have valid statuses");
    let body = serde_json::to_string(&reply::ErrorBody { error: refusal }).expect("plain data");
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, kind, Extension(refusal.code), body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn credentials_of_another_scheme_are_no_key() {
        let presented = |lines: &[(&'static str, &'static [u8])]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_bytes(value).unwrap());
            }
            presented(&headers).map(|key| key.map(str::to_owned)).map_err(|refusal| refusal.code)
        };
        let key = |key: &str| Ok(Some(key.to_owned()));
        assert_eq!(presented(&[]), Ok(None));
        assert_eq!(presented(&[("authorization", b"Bearer sk_1")]), key("sk_1"));
        assert_eq!(presented(&[("authorization", b"bEARER  sk_1")]), key("sk_1"));
        assert_eq!(presented(&[("x-api-key", b"sk_1")]), key("sk_1"));
        assert_eq!(presented(&[("authorization", b"Basic c2tfYWxs")]), Ok(None));
        assert_eq!(presented(&[("authorization", b"Custom \xff\xfe")]), Ok(None));
        assert_eq!(presented(&[("authorization", b"Basic c2tfYWxs"), ("x-api-key", b"sk_1")]), key("sk_1"));
        let both = [("authorization", &b"Basic c2tfYWxs"[..]), ("authorization", b"Bearer sk_1")];
        assert_eq!(presented(&both), key("sk_1"));
        for unreadable in [&b"Bearer"[..], b"sk_1", b"Bearer \xff"] {
            assert_eq!(
                presented(&[("authorization", unreadable)]),
                Err(ErrorCode::InvalidKey),
                "{unreadable:?}"
            );
        }
    }
}
