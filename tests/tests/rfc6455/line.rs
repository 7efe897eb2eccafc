//! A client that writes exact bytes over TCP or TLS, and checks that what the server sends follows RFC 6455.

use serde_json::{Value, json};
use std::{
    io,
    sync::{Arc, LazyLock},
};
use switchyard_tests::{CLOSE, Certificate, FIN, KEY, PING, PONG, TEXT};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

/// The certificate of all nodes with TLS.
pub static CERTIFICATE: LazyLock<Certificate> = LazyLock::new(Certificate::generate);

static TRUSTING: LazyLock<TlsConnector> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.certificate.as_bytes()).expect("PEM");
    roots.add(certificate).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
});

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub struct Line {
    io: Box<dyn Io>,
    read: Vec<u8>,
}

/// A frame from the server.
#[derive(Debug, PartialEq)]
pub enum Got {
    Text(Value),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// A close frame; `None` if it has no code.
    Close(Option<u16>),
    /// The end of the stream, as opposed to a reset.
    End,
}

fn address(url: &str) -> &str {
    url.split('/').nth(2).expect("scheme://address/path")
}

/// The head of an upgrade as a library sends it.
pub fn upgrade() -> Vec<u8> {
    b"GET /v2/realtime HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        .to_vec()
}

/// A frame with a mask. `first` is its opcode, with [`FIN`] if it is the last frame of its message.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let length = payload.len();
    let mut bytes = match length {
        0..126 => vec![first, 0x80 | length as u8],
        126..65536 => [&[first, 0x80 | 126], &(length as u16).to_be_bytes()[..]].concat(),
        _ => [&[first, 0x80 | 127], &(length as u64).to_be_bytes()[..]].concat(),
    };
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The `connect` of the principal `acme`.
pub fn connect() -> Vec<u8> {
    masked(FIN | TEXT, json!({"type": "connect", "auth": {"apiKey": KEY}}).to_string().as_bytes())
}

impl Line {
    /// Connects to the process at a URL.
    pub async fn open(url: &str) -> Self {
        let tcp = TcpStream::connect(address(url)).await.expect("a listener");
        Self::over(url, tcp).await
    }

    /// A connection whose kernel buffers little of what it does not read.
    pub async fn narrow(url: &str) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let tcp = socket.connect(address(url).parse().expect("an address")).await.expect("a listener");
        Self::over(url, tcp).await
    }

    async fn over(url: &str, tcp: TcpStream) -> Self {
        tcp.set_nodelay(true).expect("a socket");
        let io: Box<dyn Io> = match url.starts_with("wss:") {
            false => Box::new(tcp),
            true => {
                let name = ServerName::try_from("localhost").expect("a name");
                Box::new(TRUSTING.connect(name, tcp).await.expect("a trusted server"))
            }
        };
        Self { io, read: vec![] }
    }

    /// After the upgrade, and after `connected` if requested.
    pub async fn ready(mut self, greeted: bool) -> Result<Self, String> {
        self.write(&upgrade()).await.map_err(|error| format!("the upgrade: {error}"))?;
        let head = self.head().await?;
        if !head.starts_with("http/1.1 101 ") {
            return Err(head);
        }
        if greeted {
            self.write(&connect()).await.map_err(|error| format!("connect: {error}"))?;
            let connected = self.text().await?;
            if connected["type"] != "connected" {
                return Err(connected.to_string());
            }
        }
        Ok(self)
    }

    /// Writes. If the server has closed and accepts no more, reading shows it.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// Ends its side of the stream.
    pub async fn end(&mut self) -> io::Result<()> {
        self.io.shutdown().await
    }

    /// At most this many pieces, one after the other.
    pub async fn write_chopped(&mut self, bytes: &[u8], pieces: usize) -> io::Result<()> {
        for piece in bytes.chunks(bytes.len().div_ceil(pieces).max(1)) {
            self.write(piece).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// The head of an HTTP answer, in lower case.
    pub async fn head(&mut self) -> Result<String, String> {
        loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<_> = self.read.drain(..end + 4).collect();
                return String::from_utf8(head).map(|head| head.to_lowercase()).map_err(|e| e.to_string());
            }
            if !self.more().await? {
                return Err(format!(
                    "the stream ended in the head: {:?}",
                    String::from_utf8_lossy(&self.read)
                ));
            }
        }
    }

    /// Everything up to the end of the stream.
    pub async fn rest(&mut self) -> Result<Vec<u8>, String> {
        while self.more().await? {}
        Ok(std::mem::take(&mut self.read))
    }

    async fn more(&mut self) -> Result<bool, String> {
        match self.io.read_buf(&mut self.read).await {
            Ok(read) => Ok(read > 0),
            Err(error) => Err(format!("reading failed: {error}")),
        }
    }

    /// The next frame. It is an error if the server violated the protocol or reset the connection.
    pub async fn frame(&mut self) -> Result<Got, String> {
        loop {
            if let Some((got, length)) = parse(&self.read)? {
                self.read.drain(..length);
                return Ok(got);
            }
            if !self.more().await? {
                return match self.read.is_empty() {
                    true => Ok(Got::End),
                    false => Err(format!("the stream ended within a frame: {:x?}", &self.read)),
                };
            }
        }
    }

    /// The next text frame, before which only pings may come.
    pub async fn text(&mut self) -> Result<Value, String> {
        loop {
            match self.frame().await? {
                Got::Text(text) => return Ok(text),
                Got::Ping(_) | Got::Pong(_) => {}
                other => return Err(format!("expected a text, got {other:?}")),
            }
        }
    }
}

/// The frame at the start of these bytes, and its length.
fn parse(bytes: &[u8]) -> Result<Option<(Got, usize)>, String> {
    let [first, second, ..] = *bytes else { return Ok(None) };
    if second & 0x80 != 0 {
        return Err("5.1: the server masks a frame".into());
    }
    let (length, header) = match (second & 0x7f, bytes) {
        (126, [_, _, a, b, ..]) => (u16::from_be_bytes([*a, *b]) as usize, 4),
        (127, [_, _, a, b, c, d, e, f, g, h, ..]) => {
            (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) as usize, 10)
        }
        (126 | 127, _) => return Ok(None),
        (length, _) => (length as usize, 2),
    };
    if (header == 4 && length < 126) || (header == 10 && length < 65_536) {
        return Err(format!("5.2: {length} bytes are not encoded in the fewest bytes"));
    }
    let Some(payload) = bytes.get(header..header + length) else { return Ok(None) };
    if first & FIN == 0 || (first & 15 >= CLOSE && length > 125) {
        return Err(format!("5.4, 5.5: the frame begins {first:x} {second:x}"));
    }
    let got = match first & 0x7f {
        TEXT => Got::Text(serde_json::from_slice(payload).map_err(|error| format!("no JSON: {error}"))?),
        PING => Got::Ping(payload.to_vec()),
        PONG => Got::Pong(payload.to_vec()),
        CLOSE => match payload {
            [] => Got::Close(None),
            [a, b, reason @ ..] if std::str::from_utf8(reason).is_ok() => {
                Got::Close(Some(u16::from_be_bytes([*a, *b])))
            }
            _ => return Err(format!("5.5.1: a close of {payload:x?}")),
        },
        other => return Err(format!("5.2: a frame that begins with {other:x}")),
    };
    Ok(Some((got, header + length)))
}
