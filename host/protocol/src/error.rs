//! Every error code of the wire, and a refusal: a code with the sentence that explains it.

use serde::Serialize;

macro_rules! codes {
    ($($name:ident = $text:literal, $status:literal;)*) => {
        /// A code that clients may branch on. It never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($name),* }

        impl Code {
            pub const ALL: &[Code] = &[$(Code::$name),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text),* }
            }

            /// The HTTP status that fits it.
            pub fn status(self) -> u16 {
                match self { $(Code::$name => $status),* }
            }
        }
    };
}

codes! {
    BadFrame = "bad_frame", 400;
    UnknownType = "unknown_type", 400;
    InvalidRequest = "invalid_request", 400;
    AuthRequired = "auth_required", 401;
    AuthTimeout = "auth_timeout", 401;
    InvalidKey = "invalid_key", 401;
    ExpiredKey = "expired_key", 401;
    Forbidden = "forbidden", 403;
    ConnectionLimit = "connection_limit", 429;
    RoomInvalid = "room_invalid", 400;
    RoomLimit = "room_limit", 429;
    RoomRejected = "room_rejected", 403;
    FilterInvalid = "filter_invalid", 400;
    NotSubscribed = "not_subscribed", 409;
    MessageRejected = "message_rejected", 422;
    MessageTooLarge = "message_too_large", 413;
    RateLimited = "rate_limited", 429;
    Overloaded = "overloaded", 503;
    PluginFailed = "plugin_failed", 503;
    StoreUnavailable = "store_unavailable", 503;
    Internal = "internal", 500;
    // HTTP only.
    NotFound = "not_found", 404;
    MethodNotAllowed = "method_not_allowed", 405;
    Conflict = "conflict", 409;
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

/// Why something was not done. `message` is for the client: what was wrong with which input and what would be
/// right, and never a key, a token or message data.
#[derive(Clone, Debug, PartialEq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub code: Code,
    pub message: String,
    /// Milliseconds after which a retry makes sense.
    #[serde(rename = "retryAfter", skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl Refusal {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    /// `after` in milliseconds.
    pub fn retry(code: Code, message: impl Into<String>, after: u64) -> Self {
        Self { code, message: message.into(), retry_after: Some(after) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_written_as_the_wire_says() {
        let refusal = Refusal::retry(Code::RateLimited, "wait", 250);
        let text = serde_json::to_string(&refusal).unwrap();
        assert_eq!(text, r#"{"code":"rate_limited","message":"wait","retryAfter":250}"#);
    }
}
