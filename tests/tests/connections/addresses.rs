//! Limits for one address: live connections, connects and failures, behind a proxy or not, enforced or observed.

use super::{
    proxies::{session, upgrade},
    unauthenticated::{from, is_ended, limited, metric},
};
use serde_json::json;
use switchyard_tests::{Certificate, EVENT_TIMEOUT, KEY, Process, Raw, Server, eventually};
use tokio::{io::AsyncReadExt, time::timeout};

const PROXY: &str = "[limits]\ntrusted = [\"127.0.0.9\"]\nheader = \"x-forwarded-for\"\n[limits.address]\n";

/// The header line of a proxy.
fn of(client: &str) -> String {
    format!("X-Forwarded-For: {client}\r\n")
}

/// Upgrades, which must be refused. Returns the head and the body of the answer.
async fn refused(server: &Server, host: u8, headers: &str) -> (String, String) {
    let (head, mut raw) = upgrade(server, host, headers).await;
    assert!(head.starts_with("http/1.1 429") && head.contains("connection: close"), "{head}");
    let mut body = String::new();
    timeout(EVENT_TIMEOUT, raw.tcp.read_to_string(&mut body)).await.expect("an end in time").expect("text");
    (head, body)
}

#[tokio::test]
async fn an_address_has_so_many_live_connections_and_gives_them_back() {
    let server = Server::start("[limits.address]\nconnections = 2\n").await;
    let mut held = vec![session(&server, 2, "").await];
    let (head, silent) = upgrade(&server, 2, "").await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    let (_, body) = refused(&server, 2, "").await;
    assert!(body.contains("\"connection_limit\"") && body.contains("127.0.0.2"), "{body}");
    held.push(session(&server, 3, "").await);
    assert_eq!(limited(&server.admin, "address_connections").await, 1);
    // One that has not authenticated counts, too, until it is closed.
    drop(silent);
    let open = async || {
        let (head, raw) = upgrade(&server, 2, "").await;
        head.starts_with("http/1.1 101").then_some(raw)
    };
    let again = eventually("a connection that was given back", open).await.greeted().await;
    drop(held.remove(0));
    let third = eventually("a connection that was given back", open).await;
    refused(&server, 2, "").await;
    drop((again, third));
}

#[tokio::test]
async fn each_client_of_a_proxy_has_its_own_limits_and_an_ipv6_64_is_one_client() {
    let server = Server::start(&format!("{PROXY}connections = 1\n")).await;
    let _sessions = [
        session(&server, 9, &of("203.0.113.9")).await,
        session(&server, 9, &of("2001:db8::1")).await,
        session(&server, 9, &of("2001:db8:0:1::1")).await,
    ];
    refused(&server, 9, &of("203.0.113.9")).await;
    let (_, body) = refused(&server, 9, &of("2001:db8::ffff")).await;
    assert!(body.contains("2001:db8::/64"), "{body}");
    // The proxy itself, such as a health check.
    let _own = [session(&server, 9, "").await, session(&server, 9, "").await];
}

#[tokio::test]
async fn an_address_that_connects_too_often_waits() {
    let server = Server::start("[limits.address]\nconnects = \"3/m\"\n").await;
    for _ in 0..3 {
        let (head, _) = upgrade(&server, 2, "").await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
    }
    let (head, body) = refused(&server, 2, "").await;
    let (_, wait) = head.split_once("retry-after: ").expect("a time");
    let wait: u64 = wait.lines().next().expect("a line").parse().expect("seconds");
    assert!((10..=21).contains(&wait), "one more in 20 s, less the time that this took: {wait}");
    assert!(body.contains("\"rate_limited\"") && body.contains("\"retryAfter\""), "{body}");
    assert_eq!(limited(&server.admin, "address_connects").await, 1);
    session(&server, 3, "").await;
}

#[tokio::test]
async fn a_connection_that_is_refused_costs_no_tls_handshake_and_one_log_line() {
    let folder = tempfile::tempdir().expect("a folder");
    Certificate::generate().write_to(folder.path());
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n{}\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [limits.address]\nconnects = \"1/m\"\n",
        Certificate::CONFIG
    );
    std::fs::write(folder.path().join("s.toml"), text).expect("a file");
    let process = Process::serve(folder.path(), &["--config", "s.toml"], &[("RUST_LOG", "info")]).await;
    let _first = from(2, process.address()).await;
    for _ in 0..5 {
        assert!(is_ended(&mut from(2, process.address()).await).await, "at once, without an answer");
    }
    assert_eq!(limited(&process.admin, "address_connects").await, 5);
    let log = std::fs::read_to_string(folder.path().join("stderr")).expect("a log");
    let lines: Vec<_> = log.lines().filter(|line| line.contains("127.0.0.2")).collect();
    assert!(lines.len() == 1 && lines[0].contains("an address exceeded a limit"), "{log}");
    assert!(lines[0].contains("address_connects") && lines[0].contains("enforce"), "{log}");
}

