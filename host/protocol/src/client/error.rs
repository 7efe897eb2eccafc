//! Errors as a client reads them. A newer server may send codes that this version does not know.

use crate::{ErrorCode, Refusal};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// An error code that a client has received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceivedCode {
    /// A code that this version knows.
    Known(ErrorCode),
    /// A code of a newer server, as the wire spells it. It refuses this request alone, like any other code.
    Unknown(Box<str>),
}

impl ReceivedCode {
    /// The code as the wire spells it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(code) => code.as_str(),
            Self::Unknown(text) => text,
        }
    }
}

impl PartialEq<ErrorCode> for ReceivedCode {
    fn eq(&self, code: &ErrorCode) -> bool {
        matches!(self, Self::Known(known) if known == code)
    }
}

impl From<ErrorCode> for ReceivedCode {
    fn from(code: ErrorCode) -> Self {
        Self::Known(code)
    }
}

impl fmt::Display for ReceivedCode {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ReceivedCode {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ReceivedCode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Box::<str>::deserialize(from)?;
        Ok(ErrorCode::from_text(&text).map_or(Self::Unknown(text), Self::Known))
    }
}

/// Why the server refused a request: a [`Refusal`] as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ServerError {
    /// For programs.
    pub code: ReceivedCode,
    /// For people.
    pub message: String,
    /// Milliseconds after which a retry makes sense.
    #[serde(rename = "retryAfter", skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl From<Refusal> for ServerError {
    fn from(Refusal { code, message, retry_after }: Refusal) -> Self {
        Self { code: code.into(), message, retry_after }
    }
}

/// The error in the body of an HTTP answer, such as one to a refused upgrade; `None` if the body has none,
/// because something else answers there.
pub fn parse_http_error(body: &[u8]) -> Option<ServerError> {
    #[derive(Deserialize)]
    struct Body {
        error: ServerError,
    }
    serde_json::from_slice::<Body>(body).ok().map(|body| body.error)
}
