//! How a connection ended, and what the wire contract says to do then.

use super::backoff::chance;
use std::{fmt, time::Duration};
use switchyard_protocol::client::parse_http_error;
use tokio_tungstenite::tungstenite::{self, http::Response, protocol::CloseFrame};

/// A draining node names milliseconds; more than this is a mistake.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq)]
pub enum Lost {
    Closed {
        code: u16,
        reason: String,
        /// What an error frame said before.
        because: Option<String>,
    },
    /// Below the WebSocket, or no WebSocket at all.
    Broken(String),
    /// Nothing came for so long.
    Silent(Duration),
    /// What trying again does not change.
    Final(String),
}

#[derive(Debug, PartialEq)]
pub enum Advice {
    Stop,
    BackOff,
    After(Duration),
}

impl Lost {
    pub fn closed(frame: Option<CloseFrame>) -> Self {
        // 1005 is how RFC 6455 writes that no code came.
        let (code, reason) = frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
        Self::Closed { code, reason, because: None }
    }

    /// The library says of some errors only which kind they are, so `what` says what they did.
    pub fn broken(what: &str, error: tungstenite::Error) -> Self {
        match error {
            // rustls wraps its own errors, and this is one that waiting does not heal.
            tungstenite::Error::Io(error) if error.to_string().contains("certificate") => {
                Self::Final(format!(
                    "the server's certificate is not trusted ({error}); name it, or its authority's, with --ca FILE"
                ))
            }
            tungstenite::Error::Io(error) => Self::Broken(format!("{what}: {error}")),
            error => Self::Broken(format!("{what}: {error}")),
        }
    }

    pub fn because(mut self, said: Option<String>) -> Self {
        if let Self::Closed { because, .. } = &mut self {
            *because = said;
        }
        self
    }

    /// An HTTP answer instead of an upgrade.
    pub fn answered(answer: &Response<Option<Vec<u8>>>) -> Self {
        let status = answer.status();
        let body = answer.body().as_deref().unwrap_or_default();
        let text = match parse_http_error(body) {
            Some(refusal) => refusal.to_string(),
            None => format!("answered HTTP {status}, which is no WebSocket"),
        };
        match status.as_u16() {
            // The node, or what stands before it, may be another one in a while.
            429 | 500.. => Self::Broken(text),
            _ => Self::Final(text),
        }
    }

    pub fn advice(&self) -> Advice {
        match self {
            Self::Final(_) => Advice::Stop,
            Self::Broken(_) | Self::Silent(_) => Advice::BackOff,
            Self::Closed { code, reason, .. } => match code {
                // What we sent was wrong, and would be again.
                4400..=4499 | 1002 | 1003 | 1007..=1009 => Advice::Stop,
                4600..=4699 => Advice::After(match reason.parse() {
                    Ok(millis) => Duration::from_millis(millis).min(LONGEST),
                    Err(_) => Duration::from_secs(1).mul_f64(chance()),
                }),
                _ => Advice::BackOff,
            },
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Closed { because: Some(because), .. } => write!(f, "{because}"),
            Self::Closed { code: code @ 4600..=4699, .. } => write!(f, "the node is draining ({code})"),
            Self::Closed { code, reason, .. } => {
                let told = if reason.is_empty() { "without a reason" } else { reason };
                write!(f, "the server closed the connection: {told} ({code})")
            }
            Self::Broken(why) | Self::Final(why) => f.write_str(why),
            Self::Silent(time) => write!(f, "nothing came from the server for {} s", time.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(code: u16, reason: &str) -> Lost {
        Lost::Closed { code, reason: reason.into(), because: None }
    }

    #[test]
    fn the_hundreds_digit_says_what_to_do() {
        for code in [4400, 4401, 4403, 4409, 4410, 4429, 4499, 1002, 1007, 1009] {
            assert_eq!(closed(code, "").advice(), Advice::Stop, "{code}");
        }
        for code in [4500, 4503, 4504, 4508, 1000, 1001, 1005, 1011] {
            assert_eq!(closed(code, "").advice(), Advice::BackOff, "{code}");
        }
        assert_eq!(closed(4600, "120").advice(), Advice::After(Duration::from_millis(120)));
        assert_eq!(closed(4600, "9999999").advice(), Advice::After(LONGEST));
        assert!(
            matches!(closed(4600, "soon").advice(), Advice::After(wait) if wait < Duration::from_secs(1))
        );
    }

    #[test]
    fn a_loss_is_one_sentence() {
        let lost = closed(4401, "a valid key is required");
        assert_eq!(lost.to_string(), "the server closed the connection: a valid key is required (4401)");
        let lost = lost.because(Some("invalid_key: not known".into()));
        assert_eq!(lost.to_string(), "invalid_key: not known");
        assert_eq!(closed(4500, "").to_string(), "the server closed the connection: without a reason (4500)");
    }

    #[test]
    fn an_http_answer_is_told_in_the_servers_words() {
        let body = br#"{"error":{"code":"not_found","message":"the WebSocket is at /v2/realtime"}}"#;
        let answer =
            |status, body: &[u8]| Response::builder().status(status).body(Some(body.to_vec())).unwrap();
        let lost = Lost::answered(&answer(404, body));
        assert_eq!(lost, Lost::Final("not_found: the WebSocket is at /v2/realtime".into()));
        assert_eq!(Lost::answered(&answer(503, b"")).advice(), Advice::BackOff);
        assert!(Lost::answered(&answer(200, b"<html>")).to_string().contains("HTTP 200 OK"));
    }
}
