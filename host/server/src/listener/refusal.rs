//! What becomes of an upgrade whose key was refused: it is counted, and no other key is tried on the same connection.

use crate::limits::Unauthenticated;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use switchyard_protocol::ErrorCode;

/// The answer, when it may be given.
pub(super) async fn seen_off(peer: &Unauthenticated, mut response: Response) -> Response {
    if let Some(code @ (ErrorCode::InvalidKey | ErrorCode::ExpiredKey)) =
        response.extensions().get::<ErrorCode>().copied()
    {
        peer.refused(code).await;
    }
    if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
