//! How connections end, from a client's point of view: requests are answered, and the close frame arrives.

use super::{
    Node,
    case::{Case, ask, case},
    line::{Got, Line, connect, masked, upgrade},
};
use serde_json::json;
use std::time::Duration;
use switchyard_tests::{CLOSE, FIN, PING, TEXT};

const NORMAL: [u8; 2] = 1000u16.to_be_bytes();

/// A client that writes a long message before it reads gets 1009 each time, instead of a reset after which it
/// would retry for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_too_much_reads_the_close_code() {
    let (tcp, tls) = tokio::join!(Node::start(false, ""), Node::start(true, ""));
    for node in [&tcp, &tls] {
        for n in 0..20 {
            let mut line = Line::open(&node.url).await.ready(n % 2 == 0).await.expect("an upgrade");
            line.write(&masked(FIN | TEXT, &vec![b' '; 3 << 20])).await.expect("a server that reads on");
            let expected = case("7.4.1", "", "too much").closed(1009).compare(&mut line, |_| false).await;
            assert_eq!(expected, Ok(()), "attempt {n} at {}", node.url);
        }
    }
}

/// So does a client that is rejected, whatever it sent after its `connect`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_client_reads_the_close_code() {
    let node = Node::start(false, "").await;
    for n in 0..20 {
        let mut line = Line::open(&node.url).await;
        let wrong = json!({"type": "connect", "auth": {"apiKey": "sk_wrong"}}).to_string();
        let all = [upgrade(), masked(FIN | TEXT, wrong.as_bytes())].concat();
        let behind = masked(FIN | TEXT, ask("behind").as_bytes()).repeat(10_000);
        line.write(&[all, behind].concat()).await.expect("a server that reads on");
        line.head().await.expect("an upgrade");
        assert_eq!(line.text().await.expect("an error")["error"]["code"], "invalid_key", "attempt {n}");
        assert_eq!(line.frame().await, Ok(Got::Close(Some(4401))), "attempt {n}");
        assert_eq!(line.frame().await, Ok(Got::End), "attempt {n}");
    }
}

/// And one whose HTTP request does not become a WebSocket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_an_upgrade_reads_the_reason() {
    let (tcp, tls) = tokio::join!(Node::start(false, ""), Node::start(true, ""));
    for node in [&tcp, &tls] {
        for n in 0..20 {
            let mut line = Line::open(&node.url).await;
            let head = "POST /v2/realtime HTTP/1.1\r\nHost: here\r\nContent-Length: 2000000\r\n\r\n";
            line.write(head.as_bytes()).await.expect("a connection");
            line.write(&vec![b'x'; 2_000_000]).await.expect("a server that reads on");
            let head = line.head().await.expect("an answer");
            assert!(head.starts_with("http/1.1 405 "), "attempt {n}: {head}");
            let body = line.rest().await.unwrap_or_else(|error| panic!("attempt {n}: {error}"));
            assert!(body.starts_with(b"{\"error\":"), "{}", String::from_utf8_lossy(&body));
        }
    }
}

