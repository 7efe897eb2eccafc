//! The cost of connections: of opening them, their memory, and keeping them alive.

use crate::{crowd::Crowd, line::micros, load::shares, peer::Peer};
use serde_json::{Value, json};
use std::{io, sync::Arc, time::Duration};
use switchyard_protocol::unix_ms;
use switchyard_tests::{
    ISSUER, key_set,
    report::{Section, figure, rounded},
    user_token,
};
use tokio::time::sleep;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};

const PLAIN_CONNECTIONS: usize = 10_000;
/// The number of connections over TLS, which cost the clients most.
const TLS_CONNECTIONS: usize = 2000;
const IDLE_WINDOW: Duration = Duration::from_secs(10);
/// The interval in which the minimal server sends pings.
const HEARTBEAT: &str = "[session]\nheartbeat = { interval = \"10s\", timeout = \"10s\" }\n";

struct Run {
    name: &'static str,
    count: usize,
    a_second: f64,
    p50: f64,
    p95: f64,
    /// Processor seconds of the server.
    cpu: f64,
    memory: f64,
    /// Processor seconds of the server per second, with only pings.
    idle: f64,
    wrong: u64,
}

impl Run {
    async fn of(name: &'static str, peer: &Peer, count: usize) -> Self {
        let (cpu, began) = (peer.cpu(), micros());
        let crowd = Crowd::gather(peer, count, |_| (vec!["quiet".to_owned()], None)).await;
        let seconds = (micros() - began) as f64 / 1e6;
        let cpu = peer.cpu() - cpu;
        let memory = peer.grown().await as f64 / count as f64;
        let idle = peer.cpu();
        sleep(IDLE_WINDOW).await;
        let idle = (peer.cpu() - idle) / IDLE_WINDOW.as_secs_f64();
        let [p50, p95] = shares(crowd.joined.iter().map(|(took, _)| *took as u32).collect(), [0.50, 0.95]);
        let wrong = crowd.refused + crowd.take().wrong();
        Self { name, count, a_second: count as f64 / seconds, p50, p95, cpu, memory, idle, wrong }
    }

    /// Milliseconds per thousand connections.
    fn each(&self) -> f64 {
        self.cpu * 1e6 / self.count as f64
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.to_owned(),
            figure(self.count as f64),
            figure(self.a_second),
            figure(self.p50),
            figure(self.p95),
            figure(self.each()),
            figure(self.memory),
            figure(self.idle * 1e3 * PLAIN_CONNECTIONS as f64 / self.count as f64),
            self.wrong.to_string(),
        ]
    }

    fn figures(&self) -> Value {
        json!({
            "what": self.name, "connections": self.count, "a_second": rounded(self.a_second), "p50_ms": rounded(self.p50),
            "p95_ms": rounded(self.p95), "cpu_ms_a_thousand": rounded(self.each()),
            "bytes_a_connection": rounded(self.memory), "idle_cores": rounded(self.idle), "wrong": self.wrong,
        })
    }
}

pub async fn measure() -> io::Result<Section> {
    let runs = [
        Run::of("floor", &Peer::floor(None).await, PLAIN_CONNECTIONS).await,
        Run::of("node", &Peer::node(HEARTBEAT).await, PLAIN_CONNECTIONS).await,
        Run::of("node, tokens", &with_tokens().await, PLAIN_CONNECTIONS).await,
        Run::of("node, wss", &encrypted().await, TLS_CONNECTIONS).await,
    ];
    Ok(Section {
        name: "connections",
        title: "Connections",
        how: format!(
            "{PLAIN_CONNECTIONS} connections, {TLS_CONNECTIONS} over TLS, opened 64 at a time. The floor's work \
             ends with the upgrade; the node then also handles the key, a session and a room, in two more \
             exchanges. Tokens are signed with Ed25519. Memory is the growth of the process. After that, the connections are idle for {} s \
             except for a ping every 10 s, whose cost is given for 10,000 connections.",
            IDLE_WINDOW.as_secs()
        ),
        columns: vec![
            "",
            "connections",
            "opened a second",
            "p50 ms",
            "p95 ms",
            "CPU ms a thousand",
            "bytes each",
            "pings, CPU ms a second",
            "refused or lost",
        ],
        rows: runs.iter().map(Run::row).collect(),
        remarks: vec![],
        figures: runs.iter().map(Run::figures).collect(),
        wrong: runs.iter().map(|run| run.wrong).sum(),
    })
}

/// Starts a node whose clients connect with user tokens.
async fn with_tokens() -> Peer {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("jwks.json"), key_set(&[1])).expect("a file");
    let issuer = format!(
        "{HEARTBEAT}[[issuer]]\nname = \"app\"\nissuer = \"{ISSUER}\"\naudience = \"switchyard\"\n\
         algorithms = [\"EdDSA\"]\nkeys = \"jwks.json\"\n"
    );
    let mut peer = Peer::node_in(folder, &issuer).await;
    peer.auth = json!({"token": user_token(1, json!({"exp": unix_ms() / 1000 + 7200}))}).to_string();
    peer
}

/// Starts a node with TLS, and creates the configuration of clients that trust it.
async fn encrypted() -> Peer {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    let tls = format!(
        "{HEARTBEAT}[server.tls]\ncertificate = \"{}\"\nkey = \"{}\"\n",
        certificate.display(),
        key.display()
    );
    let mut peer = Peer::node_in(folder, &tls).await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(made.cert.der().to_vec())).expect("its own certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    peer.tls = Some(Arc::new(config));
    peer
}
