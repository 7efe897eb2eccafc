//! The header of the PROXY protocol, version 2, in which a proxy names its client. Reads nothing beyond it, and
//! does not decide who is believed.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How a header begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// How a header of version 1 begins, which is text.
const VERSION_1: &[u8; 6] = b"PROXY ";
/// Size of what comes before the addresses, in bytes: signature, version and command, family, and length.
const PREFIX_BYTES: usize = 16;
/// Maximum size of a header in bytes: what fits into the smallest TCP segment that every host must accept.
const MAX_HEADER_BYTES: usize = 536;
/// Size of the addresses and ports of a connection in bytes, over IPv4 and IPv6.
const IPV4_BYTES: usize = 12;
const IPV6_BYTES: usize = 36;

/// Why there is no header that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidHeader {
    /// Many load balancers check in this way whether somebody listens.
    #[error("the connection ended without sending anything")]
    Closed,
    #[error("expected the header of PROXY protocol v2 at the start of the connection, got something else")]
    Missing,
    #[error("got a header of PROXY protocol v1, which is text; expected v2 (in HAProxy: send-proxy-v2)")]
    Version1,
    #[error("the connection ended within the header of PROXY protocol v2")]
    Truncated,
    #[error("the header of PROXY protocol v2 has {0} bytes; expected at most {MAX_HEADER_BYTES}")]
    TooLong(usize),
    #[error("invalid header of PROXY protocol v2: {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for InvalidHeader {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Io(error),
        }
    }
}

/// Reads a header. `None`: the proxy connects for itself, such as for a health check, or for a client that has
/// no IP address.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, InvalidHeader> {
    let prefix = read_prefix(stream).await?;
    let [version_and_command, family, length @ ..] = &prefix[SIGNATURE.len()..] else { unreachable!() };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    if PREFIX_BYTES + length > MAX_HEADER_BYTES {
        return Err(InvalidHeader::TooLong(PREFIX_BYTES + length));
    }
    let is_proxied = match version_and_command {
        0x20 => false,
        0x21 => true,
        0x22..=0x2f => return Err(InvalidHeader::Malformed("its command is neither LOCAL nor PROXY")),
        _ => return Err(InvalidHeader::Malformed("its version is not 2")),
    };
    let mut addresses = [0; IPV6_BYTES];
    let addresses = &mut addresses[..length.min(IPV6_BYTES)];
    stream.read_exact(addresses).await?;
    // More about the connection, such as the host name in its TLS handshake.
    discard(stream, length - addresses.len()).await?;
    match (is_proxied, family) {
        (false, _) => Ok(None),
        (true, 0x11) => Ok(Some(ipv4_source(addresses)?)),
        (true, 0x21) => Ok(Some(ipv6_source(addresses)?)),
        // Unspecified, UDP or Unix sockets.
        (true, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => Ok(None),
        (true, _) => Err(InvalidHeader::Malformed("its address family or transport is unknown")),
    }
}

/// Reads what comes before the addresses. Stops at the first byte that cannot belong to it, because a peer that
/// sends something else may wait for an answer.
async fn read_prefix(stream: &mut (impl AsyncRead + Unpin)) -> Result<[u8; PREFIX_BYTES], InvalidHeader> {
    let (mut prefix, mut filled) = ([0; PREFIX_BYTES], 0);
    while filled < PREFIX_BYTES {
        match stream.read(&mut prefix[filled..]).await? {
            0 if filled == 0 => return Err(InvalidHeader::Closed),
            0 => return Err(InvalidHeader::Truncated),
            read => filled += read,
        }
        let received = &prefix[..filled];
        let begins_with = |start: &[u8]| received.iter().zip(start).all(|(byte, expected)| byte == expected);
        if begins_with(VERSION_1) && filled >= VERSION_1.len() {
            return Err(InvalidHeader::Version1);
        }
        if !begins_with(SIGNATURE) && !begins_with(VERSION_1) {
            return Err(InvalidHeader::Missing);
        }
    }
    Ok(prefix)
}

async fn discard(stream: &mut (impl AsyncRead + Unpin), bytes: usize) -> io::Result<()> {
    let (mut left, mut buffer) = (bytes, [0; 64]);
    while left > 0 {
        let part = left.min(buffer.len());
        stream.read_exact(&mut buffer[..part]).await?;
        left -= part;
    }
    Ok(())
}

const TOO_SHORT: InvalidHeader = InvalidHeader::Malformed("it is too short for the addresses of its family");

fn ipv4_source(addresses: &[u8]) -> Result<SocketAddr, InvalidHeader> {
    let addresses: &[u8; IPV4_BYTES] = addresses.first_chunk().ok_or(TOO_SHORT)?;
    let [a, b, c, d, _, _, _, _, port @ .., _, _] = *addresses;
    Ok((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes(port)).into())
}