/// What is stored is answered, even if a close frame or an invalid frame arrived together with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_before_a_close_are_answered() {
    let (tcp, tls) = tokio::join!(Node::start(false, ""), Node::start(true, ""));
    for node in [&tcp, &tls] {
        let wrong = masked(FIN | 3, b"");
        for (end, code) in [(masked(FIN | CLOSE, &NORMAL), 1000), (wrong, 1002)] {
            for at_once in [false, true] {
                let mut line = Line::open(&node.url).await;
                let mut requests = vec![];
                for n in 0..10 {
                    let publish = json!({"type": "publish", "id": n, "room": "prices", "data": n});
                    requests.extend(masked(FIN | TEXT, publish.to_string().as_bytes()));
                }
                requests.extend(masked(FIN | PING, b"heard"));
                requests.extend(&end);
                match at_once {
                    true => {
                        line.write(&[upgrade(), connect(), requests].concat()).await.expect("a connection");
                        line.head().await.expect("an upgrade");
                        assert_eq!(line.text().await.expect("an answer")["type"], "connected");
                    }
                    false => {
                        line = line.ready(true).await.expect("connected");
                        line.write(&requests).await.expect("a connection");
                    }
                }
                let mut answered = 0;
                let expected = case("7.1.2", "", "requests").closed(code);
                let expected = Case { pings: vec![b"heard".to_vec()], ..expected };
                let compared = expected.compare(&mut line, |text| {
                    let is_next = text["type"] == "published" && text["id"] == answered;
                    answered += u64::from(is_next);
                    is_next
                });
                assert_eq!(compared.await, Ok(()), "{code} {at_once} {}", node.url);
                assert_eq!(answered, 10, "{code} {at_once} {}", node.url);
            }
        }
    }
}

/// A client that ends its side of the stream without a close frame gets its answers, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_before_the_end_of_a_stream_are_answered() {
    let (tcp, tls) = tokio::join!(Node::start(false, ""), Node::start(true, ""));
    for node in [&tcp, &tls] {
        let mut line = Line::open(&node.url).await.ready(true).await.expect("connected");
        let publish = json!({"type": "publish", "room": "prices", "data": 1}).to_string();
        line.write(&masked(FIN | TEXT, publish.as_bytes())).await.expect("a connection");
        line.end().await.expect("a connection");
        assert_eq!(line.text().await.expect("an answer")["type"], "published", "{}", node.url);
        assert_eq!(line.frame().await, Ok(Got::End), "{}", node.url);
    }
}

/// A client may request more than the outbox holds, as long as it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_answers_wait_for_a_client_that_reads() {
    let (tcp, tls) = tokio::join!(Node::start(false, ""), Node::start(true, ""));
    for node in [&tcp, &tls] {
        for _ in 0..20 {
            node.publish(json!("x".repeat(60_000))).await;
        }
        let mut line = Line::narrow(&node.url).await.ready(true).await.expect("connected");
        let mut requests = masked(FIN | TEXT, br#"{"type":"subscribe","rooms":["prices"]}"#);
        for n in 0..20 {
            let history = json!({"type": "history", "id": n, "room": "prices"}).to_string();
            requests.extend(masked(FIN | TEXT, history.as_bytes()));
        }
        requests.extend(masked(FIN | CLOSE, &NORMAL));
        line.write(&requests).await.expect("a connection");
        assert_eq!(line.text().await.expect("an answer")["type"], "subscribed");
        let mut answered = 0;
        let expected = case("7.1.2", "", "history").closed(1000);
        let compared = expected.compare(&mut line, |text| {
            let is_next = text["type"] == "history" && text["id"] == answered;
            answered += u64::from(is_next);
            is_next
        });
        assert_eq!(compared.await, Ok(()), "{}", node.url);
        assert_eq!(answered, 20, "{}", node.url);
    }
}

/// The time to send `connect` starts when the upgrade is complete, and a client that is late may retry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_upgrade_does_not_shorten_the_time_to_connect() {
    let node = Node::start(false, "[session]\nauthenticate = \"1500ms\"").await;
    let mut slow = Line::open(&node.url).await;
    for part in upgrade().chunks(60) {
        slow.write(part).await.expect("a connection");
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    slow.head().await.expect("an upgrade");
    slow.write(&connect()).await.expect("a connection");
    assert_eq!(slow.text().await.expect("an answer")["type"], "connected");

    let mut silent = Line::open(&node.url).await.ready(false).await.expect("an upgrade");
    let error = silent.text().await.expect("an error");
    assert_eq!(error["error"]["code"], "auth_timeout", "{error}");
    assert_eq!(silent.frame().await, Ok(Got::Close(Some(4504))));
    assert_eq!(silent.frame().await, Ok(Got::End));
}
