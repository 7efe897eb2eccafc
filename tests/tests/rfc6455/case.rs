//! One case of RFC 6455: the bytes that a client sends, what the server must answer, and the ways in which
//! both are sent.

use super::line::{Got, Line, connect, masked, upgrade};
use serde_json::{Value, json};
use std::time::Duration;
use switchyard_tests::{CLOSE, FIN, PING, TEXT};
use tokio::time::timeout;

#[derive(Clone)]
pub struct Case {
    pub name: String,
    /// The section of RFC 6455.
    pub section: &'static str,
    /// Its number in the Autobahn test suite, if it has one.
    pub autobahn: &'static str,
    /// Pieces that are written together.
    pub sent: Vec<Vec<u8>>,
    /// The answers, in order.
    pub answers: Vec<Answer>,
    /// A pong with this payload. An endpoint may answer only the last of several pings (5.5.3).
    pub pings: Vec<Vec<u8>>,
    pub end: End,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The answer to a `ping` request with this id, which shows that the server read it.
    Echo(String),
    /// The error for a message that was read but is not a request.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// The client closes afterwards, and the server answers.
    Open,
    /// The server closes with this code.
    Closed(u16),
    /// The same without a code.
    ClosedEmpty,
}

/// What the client sends before the case, and how it writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// Piece by piece, after `connected`.
    Pieces,
    /// Byte by byte.
    Bytes,
    /// All at once, together with the upgrade and `connect`, before reading anything.
    AtOnce,
    /// Piece by piece, without `connect`.
    BeforeConnect,
    /// Byte by byte, without `connect`.
    BytesBeforeConnect,
}

/// The maximum number of bytes before `connect`; more are not read.
const LARGEST_FIRST: usize = 16 << 10;

/// The maximum number of pieces of a case that is written byte by byte. A longer case is written in larger
/// pieces.
const PIECES: usize = 300;

pub fn case(section: &'static str, autobahn: &'static str, name: impl Into<String>) -> Case {
    let (sent, answers, pings) = (vec![], vec![], vec![]);
    Case { name: name.into(), section, autobahn, sent, answers, pings, end: End::Open }
}

/// A `ping` request with this id, as it is written in JSON.
pub fn ask(id: &str) -> String {
    format!(r#"{{"type":"ping","id":"{id}"}}"#)
}

impl Case {
    pub fn sends(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.sent.push(bytes.into());
        self
    }

    pub fn frame(self, first: u8, payload: &[u8]) -> Self {
        self.sends(masked(first, payload))
    }

    /// A text that is a `ping` request, and its answer.
    pub fn asks(self, id: &str) -> Self {
        self.frame(FIN | TEXT, ask(id).as_bytes()).echoes(id)
    }

    pub fn pings(mut self, payload: &[u8]) -> Self {
        self.pings.push(payload.to_vec());
        self.frame(FIN | PING, payload)
    }

    pub fn echoes(mut self, id: &str) -> Self {
        self.answers.push(Answer::Echo(id.to_owned()));
        self
    }

    pub fn refused(mut self) -> Self {
        self.answers.push(Answer::Refused);
        self
    }

    pub fn closed(mut self, code: u16) -> Self {
        self.end = End::Closed(code);
        self
    }

    pub fn closed_empty(mut self) -> Self {
        self.end = End::ClosedEmpty;
        self
    }

    /// Whether the case can be tested before `connect`, where the first text ends the connection.
    fn fits(&self, way: Way) -> bool {
        self.answers.is_empty() || !matches!(way, Way::BeforeConnect | Way::BytesBeforeConnect)
    }

    /// Tests a server in one of the ways. The error says what came instead.
    pub async fn hold(&self, url: &str, way: Way) -> Result<(), String> {
        if !self.fits(way) {
            return Ok(());
        }
        let held = timeout(Duration::from_secs(20), self.held(url, way)).await;
        let held = held.unwrap_or_else(|_| Err("no end within 20 s".into()));
        let Self { section, autobahn, name, .. } = self;
        held.map_err(|error| format!("{section} {autobahn} {name}, {way:?} at {url}: {error}"))
    }

    async fn held(&self, url: &str, way: Way) -> Result<(), String> {
        let mut line = Line::open(url).await;
        let mut pieces = self.sent.clone();
        if self.end == End::Open {
            pieces.push(masked(FIN | CLOSE, &1000u16.to_be_bytes()));
        }
        match way {
            Way::AtOnce => {
                let all = [upgrade(), connect(), pieces.concat()].concat();
                // If the server no longer accepts what is written, the frames it sent show it.
                line.write(&all).await.ok();
                let head = line.head().await?;
                if !head.starts_with("http/1.1 101 ") {
                    return Err(head);
                }
                let connected = line.text().await?;
                if connected["type"] != "connected" {
                    return Err(connected.to_string());
                }
            }
            Way::Pieces | Way::BeforeConnect => {
                line = line.ready(way == Way::Pieces).await?;
                for piece in &pieces {
                    line.write(piece).await.ok();
                }
            }
            Way::Bytes | Way::BytesBeforeConnect => {
                line = line.ready(way == Way::Bytes).await?;
                line.write_chopped(&pieces.concat(), PIECES).await.ok();
            }
        }
        let is_stranger = matches!(way, Way::BeforeConnect | Way::BytesBeforeConnect);
        let is_large =
            self.end == End::Closed(1002) && pieces.iter().any(|piece| piece.len() > LARGEST_FIRST);
        match is_stranger && is_large {
            // It is rejected before the server sees what else is wrong with it.
            true => Self { end: End::Closed(1009), ..self.clone() }.compare(&mut line, |_| false).await,
            false => self.compare(&mut line, |_| false).await,
        }
    }

    /// Reads to the end, ignoring texts for which `passes` is true.
    pub async fn compare(
        &self,
        line: &mut Line,
        mut passes: impl FnMut(&Value) -> bool,
    ) -> Result<(), String> {
        let (mut answers, mut pongs, mut closed) = (vec![], vec![], None);
        loop {
            let got = line
                .frame()
                .await
                .map_err(|error| format!("{error}; before: {answers:?} {pongs:?} {closed:?}"))?;
            match got {
                Got::End => break,
                other if closed.is_some() => return Err(format!("behind the close: {other:?}")),
                Got::Text(text) if passes(&text) => {}
                Got::Text(text) => answers.push(match text["type"].as_str() {
                    Some("pong") => Answer::Echo(text["id"].as_str().unwrap_or_default().to_owned()),
                    Some("error") if text["error"]["code"] == json!("bad_frame") => Answer::Refused,
                    _ => return Err(format!("unexpected: {text}")),
                }),
                Got::Pong(payload) => pongs.push(payload),
                Got::Ping(_) => {}
                Got::Close(code) => closed = Some(code),
            }
        }
        if answers != self.answers {
            return Err(format!("answers: {answers:?}"));
        }
        let mut pinged = self.pings.iter();
        if !pongs.iter().all(|pong| pinged.any(|ping| ping == pong)) || pongs.last() != self.pings.last() {
            return Err(format!("pongs: {pongs:x?}"));
        }
        let expected = match self.end {
            End::Open => Some(Some(1000)),
            End::Closed(code) => Some(Some(code)),
            End::ClosedEmpty => Some(None),
        };
        if closed != expected {
            return Err(format!("closed: {closed:?}"));
        }
        Ok(())
    }
}
