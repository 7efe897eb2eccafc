//! A WebSocket frame, encoded once with its header, however many connections it goes to. Knows no connection.

use bytes::Bytes;
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Data, OpCode},
};

/// The longest header of an unmasked frame, in bytes: two, and a length of eight.
const MAX_HEADER_BYTES: usize = 10;

/// A WebSocket frame as the server writes it, header included and unmasked. Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// A text frame of what `fill` appends to the string that it is given. `capacity` is about how many bytes
    /// that is.
    pub fn build(capacity: usize, fill: impl FnOnce(&mut String)) -> Self {
        let mut text = String::with_capacity(MAX_HEADER_BYTES + capacity);
        // Space for the header, whose length depends on that of the text.
        text.push_str("          ");
        fill(&mut text);
        let mut bytes = text.into_bytes();
        bytes.shrink_to_fit();
        let mut header = [0; MAX_HEADER_BYTES];
        let mut unwritten = &mut header[..];
        FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() }
            .format((bytes.len() - MAX_HEADER_BYTES) as u64, &mut unwritten)
            .expect("there is space for any header");
        let spare = unwritten.len();
        bytes[spare..MAX_HEADER_BYTES].copy_from_slice(&header[..MAX_HEADER_BYTES - spare]);
        // A slice of `Bytes` is already in its shared form, so that cloning it allocates nothing.
        Self(Bytes::from(bytes).slice(spare..))
    }

    /// The same frame, which keeps `guard` until its last clone is dropped, for example to account for its
    /// memory.
    pub fn with_guard(self, guard: impl Send + 'static) -> Self {
        Self(Bytes::from_owner(Guarded { bytes: self.0, _guard: guard }))
    }

    /// A ping frame with a payload of eight bytes, which the pong repeats.
    pub fn ping(nonce: u64) -> Self {
        Self::control(9, &nonce.to_be_bytes())
    }

    /// A pong frame, with the payload of the ping that it answers: at most 125 bytes.
    pub fn pong(payload: &[u8]) -> Self {
        Self::control(10, payload)
    }

    /// A close frame: empty without a code, otherwise with a reason of at most 123 bytes.
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

    /// The payload of a text frame, without the header.
    ///
    /// # Panics
    ///
    /// If this is a close, ping or pong frame whose payload is not valid UTF-8.
    pub fn text(&self) -> &str {
        let header = match self.0[1] {
            126 => 4,
            127 => MAX_HEADER_BYTES,
            _ => 2,
        };
        std::str::from_utf8(&self.0[header..]).expect("a text frame")
    }

    /// Header and payload.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Header and payload.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// The number of bytes on the wire, header included.
    #[expect(clippy::len_without_is_empty, reason = "a frame has at least a header")]
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
    fn the_header_has_the_length_of_the_text() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let text = "x".repeat(length);
            let frame = Frame::from(text.as_str());
            let mut wire = std::io::Cursor::new(frame.bytes());
            let (header, length_in_header) = FrameHeader::parse(&mut wire).unwrap().unwrap();
            assert_eq!((header.opcode, length_in_header), (OpCode::Data(Data::Text), length as u64));
            assert!(header.is_final && header.mask.is_none());
            assert_eq!(frame.len() as u64, wire.position() + length_in_header);
            assert!(frame.text() == text, "{length}");
        }
    }
}
