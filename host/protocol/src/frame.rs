//! A frame of the WebSocket as it goes over the wire: encoded once, header included, however many get it.

use bytes::Bytes;
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Data, OpCode},
};

/// The most that a header takes.
const HEADER: usize = 10;

/// Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// A frame of what `fill` appends, about `capacity` bytes.
    pub fn build(capacity: usize, fill: impl FnOnce(&mut String)) -> Self {
        let mut text = String::with_capacity(HEADER + capacity);
        // Room for the header, which depends on how long the text becomes.
        text.push_str("          ");
        fill(&mut text);
        let mut bytes = text.into_bytes();
        bytes.shrink_to_fit();
        let mut header = [0; HEADER];
        let mut unwritten = &mut header[..];
        FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() }
            .format((bytes.len() - HEADER) as u64, &mut unwritten)
            .expect("a header has room");
        let spare = unwritten.len();
        bytes[spare..HEADER].copy_from_slice(&header[..HEADER - spare]);
        // A slice is shared already: nobody who gets it has anything to allocate.
        Self(Bytes::from(bytes).slice(spare..))
    }

    /// The same frame, which keeps `guard` until its last clone is dropped: a count of memory, for one.
    pub fn with_guard(self, guard: impl Send + 'static) -> Self {
        Self(Bytes::from_owner(Guarded { bytes: self.0, _guard: guard }))
    }

    /// A ping whose answer repeats `nonce`.
    pub fn ping(nonce: u64) -> Self {
        Self::control(9, &nonce.to_be_bytes())
    }

    /// The answer to a ping of at most 125 bytes.
    pub fn pong(payload: &[u8]) -> Self {
        Self::control(10, payload)
    }

    /// A close: without a code it says nothing, with one it gives a reason of at most 123 bytes.
    pub fn close(code: Option<u16>, reason: &str) -> Self {
        match code {
            Some(code) => Self::control(8, &[&code.to_be_bytes(), reason.as_bytes()].concat()),
            None => Self::control(8, &[]),
        }
    }

    fn control(opcode: u8, payload: &[u8]) -> Self {
        debug_assert!(payload.len() <= 125, "{} bytes", payload.len());
        Self(Bytes::from([&[0x80 | opcode, payload.len() as u8], payload].concat()))
    }

    /// The text without the header.
    pub fn text(&self) -> &str {
        let header = match self.0[1] {
            126 => 4,
            127 => HEADER,
            _ => 2,
        };
        std::str::from_utf8(&self.0[header..]).expect("it was made of text")
    }

    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Bytes on the wire.
    #[expect(clippy::len_without_is_empty, reason = "a frame has a header at least")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

struct Guarded<G> {
    bytes: Bytes,
    _guard: G,
}

impl<G> AsRef<[u8]> for Guarded<G> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<&str> for Frame {
    fn from(text: &str) -> Self {
        Self::build(text.len(), |frame| frame.push_str(text))
    }
}

impl From<String> for Frame {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_fits_every_length() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let text = "x".repeat(length);
            let frame = Frame::from(text.as_str());
            let mut wire = std::io::Cursor::new(frame.bytes());
            let (header, told) = FrameHeader::parse(&mut wire).unwrap().unwrap();
            assert_eq!((header.opcode, told), (OpCode::Data(Data::Text), length as u64));
            assert!(header.is_final && header.mask.is_none());
            assert_eq!(frame.len() as u64, wire.position() + told);
            assert!(frame.text() == text, "{length}");
        }
    }
}
