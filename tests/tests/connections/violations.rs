//! Frames that are too large, invalid text or not frames at all, before and after `connect`.

use switchyard_tests::{BINARY, CLOSE, CONTINUATION, FIN, PING, Raw, Server, TEXT, framed};

const LIMIT: usize = 128 << 10;

#[tokio::test]
async fn a_frame_at_the_limit_is_read_and_one_above_closes() {
    let server = Server::start("").await;
    let mut raw = Raw::connect(&server).await;
    let mut request = br#"{"type":"ping","id":1}"#.to_vec();
    request.resize(LIMIT, b' ');
    raw.bytes(&framed(FIN | TEXT, &request)).await;
    assert_eq!(raw.json().await["type"], "pong");
    // The same in several parts.
    raw.bytes(&framed(TEXT, &request[..LIMIT / 2])).await;
    raw.bytes(&framed(CONTINUATION, &request[LIMIT / 2..LIMIT - 1])).await;
    raw.bytes(&framed(FIN | CONTINUATION, &request[LIMIT - 1..])).await;
    assert_eq!(raw.json().await["type"], "pong");
    request.push(b' ');
    raw.bytes(&framed(FIN | TEXT, &request)).await;
    assert_eq!(raw.closed().await.code, 1009);
}

#[tokio::test]
async fn size_limits_apply_to_fragments_and_before_connect() {
    let server = Server::start("").await;
    for greeted in [true, false] {
        let fresh = async || if greeted { Raw::connect(&server).await } else { Raw::open(&server).await };
        let mut parts = fresh().await;
        parts.bytes(&framed(TEXT, &[b' '; LIMIT])).await;
        parts.bytes(&framed(FIN | CONTINUATION, b" ")).await;
        assert_eq!(parts.closed().await.code, 1009, "in parts, greeted: {greeted}");
        // A frame that claims to be large is rejected before its payload arrives.
        let mut claim = fresh().await;
        claim.bytes(&[&[FIN | BINARY, FIN | 127][..], &(1u64 << 40).to_be_bytes(), &[0; 4]].concat()).await;
        assert_eq!(claim.closed().await.code, 1009, "claimed, greeted: {greeted}");
    }
}

#[tokio::test]
async fn text_that_is_not_utf8_closes_1007() {
    let server = Server::start("").await;
    for greeted in [true, false] {
        for bad in [&b"\xff"[..], b"{\"type\":\"ping\",\"id\":\"\xc3\x28\"}", b"\xed\xa0\x80", b"\xc3"] {
            let mut raw = if greeted { Raw::connect(&server).await } else { Raw::open(&server).await };
            raw.bytes(&framed(FIN | TEXT, bad)).await;
            assert_eq!(raw.closed().await.code, 1007, "{bad:x?}, greeted: {greeted}");
        }
    }
    // A character may be split between frames.
    let mut raw = Raw::connect(&server).await;
    raw.bytes(&framed(TEXT, b"{\"type\":\"ping\",\"id\":\"\xc3")).await;
    raw.bytes(&framed(FIN | CONTINUATION, b"\xa9\"}")).await;
    assert_eq!(raw.json().await["id"], "é");
}

#[tokio::test]
async fn protocol_violations_close_1002() {
    let server = Server::start("").await;
    let unmasked = [&[FIN | TEXT, 15][..], br#"{"type":"ping"}"#].concat();
    for greeted in [true, false] {
        for (name, bytes) in [
            ("unmasked", unmasked.clone()),
            ("a reserved bit", framed(FIN | 0x40 | TEXT, b"{}")),
            ("an unknown opcode", framed(FIN | 3, b"{}")),
            ("a continuation of nothing", framed(FIN | CONTINUATION, b"{}")),
            ("text within text", [framed(TEXT, b"{"), framed(FIN | TEXT, b"}")].concat()),
            ("a ping in parts", framed(PING, b"")),
            ("a ping that is too long", framed(FIN | PING, &[0; 126])),
        ] {
            let mut raw = if greeted { Raw::connect(&server).await } else { Raw::open(&server).await };
            raw.bytes(&bytes).await;
            assert_eq!(raw.closed().await.code, 1002, "{name}, greeted: {greeted}");
            raw.ended().await;
        }
    }
}

#[tokio::test]
async fn a_close_is_answered() {
    let server = Server::start("").await;
    let mut raw = Raw::connect(&server).await;
    raw.bytes(&framed(FIN | CLOSE, &[3, 232])).await;
    assert_eq!(raw.closed().await.code, 1000);
    raw.ended().await;
}
