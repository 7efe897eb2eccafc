//! How a connection was lost, and what the wire protocol tells a client to do then.

use super::backoff::random_fraction;
use std::{fmt, io, time::Duration};
use switchyard_protocol::client::parse_http_error;
use tokio_rustls::rustls::{self, InvalidMessage};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError, http::Response, protocol::CloseFrame};

/// A draining node asks for a delay of milliseconds. A longer one than this is taken for a mistake.
const MAX_DRAIN_DELAY: Duration = Duration::from_secs(60);

/// Why there is no connection, or no longer. Displayed as one sentence for the user.
#[derive(Debug, PartialEq)]
pub enum ConnectionLoss {
    /// The server closed the WebSocket.
    Closed {
        /// The close code; 1005 if the server sent none.
        code: u16,
        /// The reason in the close frame, which may be empty.
        reason: String,
        /// The text of an error frame that came before the close. It says more than the reason.
        error: Option<String>,
    },
    /// The network or the server failed. Another attempt may succeed.
    Broken(String),
    /// The server sent nothing for this long.
    Silent(Duration),
    /// Another attempt would fail in the same way.
    Permanent(String),
}

/// Whether and when to connect again.
#[derive(Debug, PartialEq)]
pub(super) enum Retry {
    Never,
    /// With growing delays.
    BackOff,
    After(Duration),
}

impl ConnectionLoss {
    pub(super) fn closed(frame: Option<CloseFrame>) -> Self {
        // RFC 6455 uses 1005 for a close frame without a code.
        let (code, reason) = frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
        Self::Closed { code, reason, error: None }
    }

    /// `what` says what failed, because some errors of the library say only of which kind they are.
    pub(super) fn broken(what: &str, error: tungstenite::Error) -> Self {
        match error {
            // rustls wraps its errors in I/O errors. This one does not go away by waiting.
            tungstenite::Error::Io(error) if error.to_string().contains("certificate") => {
                Self::Permanent(format!(
                    "the server's certificate is not trusted ({error}); trust it, or its authority, with --ca FILE"
                ))
            }
            tungstenite::Error::Io(error) => Self::Broken(format!("{what}: {error}")),
            error => Self::Broken(format!("{what}: {error}")),
        }
    }

    /// The upgrade failed. `has_tls`: the scheme of the URL is `wss`.
    pub(super) fn cannot_connect(error: tungstenite::Error, has_tls: bool) -> Self {
        match &error {
            tungstenite::Error::Io(error) if is_not_tls(error) => {
                Self::Permanent("the server does not use TLS here; try ws://".to_owned())
            }
            tungstenite::Error::Protocol(ProtocolError::HttparseError(_)) if !has_tls => Self::Permanent(
                "the server does not answer in HTTP here, so it probably uses TLS; try wss://".to_owned(),
            ),
            _ => Self::broken("cannot connect", error),
        }
    }

    /// Adds the error frame that came before the close.
    pub(super) fn with_error(mut self, text: Option<String>) -> Self {
        if let Self::Closed { error, .. } = &mut self {
            *error = text;
        }
        self
    }

    /// The server answered the upgrade with an ordinary HTTP response.
    pub(super) fn upgrade_refused(response: &Response<Option<Vec<u8>>>) -> Self {
        let status = response.status();
        let body = response.body().as_deref().unwrap_or_default();
        let text = match parse_http_error(body) {
            Some(refusal) => refusal.to_string(),
            None => format!("the server answered HTTP {status} instead of opening a WebSocket"),
        };
        match status.as_u16() {
            // A node, or the proxy in front of it, may recover.
            429 | 500.. => Self::Broken(text),
            _ => Self::Permanent(text),
        }
    }

    pub(super) fn retry(&self) -> Retry {
        match self {
            Self::Permanent(_) => Retry::Never,
            Self::Broken(_) | Self::Silent(_) => Retry::BackOff,
            Self::Closed { code, reason, .. } => match code {
                // It was only too much at a time.
                4420 => Retry::BackOff,
                // What this client sent was wrong, and would be wrong again.
                4400..=4499 | 1002 | 1003 | 1007..=1009 => Retry::Never,
                4600..=4699 => Retry::After(match reason.parse() {
                    Ok(millis) => Duration::from_millis(millis).min(MAX_DRAIN_DELAY),
                    Err(_) => Duration::from_secs(1).mul_f64(random_fraction()),
                }),
                _ => Retry::BackOff,
            },
        }
    }
}

/// Whether something that is not TLS answered a TLS handshake.
fn is_not_tls(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)))
}

impl std::error::Error for ConnectionLoss {}

impl fmt::Display for ConnectionLoss {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Closed { error: Some(error), .. } => write!(f, "{error}"),
            Self::Closed { code: code @ 4600..=4699, .. } => write!(f, "the node is draining ({code})"),
            Self::Closed { code, reason, .. } => {
                let reason = if reason.is_empty() { "without a reason" } else { reason };
                write!(f, "the server closed the connection: {reason} ({code})")
            }
            Self::Broken(text) | Self::Permanent(text) => f.write_str(text),
            Self::Silent(time) => write!(f, "the server sent nothing for {} s", time.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(code: u16, reason: &str) -> ConnectionLoss {
        ConnectionLoss::Closed { code, reason: reason.into(), error: None }
    }

    #[test]
    fn the_close_code_decides_whether_to_retry() {
        for code in [4400, 4401, 4403, 4409, 4410, 4429, 4499, 1002, 1007, 1009] {
            assert_eq!(closed(code, "").retry(), Retry::Never, "{code}");
        }
        for code in [4420, 4500, 4503, 4504, 4508, 1000, 1001, 1005, 1011] {
            assert_eq!(closed(code, "").retry(), Retry::BackOff, "{code}");
        }
        assert_eq!(closed(4600, "120").retry(), Retry::After(Duration::from_millis(120)));
        assert_eq!(closed(4600, "9999999").retry(), Retry::After(MAX_DRAIN_DELAY));
        assert!(
            matches!(closed(4600, "soon").retry(), Retry::After(delay) if delay < Duration::from_secs(1))
        );
    }

    #[test]
    fn a_loss_is_displayed_as_one_sentence() {
        let loss = closed(4401, "a valid key or token is required");
        assert_eq!(
            loss.to_string(),
            "the server closed the connection: a valid key or token is required (4401)"
        );
        let loss = loss.with_error(Some("invalid_key: not known".into()));
        assert_eq!(loss.to_string(), "invalid_key: not known");
        assert_eq!(closed(4500, "").to_string(), "the server closed the connection: without a reason (4500)");
    }

    #[test]
    fn an_http_error_is_displayed_with_the_servers_message() {
        let body = br#"{"error":{"code":"not_found","message":"the WebSocket is at /v2/realtime"}}"#;
        let response =
            |status, body: &[u8]| Response::builder().status(status).body(Some(body.to_vec())).unwrap();
        let loss = ConnectionLoss::upgrade_refused(&response(404, body));
        assert_eq!(loss, ConnectionLoss::Permanent("not_found: the WebSocket is at /v2/realtime".into()));
        assert_eq!(ConnectionLoss::upgrade_refused(&response(503, b"")).retry(), Retry::BackOff);
        let loss = ConnectionLoss::upgrade_refused(&response(200, b"<html>"));
        assert!(loss.to_string().contains("HTTP 200 OK"));
    }
}