fn ipv6_source(addresses: &[u8]) -> Result<SocketAddr, InvalidHeader> {
    let addresses: &[u8; IPV6_BYTES] = addresses.first_chunk().ok_or(TOO_SHORT)?;
    let source: &[u8; 16] = addresses.first_chunk().expect("the first half of the addresses");
    let port = u16::from_be_bytes([addresses[32], addresses[33]]);
    Ok((Ipv6Addr::from(*source).to_canonical(), port).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{iter, task::Poll};
    use tokio::io::ReadBuf;

    /// A stream that yields one byte at a time.
    struct Bytewise<'a>(&'a [u8]);

    impl AsyncRead for Bytewise<'_> {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context,
            buf: &mut ReadBuf,
        ) -> Poll<io::Result<()>> {
            if let Some((first, rest)) = self.0.split_first() {
                buf.put_slice(&[*first]);
                self.0 = rest;
            }
            Poll::Ready(Ok(()))
        }
    }

    fn header(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        [SIGNATURE, &[version_and_command, family][..], &length, body].concat()
    }

    /// The client that a header names, or what is wrong with it; and what was not read.
    async fn parse(bytes: &[u8]) -> (Result<Option<SocketAddr>, String>, Vec<u8>) {
        let (mut whole, mut parts) = (bytes, Bytewise(bytes));
        let parsed = read(&mut whole).await.map_err(|error| error.to_string());
        assert_eq!(read(&mut parts).await.map_err(|error| error.to_string()), parsed, "byte by byte");
        if parsed.is_ok() {
            assert_eq!(parts.0, whole, "nothing else is read");
        }
        (parsed, whole.to_vec())
    }

    const IPV4: [u8; IPV4_BYTES] = [203, 0, 113, 9, 192, 0, 2, 1, 0x12, 0x67, 0, 80];

    fn ipv6(source: &str) -> Vec<u8> {
        let source: Ipv6Addr = source.parse().unwrap();
        [&source.octets()[..], &[0; 16], &[0x12, 0x67, 0, 80]].concat()
    }

    #[tokio::test]
    async fn a_header_names_the_client_and_the_rest_of_the_stream_is_left() {
        let more = |body: &[u8]| [body, &[0x02, 0, 3, b'a', b'.', b'b']].concat();
        for (bytes, expected) in [
            (header(0x21, 0x11, &IPV4), Some("203.0.113.9:4711")),
            (header(0x21, 0x11, &more(&IPV4)), Some("203.0.113.9:4711")),
            (header(0x21, 0x21, &ipv6("2001:db8::1")), Some("[2001:db8::1]:4711")),
            (header(0x21, 0x21, &more(&ipv6("::ffff:203.0.113.9"))), Some("203.0.113.9:4711")),
            (header(0x21, 0x11, &more(&[&IPV4[..], &[0; 500]].concat())), Some("203.0.113.9:4711")),
            (header(0x20, 0x00, &[]), None),
            (header(0x20, 0x11, &IPV4), None),
            (header(0x20, 0xff, &[0; 7]), None),
            (header(0x21, 0x00, &[]), None),
            (header(0x21, 0x00, &[1; 300]), None),
            (header(0x21, 0x12, &IPV4), None),
            (header(0x21, 0x31, &[1; 216]), None),
        ] {
            let stream = [&bytes[..], b"GET / HTTP/1.1"].concat();
            let (parsed, rest) = parse(&stream).await;
            assert_eq!(parsed, Ok(expected.map(|address| address.parse().unwrap())), "{bytes:?}");
            assert_eq!(rest, b"GET / HTTP/1.1");
        }
    }

    #[tokio::test]
    async fn anything_else_is_an_error_that_says_what_it_is() {
        let whole = header(0x21, 0x11, &IPV4);
        for (bytes, expected) in [
            (vec![], "without sending anything"),
            (b"GET /v2/realtime HTTP/1.1\r\n".to_vec(), "got something else"),
            (b"POST / HTTP/1.1\r\n".to_vec(), "got something else"),
            (b"\x16\x03\x01\x02".to_vec(), "got something else"),
            (b"\r\n\r\n\0\r\nQUIX".to_vec(), "got something else"),
            (b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\n".to_vec(), "v1, which is text; expected v2"),
            (b"PROX".to_vec(), "ended within the header"),
            (whole[..10].to_vec(), "ended within the header"),
            (whole[..whole.len() - 1].to_vec(), "ended within the header"),
            (header(0x11, 0x11, &IPV4), "its version is not 2"),
            (header(0x22, 0x11, &IPV4), "neither LOCAL nor PROXY"),
            (header(0x21, 0x41, &IPV4), "family or transport is unknown"),
            (header(0x21, 0x13, &IPV4), "family or transport is unknown"),
            (header(0x21, 0x11, &IPV4[..11]), "too short for the addresses"),
            (header(0x21, 0x21, &IPV4), "too short for the addresses"),
            (header(0x21, 0x11, &[0; 521]), "has 537 bytes; expected at most 536"),
            (header(0x20, 0x00, &[0; 65_535]), "has 65551 bytes; expected at most 536"),
        ] {
            let (parsed, _) = parse(&bytes).await;
            let error = parsed.expect_err("an error");
            assert!(error.contains(expected), "{bytes:?}: {error}");
        }
    }

    #[tokio::test]
    async fn every_truncation_and_every_flipped_byte_is_an_error_or_an_address() {
        let whole = header(0x21, 0x21, &ipv6("2001:db8::1"));
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).await.0.is_err(), "{length}");
        }
        for (at, value) in (0..whole.len()).flat_map(|at| iter::repeat(at).zip(0..=255)) {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let parsed = parse(&bytes).await.0;
            assert!(parsed.is_err() || at >= SIGNATURE.len() || bytes == whole, "{at}: {value}");
        }
    }
}
