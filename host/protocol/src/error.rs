//! The error codes of the wire, and the refusal with which the server answers a request.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal;)*) => {
        /// An error code. Programs may branch on it: a code never changes its meaning.
        ///
        /// New codes may be added. A client therefore reads codes as [`crate::client::ReceivedCode`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name),* }

        impl ErrorCode {
            /// All codes.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name),*];

            /// The code as the wire spells it, such as `bad_frame`.
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$name => $text),* }
            }

            /// The code that the wire spells like this; `None` for one that this version does not know.
            pub fn from_text(text: &str) -> Option<Self> {
                match text { $($text => Some(ErrorCode::$name),)* _ => None }
            }

            /// Whether somebody has presented a key or token that is wrong, and may be guessing. One that has expired
            /// was right.
            pub fn is_invalid_credential(self) -> bool {
                matches!(self, Self::InvalidKey | Self::ExpiredKey | Self::InvalidToken)
            }

            /// The HTTP status of an answer with this code.
            pub fn status(self) -> u16 {
                match self { $(ErrorCode::$name => $status),* }
            }
        }
    };
}

codes! {
    /// The frame is not one JSON object, is binary, or contains something that other parsers reject.
    BadFrame = "bad_frame", 400;
    /// There is no request of this type.
    UnknownType = "unknown_type", 400;
    /// A field is missing or wrong, or the request cannot be made now.
    InvalidRequest = "invalid_request", 400;
    /// The first frame is not a `connect` with a key; on HTTP, there is no key.
    AuthRequired = "auth_required", 401;
    /// The first frame did not arrive in time.
    AuthTimeout = "auth_timeout", 401;
    /// The key is unknown, or was revoked.
    InvalidKey = "invalid_key", 401;
    /// The key has expired.
    ExpiredKey = "expired_key", 401;
    /// The user token is not one that this server accepts: its form, issuer, audience, signature or a claim is
    /// wrong, or it was revoked.
    InvalidToken = "invalid_token", 401;
    /// The user token has expired.
    ExpiredToken = "expired_token", 401;
    /// The keys of the token's issuer are not known at the moment, so the token could not be verified.
    IssuerUnavailable = "issuer_unavailable", 503;
    /// The key lacks the scope, or the operation does not apply to this kind of room.
    Forbidden = "forbidden", 403;
    /// The principal has reached its connection limit.
    ConnectionLimit = "connection_limit", 429;
    /// No room can have this name, the plugin knows no such room, or nobody has this inbox.
    RoomInvalid = "room_invalid", 400;
    /// The connection may be in no more rooms, or the plugin allows no more rooms or filters.
    RoomLimit = "room_limit", 429;
    /// The room is closed to this client.
    RoomRejected = "room_rejected", 403;
    /// The filter is not an object or is too large, the plugin rejects it, or the room accepts none.
    FilterInvalid = "filter_invalid", 400;
    /// Only members of the room may make this request.
    NotSubscribed = "not_subscribed", 409;
    /// The room's plugin rejects this message.
    MessageRejected = "message_rejected", 422;
    /// `data` has more bytes than are allowed.
    MessageTooLarge = "message_too_large", 413;
    /// Too many messages, or too many attempts with invalid keys.
    RateLimited = "rate_limited", 429;
    /// The room or the node has too much to do, is stopping, or is short of memory.
    Overloaded = "overloaded", 503;
    /// The room's plugin failed or is not available.
    PluginFailed = "plugin_failed", 503;
    /// The store does not answer, or another connection has resumed the session.
    StoreUnavailable = "store_unavailable", 503;
    /// An internal error of the server.
    Internal = "internal", 500;
    /// HTTP only: there is no such room, connection or path.
    NotFound = "not_found", 404;
    /// HTTP only: the path takes other methods.
    MethodNotAllowed = "method_not_allowed", 405;
    /// HTTP only: the operation is not possible in the current state.
    Conflict = "conflict", 409;
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

/// Fails for a code that this version does not know; see [`crate::client::ReceivedCode`].
impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let unknown = || serde::de::Error::custom(format_args!("unknown error code '{text}'"));
        Self::from_text(&text).ok_or_else(unknown)
    }
}

/// Why the server refuses a request: the error object of the wire,
/// `{"code":"rate_limited","message":"…","retryAfter":250}`.
///
/// A client reads it as [`crate::client::ServerError`], which also takes codes that this version does not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what is wrong with which input, and what would be right. Never contains a key, a token or
    /// message data.
    pub message: String,
    /// Milliseconds after which a retry makes sense.
    #[serde(rename = "retryAfter", skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// A refusal that does not ask for a retry.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// A refusal with [`ErrorCode::InvalidRequest`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    /// A refusal of a request that the client may repeat after this many milliseconds.
    pub fn retry(code: ErrorCode, message: impl Into<String>, after_ms: u64) -> Self {
        Self { code, message: message.into(), retry_after: Some(after_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_form_of_the_wire() {
        let refusal = Refusal::retry(ErrorCode::RateLimited, "wait", 250);
        let text = serde_json::to_string(&refusal).unwrap();
        assert_eq!(text, r#"{"code":"rate_limited","message":"wait","retryAfter":250}"#);
        assert_eq!(serde_json::from_str::<Refusal>(&text).unwrap(), refusal);
    }

    #[test]
    fn every_code_is_found_by_its_text() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_text(code.as_str()), Some(*code));
        }
        assert_eq!(ErrorCode::from_text("no_such_code"), None);
    }
}
