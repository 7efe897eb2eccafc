//! Section 8.1: text is UTF-8, in one frame or in several, and text that is not closes 1007. The sequences
//! are those of Markus Kuhn's stress test, by code point.

use super::{
    case::{Case, ask, case},
    line::masked,
};
use switchyard_tests::{CONTINUATION, FIN, TEXT};

pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for (autobahn, text) in VALID {
        valid(&mut cases, autobahn, text);
    }
    for (group, points) in NONCHARACTERS.iter().enumerate() {
        let autobahn = if group < 2 { "6.22.1" } else { "6.22.3" };
        for point in *points {
            valid(&mut cases, autobahn, &char::from_u32(*point).expect("a scalar value").to_string());
        }
    }
    for (autobahn, bytes) in INVALID {
        invalid(&mut cases, autobahn, bytes);
    }
    // A lone first byte of every kind, followed by a space.
    for (autobahn, range) in
        [("6.13.1", 0xc0..=0xdfu8), ("6.13.2", 0xe0..=0xef), ("6.13.3", 0xf0..=0xf7), ("6.13.4", 0xf8..=0xff)]
    {
        for byte in range.step_by(4) {
            cases.push(
                case("8.1", autobahn, format!("{byte:x} alone"))
                    .frame(FIN | TEXT, &[byte, b' '])
                    .closed(1007),
            );
        }
    }
    cases.extend(in_parts());
    cases
}

/// Valid text is accepted in one frame, in two frames split anywhere, and in frames of one byte.
fn valid(cases: &mut Vec<Case>, autobahn: &'static str, text: &str) {
    let name = text.escape_unicode();
    cases.push(case("8.1", autobahn, format!("{name}")).asks(text));
    let request = ask(text);
    let mut bytewise = case("8.1", autobahn, format!("{name} in parts of a byte")).echoes(text);
    bytewise.sent = request
        .bytes()
        .enumerate()
        .map(|(n, byte)| {
            let first = if n == 0 { TEXT } else { CONTINUATION };
            masked(first | if n + 1 == request.len() { FIN } else { 0 }, &[byte])
        })
        .collect();
    cases.push(bytewise);
}

