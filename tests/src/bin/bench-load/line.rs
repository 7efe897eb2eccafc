//! The connection of a client that is as cheap as possible: it splits the data into frames and parses no JSON.

use crate::peer::Peer;
use std::{
    io,
    sync::{Arc, LazyLock},
    time::Instant,
};
use switchyard_tests::{CLOSE, FIN, PING, PONG, TEXT, framed};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

pub struct Line {
    io: Box<dyn Io>,
    came: Vec<u8>,
}

/// Microseconds since the program started.
pub fn micros() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGAN.elapsed().as_micros() as u64
}

impl Line {
    /// Opens a WebSocket. Only the minimal server interprets `path`.
    pub async fn open(peer: &Peer, path: &str) -> io::Result<Self> {
        let tcp = TcpStream::connect(&peer.address).await?;
        tcp.set_nodelay(true)?;
        let io: Box<dyn Io> = match &peer.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let name = ServerName::try_from("localhost").expect("a name");
                Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await?)
            }
        };
        let mut line = Self { io, came: Vec::new() };
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        line.write(head.as_bytes()).await?;
        loop {
            line.fill().await?;
            if let Some(end) = line.came.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = line.came.drain(..end + 4).collect();
                return match head.starts_with(b"HTTP/1.1 101") {
                    true => Ok(line),
                    false => Err(io::Error::other(String::from_utf8_lossy(&head).into_owned())),
                };
            }
        }
    }

    /// Connects to the node, and returns the connection and its session, which is new or the given one.
    pub async fn connect(peer: &Peer, session: Option<&str>) -> io::Result<(Self, String)> {
        Self::connect_as(peer, &peer.auth, session).await
    }

    /// The same with this `auth`.
    pub async fn connect_as(peer: &Peer, auth: &str, session: Option<&str>) -> io::Result<(Self, String)> {
        let mut line = Self::open(peer, "/v2/realtime").await?;
        let session = session.map_or(String::new(), |session| format!(r#","session":"{session}""#));
        line.send(&format!(r#"{{"type":"connect","auth":{auth}{session}}}"#)).await?;
        let answer = line.text().await?;
        match field(&answer, r#""session":""#) {
            Some(session) => Ok((line, session.to_owned())),
            None => Err(io::Error::other(answer)),
        }
    }

    pub async fn send(&mut self, text: &str) -> io::Result<()> {
        self.write(&framed(FIN | TEXT, text.as_bytes())).await
    }

    /// With TLS, data that the socket did not take stays in a buffer until it is flushed.
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// Waits for more bytes.
    pub async fn fill(&mut self) -> io::Result<()> {
        self.came.reserve(1024);
        match self.io.read_buf(&mut self.came).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Passes on complete text frames, and answers pings.
    pub async fn texts(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let (mut done, mut pinged) = (0, None);
        while let Some((first, start, end)) = frame(&self.came[done..]) {
            let payload = &self.came[done + start..done + end];
            match first & 15 {
                TEXT => each(payload),
                PING => pinged = Some(payload.to_vec()),
                _ => {}
            }
            done += end;
        }
        self.came.drain(..done);
        match pinged {
            Some(payload) => self.write(&framed(FIN | PONG, &payload)).await,
            None => Ok(()),
        }
    }

    /// Reads until the server closes, and returns the close code.
    pub async fn closed(mut self) -> io::Result<u16> {
        loop {
            while let Some((first, start, end)) = frame(&self.came) {
                if let (CLOSE, [a, b, ..]) = (first & 15, &self.came[start..end]) {
                    return Ok(u16::from_be_bytes([*a, *b]));
                }
                self.came.drain(..end);
            }
            self.fill().await?;
        }
    }

    /// Returns the next text frame, if frames arrive one at a time.
    pub async fn text(&mut self) -> io::Result<String> {
        loop {
            if let Some((first, start, end)) = frame(&self.came) {
                let text = String::from_utf8_lossy(&self.came[start..end]).into_owned();
                self.came.drain(..end);
                match first & 15 {
                    TEXT => return Ok(text),
                    _ => continue,
                }
            }
            self.fill().await?;
        }
    }
}

/// The first byte of a complete frame, and the range of its payload.
fn frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (start, length) = match *bytes {
        [_, 126, a, b, ..] => (4, u16::from_be_bytes([a, b]).into()),
        [_, 127, a, b, c, d, e, f, g, h, ..] => (10, u64::from_be_bytes([a, b, c, d, e, f, g, h]) as usize),
        [_, length @ 0..126, ..] => (2, length.into()),
        _ => return None,
    };
    (bytes.len() >= start + length).then_some((bytes[0], start, start + length))
}

/// The text between this prefix and the next quote.
fn field<'a>(text: &'a str, begin: &str) -> Option<&'a str> {
    text.split_once(begin)?.1.split('"').next()
}

/// The fields of a delivery that clients use.
pub struct Delivery<'a> {
    pub room: &'a [u8],
    pub offset: u64,
    /// When it was due to be published, in [`micros`].
    pub at: u64,
}

impl<'a> Delivery<'a> {
    /// Returns `None` if the frame is not a delivery.
    pub fn read(text: &'a [u8]) -> Option<Self> {
        let rest = text.strip_prefix(br#"{"type":"message","room":""#)?;
        let (room, rest) = rest.split_at(rest.iter().position(|b| *b == b'"')?);
        let (offset, rest) = number(rest.strip_prefix(br#"","offset":"#)?);
        let at = rest.windows(5).position(|five| five == br#""at":"#)?;
        Some(Self { room, offset, at: number(&rest[at + 5..]).0 })
    }
}

fn number(text: &[u8]) -> (u64, &[u8]) {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let value = text[..digits].iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
    (value, &text[digits..])
}
