//! A node whose log cannot be written.

use super::serve::{PORTS, connect};
use serde_json::json;
use std::{
    fs::{self, File},
    path::Path,
    process::Stdio,
};
use switchyard_tests::{Answer, Client, KEY, Process, Server, eventually};
use tempfile::TempDir;

/// A node with a publisher and a listener, which logs to the given target.
struct Logging {
    process: Process,
    clients: [Client; 2],
    folder: TempDir,
}

impl Logging {
    async fn to(log: impl Into<Stdio>, level: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("s.toml"), format!("{PORTS}{}", Server::keys())).expect("a file");
        let environment = [("RUST_LOG", level)];
        let process = Process::serve_with(folder.path(), &["--config", "s.toml"], &environment, |command| {
            command.stderr(log);
        })
        .await;
        let mut clients = [
            Client::connect_at(&process.url, connect(KEY)).await,
            Client::connect_at(&process.url, connect(KEY)).await,
        ];
        clients[1].subscribe(json!(["prices"])).await;
        Self { process, clients, folder }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("s.toml")
    }

    /// Makes the node reload its files, which it logs, and checks that it still serves.
    async fn goes_on(&mut self) {
        let new = Server::key("sk_new", "new", r#"["publish"]"#, "");
        fs::write(self.file(), format!("{PORTS}{}{new}", Server::keys())).expect("a file");
        self.process.signal("HUP").await;
        let url = self.process.url.clone();
        eventually("the new key", async || Client::is_accepted(&url, "sk_new").await.then_some(())).await;
        for n in 0..20 {
            self.clients[0].publish("prices", json!(n)).await;
            assert_eq!(self.clients[1].expect("message").await["data"], n);
        }
    }

    async fn dropped(&self) -> f64 {
        let address = self.process.admin.strip_prefix("http://").expect("HTTP");
        let metrics = Answer::of(address, "GET", "/metrics", "", b"").await.body;
        let line = metrics.lines().find_map(|line| line.strip_prefix("switchyard_log_lines_dropped_total "));
        line.expect("the series").parse().expect("a number")
    }

    async fn stops(mut self) {
        self.process.signal("TERM").await;
        for client in &mut self.clients {
            assert_eq!(client.closed().await.code, 4600);
        }
        assert_eq!(self.process.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_node_keeps_serving_when_the_disk_of_its_log_is_full() {
    let full = File::options().write(true).open(Path::new("/dev/full")).expect("/dev/full");
    let mut node = Logging::to(full, "info").await;
    node.goes_on().await;
    assert!(node.dropped().await >= 2.0, "what is not written is counted");
    node.stops().await;
}

#[tokio::test]
async fn a_node_keeps_serving_when_its_log_is_no_longer_read() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut node = Logging::to(writer, "info").await;
    drop(reader);
    node.goes_on().await;
    assert!(node.dropped().await >= 2.0, "what is not written is counted");
    node.stops().await;
}

/// A pipe whose reader is stuck accepts 64 KiB and then nothing more.
#[tokio::test]
async fn a_node_keeps_serving_when_its_log_is_flooded_and_not_read() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut node =
        Logging::to(writer, "trace,tungstenite=trace,tokio_tungstenite=trace,mio=trace,hyper=trace").await;
    node.goes_on().await;
    let before = node.process.memory();
    let data = json!("x".repeat(1000));
    let mut published = 0;
    // Until the node has dropped more lines than can wait.
    while node.dropped().await < 10_000.0 {
        for _ in 0..50 {
            node.clients[0].publish("prices", data.clone()).await;
            assert_eq!(node.clients[1].expect("message").await["data"], data);
        }
        published += 50;
        assert!(published < 100_000, "trace logs nothing");
    }
    let grown = node.process.memory().saturating_sub(before);
    assert!(grown < 48 << 20, "{published} messages took {grown} bytes");
    node.goes_on().await;
    node.stops().await;
    drop(reader);
}
