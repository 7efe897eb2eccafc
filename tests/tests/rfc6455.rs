//! RFC 6455, case by case: what a client may send and what the server must answer, over TCP and TLS, in one
//! piece and byte by byte, together with the upgrade, before and after `connect`, and while the server's
//! writes are blocked.

mod blocked;
mod case;
mod closing;
mod ending;
mod framing;
mod handshake;
mod line;
mod utf8;

use case::Way;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::{collections::HashSet, fs};
use switchyard_tests::{Answer, KEY, Process, Server};

/// A node for one test, with or without TLS.
struct Node {
    process: Process,
    /// The URL of its WebSocket.
    url: String,
    _folder: tempfile::TempDir,
}

impl Node {
    async fn start(tls: bool, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        line::CERTIFICATE.write_to(folder.path());
        let tls = match tls {
            true => "tls = { certificate = \"cert.pem\", key = \"key.pem\" }\n",
            false => "",
        };
        let configuration = format!(
            "{}\n[server]\nlisten = \"127.0.0.1:0\"\nframe = \"128KiB\"\n{tls}[admin]\nlisten = \"127.0.0.1:0\"\n\
             [tier.default]\nconnections = 10000\n{more}",
            Server::keys()
        );
        fs::write(folder.path().join("s.toml"), configuration).expect("a file");
        let process = Process::serve(folder.path(), &["--config", "s.toml"], &[]).await;
        let scheme = if tls.is_empty() { "ws" } else { "wss" };
        let url = format!("{scheme}://{}/v2/realtime", process.address());
        Self { process, url, _folder: folder }
    }

    /// Publishes to the room `prices`.
    async fn publish(&self, data: Value) {
        let body = json!({"room": "prices", "data": data}).to_string();
        let (status, body) =
            Answer::called(&self.process.admin, "POST", "/v1/publish", Some(KEY), body).await;
        assert_eq!(status, 200, "{body}");
    }
}

/// The number of concurrent connections.
const ABREAST: usize = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_passes_in_every_way() {
    let cases: Vec<_> = [framing::cases(), utf8::cases(), closing::cases()].into_iter().flatten().collect();
    let handshakes = handshake::cases();
    let names: HashSet<_> = cases.iter().map(|case| (case.section, &case.name)).collect();
    let asked: HashSet<_> = handshakes.iter().map(|case| (case.section, &case.name)).collect();
    assert_eq!((names.len(), asked.len()), (cases.len(), handshakes.len()), "every case has its own name");
    assert!(
        cases.len() + handshakes.len() >= 250,
        "{} cases and {} handshakes",
        cases.len(),
        handshakes.len()
    );

    let (tcp, tls) = tokio::join!(Node::start(false, ""), Node::start(true, ""));
    let ways = [Way::Pieces, Way::Bytes, Way::AtOnce, Way::BeforeConnect, Way::BytesBeforeConnect];
    let mut held = vec![];
    for node in [&tcp, &tls] {
        for case in &cases {
            held.extend(ways.map(|way| Box::pin(case.hold(&node.url, way)) as Held));
        }
        for case in &handshakes {
            held.extend([false, true].map(|bytewise| Box::pin(case.hold(&node.url, bytewise)) as Held));
        }
    }
    let count = held.len();
    let failed: Vec<_> =
        stream::iter(held).buffer_unordered(ABREAST).filter_map(async |held| held.err()).collect().await;
    assert!(failed.is_empty(), "{} of {count}:\n{}", failed.len(), failed.join("\n"));
}

type Held<'a> = std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;