/// Invalid text is rejected in one frame, and in frames of one byte.
fn invalid(cases: &mut Vec<Case>, autobahn: &'static str, bytes: &[u8]) {
    let text = [br#"{"type":"ping","id":""#, bytes, br#""}"#].concat();
    cases.push(case("8.1", autobahn, format!("{bytes:x?}")).frame(FIN | TEXT, &text).closed(1007));
    let mut alone = case("8.1", autobahn, format!("{bytes:x?} alone, in parts of a byte")).closed(1007);
    alone.sent = bytes
        .iter()
        .enumerate()
        .map(|(n, byte)| {
            let first = if n == 0 { TEXT } else { CONTINUATION };
            masked(first | if n + 1 == bytes.len() { FIN } else { 0 }, &[*byte])
        })
        .collect();
    cases.push(alone);
}

fn in_parts() -> Vec<Case> {
    let request = ask("κόσμε");
    let bytes = request.as_bytes();
    let mut cases = vec![];
    // Between characters and within them.
    for at in 20..bytes.len() - 2 {
        cases.push(
            case("8.1", "6.2.3", format!("a text cut after {at} bytes"))
                .frame(TEXT, &bytes[..at])
                .frame(FIN | CONTINUATION, &bytes[at..])
                .echoes("κόσμε"),
        );
    }
    cases.extend([
        case("8.1", "6.2.2", "a ping within a letter")
            .frame(TEXT, &bytes[..22])
            .pings(b"within")
            .frame(FIN | CONTINUATION, &bytes[22..])
            .echoes("κόσμε"),
        case("8.1", "6.3.2", "the second of three parts is wrong")
            .frame(TEXT, b"good")
            .frame(CONTINUATION, b"\xed\xa0\x80")
            .frame(FIN | CONTINUATION, b"good")
            .closed(1007),
        case("8.1", "6.4.1", "what is wrong ends it before the message ends")
            .frame(TEXT, "κόσμε".as_bytes())
            .frame(CONTINUATION, b"\xf4\x90\x80\x80")
            .closed(1007),
        case("8.1", "6.4.2", "what becomes wrong by the next part ends it")
            .frame(TEXT, b"\xce\xba\xf4")
            .frame(CONTINUATION, b"\x90")
            .closed(1007),
        case("8.1", "6.6.1", "a text that ends within a letter").frame(FIN | TEXT, b"\xce").closed(1007),
        case("8.1", "", "a last part that ends within a letter")
            .frame(TEXT, b"good \xe2")
            .frame(FIN | CONTINUATION, b"\x82")
            .closed(1007),
        case("8.1", "", "a letter that is not ended by a part of nothing")
            .frame(TEXT, b"\xe2\x82")
            .frame(FIN | CONTINUATION, b"")
            .closed(1007),
        case("8.1", "", "a good text, and then a wrong one")
            .asks("good")
            .frame(FIN | TEXT, b"\xff")
            .closed(1007),
        // Only text frames must be UTF-8.
        case("8.1", "", "the same in a binary message").frame(FIN | 2, b"\xff\xfe").refused(),
        case("8.1", "", "the same in a ping").pings(b"\xff\xfe"),
    ]);
    cases
}

const VALID: &[(&str, &str)] = &[
    ("6.2.1", "Hello-µ@ßöäüàá-UTF-8!!"),
    ("6.5.1", "κόσμε"),
    ("6.6.2", "\u{3ba}"),
    ("6.6.5", "\u{3ba}\u{1f79}"),
    ("6.6.7", "\u{3ba}\u{1f79}\u{3c3}"),
    ("6.6.9", "\u{3ba}\u{1f79}\u{3c3}\u{3bc}"),
    ("6.7.2", "\u{80}"),
    ("6.7.3", "\u{800}"),
    ("6.7.4", "\u{10000}"),
    ("6.9.1", "\u{7f}"),
    ("6.9.2", "\u{7ff}"),
    ("6.9.3", "\u{ffff}"),
    ("6.9.4", "\u{10ffff}"),
    ("6.11.1", "\u{d7ff}"),
    ("6.11.2", "\u{e000}"),
    ("6.11.3", "\u{fffd}"),
    ("6.11.4", "\u{10fffe}"),
    ("6.23.1", "\u{feff}"),
    ("6.23.2", "\u{2028}\u{2029}"),
    ("", "日本語"),
    ("", "😀👩\u{200d}👩\u{200d}👧"),
    ("", "\u{202e}nomis"),
];

/// Noncharacters are valid UTF-8.
const NONCHARACTERS: &[&[u32]] = &[
    &[0xfffe, 0x1fffe, 0x2fffe, 0x8fffe, 0xffffe],
    &[0x1ffff, 0x2ffff, 0x8ffff, 0xfffff],
    &[0xfdd0, 0xfdef],
];

const INVALID: &[(&str, &[u8])] = &[
    ("6.3.1", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80\x65\x64\x69\x74\x65\x64"),
    ("6.6.3", b"\xce\xba\xe1"),
    ("6.6.4", b"\xce\xba\xe1\xbd"),
    ("6.6.6", b"\xce\xba\xe1\xbd\xb9\xcf"),
    ("6.8.1", b"\xf8\x88\x80\x80\x80"),
    ("6.8.2", b"\xfc\x84\x80\x80\x80\x80"),
    ("6.10.1", b"\xf7\xbf\xbf\xbf"),
    ("6.10.2", b"\xfb\xbf\xbf\xbf\xbf"),
    ("6.10.3", b"\xfd\xbf\xbf\xbf\xbf\xbf"),
    ("6.11.5", b"\xf4\x90\x80\x80"),
    ("6.12.1", b"\x80"),
    ("6.12.2", b"\xbf"),
    ("6.12.3", b"\x80\xbf"),
    ("6.12.4", b"\x80\xbf\x80"),
    ("6.12.5", b"\x80\xbf\x80\xbf"),
    ("6.12.6", b"\x80\xbf\x80\xbf\x80"),
    ("6.12.7", b"\x80\xbf\x80\xbf\x80\xbf"),
    ("6.14.1", b"\xc0"),
    ("6.14.2", b"\xe0\x80"),
    ("6.14.3", b"\xf0\x80\x80"),
    ("6.14.4", b"\xf8\x80\x80\x80"),
    ("6.14.5", b"\xfc\x80\x80\x80\x80"),
    ("6.14.6", b"\xdf"),
    ("6.14.7", b"\xef\xbf"),
    ("6.14.8", b"\xf7\xbf\xbf"),
    ("6.14.9", b"\xfb\xbf\xbf\xbf"),
    ("6.14.10", b"\xfd\xbf\xbf\xbf\xbf"),
    ("6.15.1", b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xdf\xef\xbf"),
    ("6.16.1", b"\xfe"),
    ("6.16.2", b"\xff"),
    ("6.16.3", b"\xfe\xfe\xff\xff"),
    ("6.17.1", b"\xc0\xaf"),
    ("6.17.2", b"\xe0\x80\xaf"),
    ("6.17.3", b"\xf0\x80\x80\xaf"),
    ("6.17.4", b"\xf8\x80\x80\x80\xaf"),
    ("6.17.5", b"\xfc\x80\x80\x80\x80\xaf"),
    ("6.18.1", b"\xc1\xbf"),
    ("6.18.2", b"\xe0\x9f\xbf"),
    ("6.18.3", b"\xf0\x8f\xbf\xbf"),
    ("6.18.4", b"\xf8\x87\xbf\xbf\xbf"),
    ("6.18.5", b"\xfc\x83\xbf\xbf\xbf\xbf"),
    ("6.19.1", b"\xc0\x80"),
    ("6.19.2", b"\xe0\x80\x80"),
    ("6.19.3", b"\xf0\x80\x80\x80"),
    ("6.20.1", b"\xed\xa0\x80"),
    ("6.20.2", b"\xed\xad\xbf"),
    ("6.20.3", b"\xed\xae\x80"),
    ("6.20.4", b"\xed\xaf\xbf"),
    ("6.20.5", b"\xed\xb0\x80"),
    ("6.20.6", b"\xed\xbe\x80"),
    ("6.20.7", b"\xed\xbf\xbf"),
    ("6.21.1", b"\xed\xa0\x80\xed\xb0\x80"),
    ("6.21.2", b"\xed\xa0\x80\xed\xbf\xbf"),
    ("6.21.3", b"\xed\xad\xbf\xed\xb0\x80"),
    ("6.21.4", b"\xed\xad\xbf\xed\xbf\xbf"),
    ("6.21.5", b"\xed\xae\x80\xed\xb0\x80"),
    ("6.21.6", b"\xed\xae\x80\xed\xbf\xbf"),
    ("6.21.7", b"\xed\xaf\xbf\xed\xb0\x80"),
    ("6.21.8", b"\xed\xaf\xbf\xed\xbf\xbf"),
];
