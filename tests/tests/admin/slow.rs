//! HTTP clients that are deliberately slow or send too much. Each is cut off, and early if the server can
//! know early.

use std::time::{Duration, Instant};
use switchyard_tests::{Answer, EVENT_TIMEOUT, KEY, Process, READER, Server};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// The maximum time for anything slow, plus time for a busy machine.
const END: Duration = Duration::from_secs(25);

/// A node for one test.
async fn serve() -> (Process, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let ports = "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";
    std::fs::write(folder.path().join("s.toml"), format!("{ports}{}", Server::keys())).expect("a file");
    (Process::serve(folder.path(), &["--config", "s.toml"], &[]).await, folder)
}

async fn call(process: &Process, head: &str) -> TcpStream {
    let mut tcp = TcpStream::connect(&process.admin["http://".len()..]).await.expect("a listener");
    tcp.write_all(format!("{head}\r\n").as_bytes()).await.expect("a head");
    tcp
}

/// Everything up to the end of the stream.
async fn rest(tcp: &mut TcpStream, max_wait: Duration) -> String {
    let mut answer = vec![];
    timeout(max_wait, tcp.read_to_end(&mut answer)).await.expect("an end in time").ok();
    String::from_utf8(answer).expect("text")
}

fn publish(key: &str, path: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {key}\r\n{more}\r\n")
}

#[tokio::test]
async fn a_slow_request_body_is_cut_off() {
    let (process, _folder) = serve().await;
    let mut tcp = call(&process, &publish(KEY, "/v1/publish", "Content-Length: 1000")).await;
    let (mut reading, mut writing) = tcp.split();
    let dripping = async {
        while writing.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = vec![];
    let answered = async { while reading.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {} };
    tokio::select! {
        ended = timeout(END, answered) => ended.expect("an end in time"),
        () = dripping => {}
    }
    let answer = String::from_utf8(answer).expect("text");
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("too slowly"), "{answer}");
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_cut_off() {
    let (process, _folder) = serve().await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let address = process.admin["http://".len()..].parse().expect("an address");
    let mut tcp = socket.connect(address).await.expect("a listener");
    let request = "GET /openapi.json HTTP/1.1\r\nHost: here\r\n\r\n";
    // Writes until the node accepts no more, because nothing is read; then waits until the connection ends.
    let asking = async { while tcp.write_all(request.as_bytes()).await.is_ok() {} };
    timeout(END, asking).await.expect("an end in time");
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let (process, _folder) = serve().await;
    let mut tcp = call(&process, "GET /livez HTTP/1.1\r\nHost: here\r\n").await;
    let answer = rest(&mut tcp, END).await;
    assert!(answer.ends_with("live\n"), "{answer}");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_rejected_before_it_arrives() {
    let (process, _folder) = serve().await;
    let started = Instant::now();
    for path in ["/v1/publish", "/v1/broadcast"] {
        let mut tcp = call(&process, &publish(KEY, path, "Content-Length: 1000000000")).await;
        let answer = rest(&mut tcp, EVENT_TIMEOUT).await;
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("message_too_large"), "{answer}");
    }
    // A client that may not publish is rejected, whatever its body would be.
    let mut tcp = call(&process, &publish(READER, "/v1/publish", "Content-Length: 1000")).await;
    assert!(rest(&mut tcp, EVENT_TIMEOUT).await.starts_with("HTTP/1.1 403"));
    assert!(started.elapsed() < EVENT_TIMEOUT, "{:?}", started.elapsed());
    // If the head gives no length, the node counts the bytes it receives.
    let mut tcp = call(&process, &publish(KEY, "/v1/broadcast", "Transfer-Encoding: chunked")).await;
    let chunk = format!("{:x}\r\n{}\r\n", 10_000, "x".repeat(10_000));
    for _ in 0..100 {
        if tcp.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let answer = rest(&mut tcp, EVENT_TIMEOUT).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn an_answer_arrives_although_the_body_was_not_read() {
    let (process, _folder) = serve().await;
    for _ in 0..20 {
        let body = vec![b'x'; 4 << 20];
        let (status, answer) = Answer::called(&process.admin, "POST", "/v1/broadcast", Some(KEY), body).await;
        assert_eq!(status, 413, "{answer}");
    }
}
