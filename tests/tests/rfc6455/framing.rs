//! Sections 5.1 to 5.6: headers, lengths, masks, reserved bits, opcodes, fragments and pings.

use super::{
    case::{Case, ask, case},
    line::masked,
};
use switchyard_tests::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT};

/// The maximum size of a frame, and of a message in several frames, on the servers of these tests.
pub const LIMIT: usize = 128 << 10;

/// Frames that may start a message or stand alone, with a payload that each may have.
const FIRST: [(u8, &str, &[u8]); 6] = [
    (FIN | TEXT, "text", b"{}"),
    (FIN | BINARY, "binary", b"{}"),
    (TEXT, "the first part of a text", b"{}"),
    (FIN | PING, "a ping", b"{}"),
    (FIN | PONG, "a pong", b"{}"),
    (FIN | CLOSE, "a close", &1000_u16.to_be_bytes()),
];

/// A `ping` request of this length.
fn padded(length: usize) -> String {
    let mut text = ask("padded");
    text.extend(std::iter::repeat_n(' ', length - text.len()));
    text
}

/// A header with the length in 7, 16 or 64 bits, even if fewer would do.
fn with_length(first: u8, bits: u8, length: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = masked(first, payload);
    let header = match bytes[1] & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let with_length = match bits {
        7 => vec![0x80 | length as u8],
        16 => [&[0x80 | 126][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[0x80 | 127][..], &length.to_be_bytes()].concat(),
    };
    bytes.splice(1..header, with_length);
    bytes
}

/// A frame without a mask.
fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, payload.len() as u8], payload].concat()
}

pub fn cases() -> Vec<Case> {
    [lengths(), masks(), reserved_bits(), opcodes(), fragments(), pings()].into_iter().flatten().collect()
}

fn lengths() -> Vec<Case> {
    let mut cases = vec![
        case("5.2", "1.1.1", "a text of nothing").frame(FIN | TEXT, b"").refused(),
        case("5.2", "1.2.1", "a binary message of nothing").frame(FIN | BINARY, b"").refused(),
    ];
    for (length, autobahn) in [
        (125, "1.1.2"),
        (126, "1.1.3"),
        (127, "1.1.4"),
        (128, "1.1.5"),
        (255, ""),
        (256, ""),
        (65_535, "1.1.6"),
        (65_536, "1.1.7"),
        (65_537, ""),
        (LIMIT - 1, ""),
        (LIMIT, "9.1.2"),
    ] {
        let text = padded(length);
        cases.push(
            case("5.2", autobahn, format!("a text of {length} bytes"))
                .frame(FIN | TEXT, text.as_bytes())
                .echoes("padded"),
        );
    }
    let chopped = padded(65_536);
    let mut frame = case("5.2", "1.1.8", "a text of 65536 bytes in parts of 997").echoes("padded");
    frame.sent = masked(FIN | TEXT, chopped.as_bytes()).chunks(997).map(<[u8]>::to_vec).collect();
    cases.push(frame);
    for (length, autobahn) in [
        (125, "1.2.2"),
        (126, "1.2.3"),
        (127, "1.2.4"),
        (128, "1.2.5"),
        (65_535, "1.2.6"),
        (65_536, "1.2.7"),
        (LIMIT, "9.2.2"),
    ] {
        cases.push(
            case("5.2", autobahn, format!("a binary message of {length} bytes"))
                .frame(FIN | BINARY, &vec![0xfe; length])
                .refused()
                .asks("after"),
        );
    }
    let mut frame = case("5.2", "1.2.8", "a binary message of 65536 bytes in parts of 997").refused();
    frame.sent = masked(FIN | BINARY, &[0xfe; 65_536]).chunks(997).map(<[u8]>::to_vec).collect();
    cases.push(frame);
    let text = padded(100);
    for (bits, name) in [(16, "16"), (64, "64")] {
        // Only a sender must use the smallest number of bits.
        cases.push(
            case("5.2", "", format!("a length of 100 encoded in {name} bits"))
                .sends(with_length(FIN | TEXT, bits, 100, text.as_bytes()))
                .echoes("padded"),
        );
    }
    cases.push(
        case("5.2", "", "a length of 200 encoded in 64 bits")
            .sends(with_length(FIN | TEXT, 64, 200, padded(200).as_bytes()))
            .echoes("padded"),
    );
    for (length, name) in [
        (LIMIT as u64 + 1, "one byte too long"),
        (1 << 31, "2^31 bytes"),
        (1 << 32, "2^32 bytes"),
        (1 << 40, "2^40 bytes"),
        ((1 << 63) - 1, "2^63 - 1 bytes"),
        (1 << 63, "the highest bit, which must be 0"),
        (u64::MAX, "all bits"),
    ] {
        for (first, kind) in [(FIN | TEXT, "text"), (FIN | BINARY, "binary"), (TEXT, "the first part")] {
            cases.push(
                case("7.4.1", "", format!("{kind} that claims {name}"))
                    .sends(with_length(first, 64, length, b"no more than this"))
                    .closed(1009),
            );
        }
    }
    for (first, kind) in [(FIN | TEXT, "text"), (FIN | BINARY, "binary")] {
        cases.push(
            case("7.4.1", "", format!("{kind} that is one byte too long"))
                .frame(first, &[b' '; LIMIT + 1])
                .closed(1009),
        );
        cases.push(
            case("7.4.1", "", format!("{kind} that is far too long, and more behind it"))
                .frame(first, &[b' '; 4 * LIMIT])
                .frame(FIN | TEXT, b"{}")
                .closed(1009),
        );
    }
    cases
}

