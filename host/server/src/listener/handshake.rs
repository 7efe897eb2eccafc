//! Whether a request asks for a WebSocket as RFC 6455 has it, and the head of the answer. Knows no keys of ours.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header},
};
use base64::{
    Engine, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The subprotocol, for clients that ask for one.
const PROTOCOL: &str = "switchyard.v1";
/// The one version there is.
pub(super) const VERSION: HeaderValue = HeaderValue::from_static("13");

/// As keys are written; what the last bits say does not matter.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Why a request does not become a WebSocket.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("the method is {0}")]
    Method(Method),
    #[error("HTTP/1.1 is needed")]
    Http,
    #[error("{0}")]
    Headers(&'static str),
    #[error("Sec-WebSocket-Version must be 13")]
    Version,
}

/// The answer to a request that may become a WebSocket.
pub(super) fn accept(request: &Request<Body>) -> Result<Response<Body>, Unfit> {
    if request.method() != Method::GET {
        return Err(Unfit::Method(request.method().clone()));
    }
    if request.version() < Version::HTTP_11 {
        return Err(Unfit::Http);
    }
    let headers = request.headers();
    let is_empty = |length: &HeaderValue| length.as_bytes().iter().all(|digit| *digit == b'0');
    if headers.contains_key(header::TRANSFER_ENCODING)
        || !headers.get_all(header::CONTENT_LENGTH).iter().all(is_empty)
    {
        return Err(Unfit::Headers("a body is not expected"));
    }
    only(headers, header::HOST, "there must be one Host")?;
    if !tokens(headers, header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return Err(Unfit::Headers("Connection must name Upgrade"));
    }
    if !tokens(headers, header::UPGRADE).any(|token| token.eq_ignore_ascii_case("websocket")) {
        return Err(Unfit::Headers("Upgrade must name websocket"));
    }
    if headers.get_all(header::SEC_WEBSOCKET_VERSION).iter().count() > 1 {
        return Err(Unfit::Headers("there must be one Sec-WebSocket-Version"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        return Err(Unfit::Version);
    }
    let key = only(headers, header::SEC_WEBSOCKET_KEY, "there must be one Sec-WebSocket-Key")?;
    if BASE64.decode(key.as_bytes()).map(|nonce| nonce.len()) != Ok(16) {
        return Err(Unfit::Headers("Sec-WebSocket-Key must be 16 bytes in base64"));
    }
    let accepted = derive_accept_key(key.as_bytes());
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accepted);
    if let Some(protocol) =
        tokens(headers, header::SEC_WEBSOCKET_PROTOCOL).find(|token| token.eq_ignore_ascii_case(PROTOCOL))
    {
        // As it was offered: clients compare letter by letter.
        response = response.header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response.body(Body::empty()).expect("every header is text"))
}

/// A header of which there must be one.
fn only<'a>(headers: &'a HeaderMap, name: HeaderName, wrong: &'static str) -> Result<&'a HeaderValue, Unfit> {
    let mut values = headers.get_all(name).into_iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        _ => Err(Unfit::Headers(wrong)),
    }
}

/// What a list names, on one line or several (RFC 9110, 5.6.1).
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}