#[tokio::test]
async fn a_client_behind_a_proxy_connects_as_often_as_its_own_address_may() {
    let server = Server::start(&format!("{PROXY}connects = \"2/m\"\n")).await;
    let headers = of("203.0.113.9");
    let _sessions = [session(&server, 9, &headers).await, session(&server, 9, &headers).await];
    refused(&server, 9, &headers).await;
    session(&server, 9, &of("203.0.113.10")).await;
}

#[tokio::test]
async fn a_client_behind_a_proxy_takes_its_own_slots_only() {
    let server = Server::start(&format!("{PROXY}unauthenticated = 2\n")).await;
    let mut silent = vec![];
    for _ in 0..2 {
        let (head, raw) = upgrade(&server, 9, &of("203.0.113.9")).await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        silent.push(raw);
    }
    let (_, body) = refused(&server, 9, &of("203.0.113.9")).await;
    assert!(body.contains("have not authenticated"), "{body}");
    session(&server, 9, &of("203.0.113.10")).await;
    // One that authenticates makes room.
    let _first = silent.remove(0).greeted().await;
    let (head, _) = upgrade(&server, 9, &of("203.0.113.9")).await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
}

#[tokio::test]
async fn a_full_node_closes_the_oldest_connection_of_the_client_that_has_the_most() {
    let server = Server::start(
        "[limits]\ntrusted = [\"127.0.0.9\"]\nheader = \"x-forwarded-for\"\nunauthenticated = 4\n",
    )
    .await;
    let (_, other) = upgrade(&server, 9, &of("203.0.113.10")).await;
    let mut flood = vec![];
    for _ in 0..3 {
        flood.push(upgrade(&server, 9, &of("203.0.113.9")).await.1);
    }
    // It waits until the grace period of the oldest is over.
    session(&server, 9, &of("203.0.113.11")).await;
    assert!(is_ended(&mut flood[0].tcp).await, "the oldest of the flood");
    // The other client, which is older, stays.
    other.greeted().await;
}

#[tokio::test]
async fn failures_count_for_the_client_behind_a_proxy() {
    let server = Server::start(&format!("{PROXY}failures = \"2/m\"\n")).await;
    let wrong = |client: &str| format!("{}X-API-Key: sk_wrong\r\n", of(client));
    for _ in 0..2 {
        let (head, _) = upgrade(&server, 9, &wrong("203.0.113.9")).await;
        assert!(head.starts_with("http/1.1 401"), "{head}");
    }
    let (_, body) = refused(&server, 9, &of("203.0.113.9")).await;
    assert!(body.contains("too many invalid keys or tokens from 203.0.113.9"), "{body}");
    session(&server, 9, &of("203.0.113.10")).await;
    assert_eq!(limited(&server.admin, "address_failures").await, 1);
}

#[tokio::test]
async fn failures_hold_for_connections_that_were_open_before() {
    let server = Server::start("[limits.address]\nfailures = \"2/m\"\n").await;
    let mut open = vec![];
    for _ in 0..3 {
        open.push(upgrade(&server, 2, "").await.1);
    }
    let (_, with_key) = upgrade(&server, 2, &format!("X-API-Key: {KEY}\r\n")).await;
    let connect = |key: &str| json!({"type": "connect", "auth": {"apiKey": key}});
    for raw in &mut open[..2] {
        raw.send(connect("sk_wrong")).await;
        assert_eq!(raw.closed().await.code, 4401);
    }
    open[2].send(connect(KEY)).await;
    let answer = open[2].json().await;
    assert_eq!(answer["error"]["code"], "rate_limited", "{answer}");
    assert!(answer["error"]["retryAfter"].as_u64().is_some_and(|wait| wait > 10_000), "{answer}");
    assert_eq!(open[2].closed().await.code, 4503);
    with_key.greeted().await;
}

#[tokio::test]
async fn observed_limits_refuse_nothing_and_count_what_they_would_have_refused() {
    let limits = "[limits]\nmode = \"observe\"\n[limits.address]\nconnections = 1\nunauthenticated = 1\n\
                  connects = \"1/m\"\nfailures = \"1/m\"\n";
    let server = Server::start(limits).await;
    let mut open: Vec<Raw> = vec![];
    for _ in 0..3 {
        let (head, raw) = upgrade(&server, 2, "").await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        open.push(raw);
    }
    for _ in 0..2 {
        let (head, _) = upgrade(&server, 2, "X-API-Key: sk_wrong\r\n").await;
        assert!(head.starts_with("http/1.1 401"), "{head}");
    }
    for raw in open {
        raw.greeted().await;
    }
    let counted = async |limit: &str, mode: &str| {
        metric(&server.admin, &format!("switchyard_limited_total{{limit=\"{limit}\",mode=\"{mode}\"}}")).await
    };
    for limit in ["address_connections", "address_unauthenticated", "address_connects", "address_failures"] {
        assert!(counted(limit, "observe").await > 0, "{limit}");
        assert_eq!(counted(limit, "enforce").await, 0, "{limit}");
    }
}
