//! A peer without a WebSocket library, which can send what no library would, and reads single frames.

use crate::{Closed, EVENT_TIMEOUT, Server};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

pub const FIN: u8 = 0x80;
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// A masked frame. `first` is its opcode, with [`FIN`] if it is the last of its message.
pub fn framed(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let mut bytes = match length {
        0..126 => vec![first, FIN | length as u8],
        126..65536 => [&[first, FIN | 126], &(length as u16).to_be_bytes()[..]].concat(),
        _ => [&[first, FIN | 127], &(length as u64).to_be_bytes()[..]].concat(),
    };
    // A mask of zeros leaves the payload as it is.
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// The address and the path of a URL.
fn parts(url: &str) -> (&str, &str) {
    let mut parts = url.splitn(4, '/').skip(2);
    (parts.next().expect("an address"), parts.next().expect("a path"))
}

pub struct Raw {
    pub tcp: TcpStream,
}

impl Raw {
    /// Opens a TCP connection and sends nothing.
    pub async fn tcp(address: &str) -> Self {
        Self { tcp: TcpStream::connect(address).await.expect("a listener") }
    }

    /// Requests an upgrade with these header lines. Returns the head of the response in lower case, and the
    /// connection.
    pub async fn upgrade(server: &Server, headers: &str) -> (String, Self) {
        Self::upgrade_at(&server.url, headers).await
    }

    async fn upgrade_at(url: &str, headers: &str) -> (String, Self) {
        let (address, path) = parts(url);
        Self::tcp(address).await.upgrade_to(path, headers).await
    }

    /// Requests an upgrade on this connection, like [`upgrade`](Self::upgrade).
    pub async fn upgrade_to(self, path: &str, headers: &str) -> (String, Self) {
        let mut raw = self;
        let head = format!(
            "GET /{path} HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        raw.bytes(head.as_bytes()).await;
        let mut head = vec![];
        while !head.ends_with(b"\r\n\r\n") {
            head.push(
                timeout(EVENT_TIMEOUT, raw.tcp.read_u8()).await.expect("a head in time").expect("a head"),
            );
        }
        (String::from_utf8(head).expect("text").to_lowercase(), raw)
    }

    /// Opens a WebSocket without sending `connect`.
    pub async fn open(server: &Server) -> Self {
        Self::upgraded(&server.url).await
    }

    /// Opens a WebSocket at a URL without sending `connect`.
    pub async fn upgraded(url: &str) -> Self {
        let (head, raw) = Self::upgrade_at(url, "").await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        raw
    }

    /// Opens a session of `acme`.
    pub async fn connect(server: &Server) -> Self {
        Self::open(server).await.greeted().await
    }

    /// Opens a session of `acme` with a small receive buffer.
    pub async fn connect_narrow(server: &Server) -> Self {
        let (address, path) = parts(&server.url);
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let tcp = socket.connect(address.parse().expect("an address")).await.expect("a listener");
        let (head, raw) = Self { tcp }.upgrade_to(path, "").await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        raw.greeted().await
    }

    /// Opens a session of `acme`.
    pub async fn greeted(self) -> Self {
        let mut raw = self;
        raw.send(json!({"type": "connect", "auth": {"apiKey": crate::KEY}})).await;
        assert_eq!(raw.json().await["type"], "connected");
        raw
    }

    pub async fn bytes(&mut self, bytes: &[u8]) {
        timeout(EVENT_TIMEOUT, self.tcp.write_all(bytes))
            .await
            .expect("a peer that reads")
            .expect("a connection");
    }

    pub async fn send(&mut self, frame: Value) {
        self.bytes(&framed(FIN | TEXT, frame.to_string().as_bytes())).await;
    }

    /// Reads the next frame: its first byte and its payload. `None` at the end of the connection.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let (first, length) = (self.tcp.read_u8().await?, self.tcp.read_u8().await?);
            let length = match length {
                126 => self.tcp.read_u16().await?.into(),
                127 => self.tcp.read_u64().await?,
                length => length.into(),
            };
            let mut payload = vec![0; length as usize];
            self.tcp.read_exact(&mut payload).await?;
            Ok::<_, std::io::Error>((first, payload))
        };
        timeout(EVENT_TIMEOUT, read).await.expect("a frame in time").ok()
    }

    /// Reads the next text frame.
    pub async fn json(&mut self) -> Value {
        loop {
            let (first, payload) = self.frame().await.expect("a frame");
            match first & 15 {
                TEXT => return serde_json::from_slice(&payload).expect("JSON"),
                PING | PONG => {}
                _ => panic!("expected text, got {first:#x} {:?}", String::from_utf8_lossy(&payload)),
            }
        }
    }

    /// Reads until the server sends a close frame.
    pub async fn closed(&mut self) -> Closed {
        while let Some((first, payload)) = self.frame().await {
            if first == FIN | CLOSE {
                let (code, reason) = payload.split_at(2);
                let code = u16::from_be_bytes([code[0], code[1]]);
                return Closed { code, reason: String::from_utf8(reason.to_vec()).expect("UTF-8") };
            }
        }
        panic!("the connection ended without a close frame");
    }

    /// Reads and drops everything until the connection ends.
    pub async fn ended(&mut self) {
        let mut bin = vec![0; 4096];
        let end = async { while self.tcp.read(&mut bin).await.is_ok_and(|read| read > 0) {} };
        timeout(EVENT_TIMEOUT * 2, end).await.expect("an end in time");
    }
}
