//! The opening handshake of RFC 6455: checks a request, and makes the response. Does not know API keys.

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
/// The only version of the WebSocket protocol.
pub(super) const VERSION: HeaderValue = HeaderValue::from_static("13");

/// The encoding of `Sec-WebSocket-Key`. Some clients set the unused bits at its end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Why a request cannot become a WebSocket.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("the method must be GET, got {0}")]
    Method(Method),
    #[error("the protocol must be HTTP/1.1, got {0:?}")]
    HttpVersion(Version),
    /// A header is missing or wrong.
    #[error("{0}")]
    Header(&'static str),
    #[error("Sec-WebSocket-Version must be 13")]
    WebSocketVersion,
}

/// The response to a valid request.
pub(super) fn accept(request: &Request<Body>) -> Result<Response<Body>, HandshakeError> {
    if request.method() != Method::GET {
        return Err(HandshakeError::Method(request.method().clone()));
    }
    if request.version() < Version::HTTP_11 {
        return Err(HandshakeError::HttpVersion(request.version()));
    }
    let headers = request.headers();
    let is_empty = |length: &HeaderValue| length.as_bytes().iter().all(|digit| *digit == b'0');
    if headers.contains_key(header::TRANSFER_ENCODING)
        || !headers.get_all(header::CONTENT_LENGTH).iter().all(is_empty)
    {
        return Err(HandshakeError::Header("the request must not have a body"));
    }
    single(headers, header::HOST, "there must be exactly one Host header")?;
    if !tokens(headers, header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return Err(HandshakeError::Header("the header Connection must contain Upgrade"));
    }
    if !tokens(headers, header::UPGRADE).any(|token| token.eq_ignore_ascii_case("websocket")) {
        return Err(HandshakeError::Header("the header Upgrade must contain websocket"));
    }
    if headers.get_all(header::SEC_WEBSOCKET_VERSION).iter().count() > 1 {
        return Err(HandshakeError::Header("there must be exactly one Sec-WebSocket-Version header"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        return Err(HandshakeError::WebSocketVersion);
    }
    let key =
        single(headers, header::SEC_WEBSOCKET_KEY, "there must be exactly one Sec-WebSocket-Key header")?;
    if BASE64.decode(key.as_bytes()).map(|nonce| nonce.len()) != Ok(16) {
        return Err(HandshakeError::Header("Sec-WebSocket-Key must be 16 bytes in base64"));
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
        // Spelled as in the request, because clients compare it case-sensitively.
        response = response.header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response.body(Body::empty()).expect("every header is ASCII"))
}

/// The value of a header that must occur exactly once.
fn single<'a>(
    headers: &'a HeaderMap,
    name: HeaderName,
    error: &'static str,
) -> Result<&'a HeaderValue, HandshakeError> {
    let mut values = headers.get_all(name).into_iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        _ => Err(HandshakeError::Header(error)),
    }
}

/// The elements of a header that is a list, on one line or several (RFC 9110, section 5.6.1).
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}
