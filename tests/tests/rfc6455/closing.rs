//! Sections 5.5.1, 7.1 and 7.4: how a client closes, and what its close frame may contain.

use super::{
    case::{Case, ask, case},
    line::masked,
};
use switchyard_tests::{CLOSE, CONTINUATION, FIN, PING, TEXT};

/// A close frame with a code and a reason.
fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    masked(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

pub fn cases() -> Vec<Case> {
    let text = ask("whole");
    let (head, tail) = text.as_bytes().split_at(9);
    let long = "x".repeat(60_000);
    let mut cases = vec![
        case("7.1.2", "7.1.1", "a text and a close").asks("answered").sends(close(1000, b"")).closed(1000),
        case("5.5.1", "7.1.2", "two closes").sends(close(1000, b"")).sends(close(1001, b"")).closed(1000),
        case("5.5.1", "7.1.3", "a ping behind a close")
            .sends(close(1000, b""))
            .frame(FIN | PING, b"unheard")
            .closed(1000),
        case("5.5.1", "7.1.4", "a text behind a close")
            .sends(close(1000, b""))
            .frame(FIN | TEXT, text.as_bytes())
            .closed(1000),
        case("5.5.1", "7.1.5", "a close between two parts of a text")
            .frame(TEXT, head)
            .sends(close(1000, b""))
            .frame(FIN | CONTINUATION, tail)
            .closed(1000),
        case("5.5.1", "7.1.6", "a long text, a close and a ping")
            .asks(&long)
            .sends(close(1000, b""))
            .frame(FIN | PING, b"unheard")
            .closed(1000),
        case("5.5.1", "", "a ping and a close").pings(b"heard").sends(close(1000, b"")).closed(1000),
        case("5.5.1", "", "a wrong frame behind a close")
            .sends(close(1000, b""))
            .sends([0xff; 40])
            .closed(1000),
        case("5.5.1", "", "much behind a close").sends(close(1000, b"")).sends(vec![0; 1 << 20]).closed(1000),
        case("7.1.2", "", "twenty texts and a close").sends(close(4321, b"")).closed(4321),
        case("7.1.2", "", "a text and a wrong frame")
            .asks("answered")
            .sends([0xff, 0xff])
            .sends([0; 12])
            .closed(1002),
        case("5.5.1", "7.3.1", "a close of nothing").frame(FIN | CLOSE, b"").closed_empty(),
        case("5.5.1", "7.3.2", "a close of one byte").frame(FIN | CLOSE, b"\x03").closed(1002),
        case("5.5.1", "7.3.3", "a close with a code").sends(close(1000, b"")).closed(1000),
        case("5.5.1", "7.3.4", "a close with a reason").sends(close(1000, b"Hello World!")).closed(1000),
        case("5.5.1", "7.3.5", "a close of 125 bytes").sends(close(1000, &[b'*'; 123])).closed(1000),
        case("5.5", "7.3.6", "a close of 126 bytes").sends(close(1000, &[b'*'; 124])).closed(1002),
        case("5.5.1", "7.5.1", "a reason that is no UTF-8")
            .sends(close(1000, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"))
            .closed(1007),
        case("5.5.1", "", "a reason that ends within a letter").sends(close(1000, b"\xe2\x82")).closed(1007),
        case("5.5.1", "", "a reason of many letters").sends(close(1000, "κόσμε".as_bytes())).closed(1000),
    ];
    let twenty = cases.iter_mut().find(|case| case.name.starts_with("twenty")).expect("it is above");
    let behind = twenty.sent.pop().expect("the close");
    for n in 0..20 {
        twenty.sent.push(masked(FIN | TEXT, ask(&format!("{n}")).as_bytes()));
        twenty.answers.push(super::case::Answer::Echo(format!("{n}")));
    }
    twenty.sent.push(behind);
    for (code, autobahn) in [
        (1000, "7.7.1"),
        (1001, "7.7.2"),
        (1002, "7.7.3"),
        (1003, "7.7.4"),
        (1007, "7.7.5"),
        (1008, "7.7.6"),
        (1009, "7.7.7"),
        (1010, "7.7.8"),
        (1011, "7.7.9"),
        (3000, "7.7.10"),
        (3999, "7.7.11"),
        (4000, "7.7.12"),
        (4999, "7.7.13"),
    ] {
        cases.push(
            case("7.4", autobahn, format!("a close {code}")).sends(close(code, b"reason")).closed(code),
        );
    }
    for (code, autobahn) in [
        (0, "7.9.1"),
        (999, "7.9.2"),
        (1004, "7.9.3"),
        (1005, "7.9.4"),
        (1006, "7.9.5"),
        (1015, ""),
        (1016, "7.9.6"),
        (1100, "7.9.7"),
        (2000, "7.9.8"),
        (2999, "7.9.9"),
        (5000, "7.13.1"),
        (65_535, "7.13.2"),
    ] {
        cases.push(
            case("7.4", autobahn, format!("a close {code}, which nobody may send"))
                .sends(close(code, b""))
                .closed(1002),
        );
    }
    cases
}