fn masks() -> Vec<Case> {
    let masked_by = |mask: [u8; 4]| {
        let payload = ask("masked");
        let mut bytes = vec![FIN | TEXT, 0x80 | payload.len() as u8];
        bytes.extend(mask);
        bytes.extend(payload.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    };
    let mut cases = vec![];
    for mask in [[0; 4], [0xff; 4], [1, 2, 3, 4], [0x80, 0, 0, 0x7f]] {
        cases.push(case("5.3", "", format!("a mask of {mask:x?}")).sends(masked_by(mask)).echoes("masked"));
    }
    for (first, name, payload) in FIRST {
        cases.push(
            case("5.1", "", format!("{name} without a mask")).sends(unmasked(first, payload)).closed(1002),
        );
    }
    cases.push(
        case("5.1", "", "a good text, and one without a mask")
            .asks("good")
            .sends(unmasked(FIN | TEXT, b"{}"))
            .closed(1002),
    );
    cases.push(
        case("5.1", "", "a continuation without a mask")
            .frame(TEXT, b"{")
            .sends(unmasked(FIN | CONTINUATION, b"}"))
            .closed(1002),
    );
    cases
}

fn reserved_bits() -> Vec<Case> {
    let mut cases = vec![];
    for (bits, autobahn) in
        [(1, "3.4"), (2, "3.2"), (3, "3.3"), (4, "3.1"), (5, "3.5"), (6, "3.6"), (7, "3.7")]
    {
        let reserved = bits << 4;
        for (first, name, payload) in FIRST {
            cases.push(
                case("5.2", autobahn, format!("{name} with the reserved bits {bits:03b}"))
                    .frame(first | reserved, payload)
                    .closed(1002),
            );
        }
        cases.push(
            case("5.2", autobahn, format!("a good text, one with the reserved bits {bits:03b}, a ping"))
                .asks("good")
                .frame(FIN | reserved | TEXT, b"{}")
                .frame(FIN | PING, b"unheard")
                .closed(1002),
        );
    }
    cases.push(
        case("5.2", "", "a continuation with a reserved bit")
            .frame(TEXT, b"{")
            .frame(FIN | 0x40 | CONTINUATION, b"}")
            .closed(1002),
    );
    cases
}

fn opcodes() -> Vec<Case> {
    let mut cases = vec![];
    for (opcode, autobahn) in [
        (3, "4.1.1"),
        (4, "4.1.2"),
        (5, "4.1.3"),
        (6, "4.1.4"),
        (7, "4.1.5"),
        (11, "4.2.1"),
        (12, "4.2.2"),
        (13, "4.2.3"),
        (14, "4.2.4"),
        (15, "4.2.5"),
    ] {
        cases.push(
            case("5.2", autobahn, format!("opcode {opcode} with nothing"))
                .frame(FIN | opcode, b"")
                .closed(1002),
        );
        cases.push(
            case("5.2", autobahn, format!("opcode {opcode} behind a text, before a ping"))
                .asks("good")
                .frame(FIN | opcode, b"payload")
                .frame(FIN | PING, b"unheard")
                .closed(1002),
        );
        cases.push(
            case("5.2", autobahn, format!("opcode {opcode} within a text"))
                .frame(TEXT, b"{")
                .frame(FIN | opcode, b"payload")
                .frame(FIN | CONTINUATION, b"}")
                .closed(1002),
        );
    }
    cases
}

fn fragments() -> Vec<Case> {
    let text = ask("whole");
    let (head, tail) = text.as_bytes().split_at(9);
    let mut cases = vec![
        case("5.4", "5.1", "a ping in two parts")
            .frame(PING, b"pi")
            .frame(FIN | CONTINUATION, b"ng")
            .closed(1002),
        case("5.4", "5.2", "a pong in two parts")
            .frame(PONG, b"po")
            .frame(FIN | CONTINUATION, b"ng")
            .closed(1002),
        case("5.4", "", "a close in two parts").frame(8, &[3]).frame(FIN | CONTINUATION, &[232]).closed(1002),
        case("5.4", "", "a ping that is not the last of anything").frame(PING, b"").closed(1002),
        case("5.4", "5.3", "a text in two parts")
            .frame(TEXT, head)
            .frame(FIN | CONTINUATION, tail)
            .echoes("whole"),
        case("5.4", "5.6", "a text in two parts and a ping between them")
            .frame(TEXT, head)
            .pings(b"between")
            .frame(FIN | CONTINUATION, tail)
            .echoes("whole"),
        case("5.4", "", "a text in two parts and a pong between them")
            .frame(TEXT, head)
            .frame(FIN | PONG, b"between")
            .frame(FIN | CONTINUATION, tail)
            .echoes("whole"),
        case("5.4", "5.19", "a text in five parts and pings between them")
            .frame(TEXT, &text.as_bytes()[..5])
            .frame(CONTINUATION, &text.as_bytes()[5..9])
            .pings(b"first")
            .frame(CONTINUATION, &text.as_bytes()[9..12])
            .frame(CONTINUATION, &text.as_bytes()[12..14])
            .pings(b"second")
            .frame(FIN | CONTINUATION, &text.as_bytes()[14..])
            .echoes("whole"),
        case("5.4", "5.9", "the last of nothing, and a text")
            .frame(FIN | CONTINUATION, b"non-continuation payload")
            .frame(FIN | TEXT, b"{}")
            .closed(1002),
        case("5.4", "5.12", "the middle of nothing, and a text")
            .frame(CONTINUATION, b"non-continuation payload")
            .frame(FIN | TEXT, b"{}")
            .closed(1002),
        case("5.4", "5.15", "a text in two parts, the middle of nothing, and a text")
            .frame(TEXT, head)
            .frame(FIN | CONTINUATION, tail)
            .echoes("whole")
            .frame(CONTINUATION, b"fragment")
            .frame(FIN | TEXT, b"{}")
            .closed(1002),
        case("5.4", "5.16", "the middle of nothing, and a text in two parts")
            .frame(CONTINUATION, b"fragment")
            .frame(TEXT, head)
            .frame(FIN | CONTINUATION, tail)
            .closed(1002),
        case("5.4", "5.17", "the last of nothing, and a text in two parts")
            .frame(FIN | CONTINUATION, b"fragment")
            .frame(TEXT, head)
            .frame(FIN | CONTINUATION, tail)
            .closed(1002),
        case("5.4", "5.18", "a text within a text").frame(TEXT, head).frame(FIN | TEXT, tail).closed(1002),
        case("5.4", "", "a binary message within a text")
            .frame(TEXT, head)
            .frame(FIN | BINARY, tail)
            .closed(1002),
        case("5.4", "", "a text within a binary message")
            .frame(BINARY, head)
            .frame(FIN | TEXT, tail)
            .closed(1002),
        case("5.4", "", "a text that begins again").frame(TEXT, head).frame(TEXT, head).closed(1002),
        case("5.4", "", "a binary message in two parts")
            .frame(BINARY, b"\x00\xff")
            .frame(FIN | CONTINUATION, b"\xfe")
            .refused(),
        case("5.4", "", "two messages in parts, one behind the other")
            .frame(TEXT, head)
            .frame(FIN | CONTINUATION, tail)
            .frame(BINARY, b"\x00")
            .frame(FIN | CONTINUATION, b"\xff")
            .echoes("whole")
            .refused(),
        case("5.4", "6.1.2", "a text of three parts of nothing")
            .frame(TEXT, b"")
            .frame(CONTINUATION, b"")
            .frame(FIN | CONTINUATION, b"")
            .refused(),
        case("5.4", "6.1.3", "a text between two parts of nothing")
            .frame(TEXT, b"")
            .frame(CONTINUATION, text.as_bytes())
            .frame(FIN | CONTINUATION, b"")
            .echoes("whole"),
        case("5.4", "", "a message that never ends, and a close")
            .frame(TEXT, head)
            .frame(CONTINUATION, b"more"),
        case("7.4.1", "", "parts that are too long together")
            .frame(TEXT, &[b' '; LIMIT])
            .frame(FIN | CONTINUATION, b" ")
            .closed(1009),
        case("7.4.1", "", "binary parts that are too long together")
            .frame(BINARY, &[0; LIMIT / 2])
            .frame(CONTINUATION, &[0; LIMIT / 2])
            .frame(CONTINUATION, &[0])
            .closed(1009),
        case("5.4", "9.3.1", "as much as is allowed in 64 parts").echoes("padded"),
    ];
    let long = padded(LIMIT);
    let parts = long.as_bytes().chunks(LIMIT / 64).enumerate();
    cases.last_mut().expect("the last").sent =
        parts.map(|(n, part)| masked(first_of(n, n == 63), part)).collect();
    let every_byte = text.bytes().enumerate();
    let mut bytewise = case("5.4", "5.5", "a text in parts of a byte").echoes("whole");
    bytewise.sent = every_byte.map(|(n, byte)| masked(first_of(n, n + 1 == text.len()), &[byte])).collect();
    cases.push(bytewise);
    let mut empty = case("5.4", "", "a text with a thousand parts of nothing").frame(TEXT, head);
    empty.sent.push(masked(CONTINUATION, b"").repeat(1000));
    cases.push(empty.frame(FIN | CONTINUATION, tail).echoes("whole"));
    cases
}

/// The first byte of part `n`.
fn first_of(n: usize, is_last: bool) -> u8 {
    (if n == 0 { TEXT } else { CONTINUATION }) | if is_last { FIN } else { 0 }
}

fn pings() -> Vec<Case> {
    let mut cases = vec![
        case("5.5.2", "2.1", "a ping of nothing").pings(b""),
        case("5.5.2", "2.2", "a ping with text").pings(b"Hello, world!"),
        case("5.5.2", "2.3", "a ping with bytes").pings(&[0, 255, 254, 253, 252, 251, 0, 255]),
        case("5.5.2", "2.4", "a ping of 125 bytes").pings(&[0xfe; 125]),
        case("5.5", "2.5", "a ping of 126 bytes").frame(FIN | PING, &[0xfe; 126]).closed(1002),
        case("5.5", "", "a ping of 65536 bytes").frame(FIN | PING, &[0xfe; 65_536]).closed(1002),
        case("5.5", "", "a pong of 126 bytes").frame(FIN | PONG, &[0xfe; 126]).closed(1002),
        case("5.5", "", "a pong of 65536 bytes").frame(FIN | PONG, &[0xfe; 65_536]).closed(1002),
        case("5.5.3", "2.7", "an unasked pong of nothing").frame(FIN | PONG, b""),
        case("5.5.3", "2.8", "an unasked pong").frame(FIN | PONG, b"unsolicited pong payload"),
        case("5.5.3", "", "an unasked pong of 125 bytes").frame(FIN | PONG, &[7; 125]),
        case("5.5.3", "2.9", "an unasked pong and a ping")
            .frame(FIN | PONG, b"unasked")
            .pings(b"ping payload"),
        case("5.5.3", "", "pongs with the nonces of nobody")
            .frame(FIN | PONG, &[0; 8])
            .frame(FIN | PONG, &[255; 8]),
        case("5.5.2", "", "a ping, a text and a ping").pings(b"one").asks("text").pings(b"two"),
        case("5.5.2", "", "a text, a ping and a text").asks("first").pings(b"between").asks("second"),
    ];
    for (count, autobahn) in [(2, ""), (10, "2.10"), (100, "2.11"), (2000, "")] {
        let mut many = case("5.5.3", autobahn, format!("{count} pings at once"));
        many.pings = (0..count).map(|n| format!("payload {n}").into_bytes()).collect();
        many.sent = vec![many.pings.iter().flat_map(|ping| masked(FIN | PING, ping)).collect()];
        cases.push(many);
    }
    cases
}
