//! A node in this process, on free ports of loopback.

use crate::{KEY, PATIENCE, READER};
use serde_json::Value;
use std::path::{Path, PathBuf};
use switchyard::{
    config::Config,
    key::Digest,
    node::{Listeners, Node},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub struct Server {
    pub url: String,
    pub admin: String,
    /// The configuration, to be edited.
    pub file: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Server {
    /// With the keys of this crate and `extra` TOML, whose tables must be others than `[[key]]`'s.
    pub async fn start(extra: &str) -> Self {
        Self::start_with(&format!("{}\n{extra}", Self::keys())).await
    }

    /// The keys that every test may use.
    pub fn keys() -> String {
        let key = |key, principal, scopes| {
            let digest = Digest::of(key);
            format!("[[key]]\ndigest = \"{digest}\"\nprincipal = \"{principal}\"\nscopes = {scopes}\n")
        };
        let all = r#"["subscribe", "publish", "broadcast", "admin"]"#;
        key(KEY, "acme", all) + &key(READER, "zed", r#"["subscribe"]"#)
    }

    /// With this configuration as it is.
    pub async fn start_with(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the configuration");
        let file = folder.path().join("switchyard.toml");
        std::fs::write(&file, text).expect("a file in it");
        Self::start_from(file, folder).await
    }

    async fn start_from(file: PathBuf, folder: tempfile::TempDir) -> Self {
        let config = Config::load(Some(&file), &vec![]).unwrap_or_else(|error| panic!("{error}"));
        let listen = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (server, admin) = (listen().await, listen().await);
        let scheme = if config.server.tls.is_some() { "wss" } else { "ws" };
        let address = server.local_addr().expect("bound");
        let url = format!("{scheme}://{address}{}", config.server.path);
        let admin_url = format!("http://{}", admin.local_addr().expect("bound"));
        let node = Node::new(config, Some(file.clone())).await.unwrap_or_else(|error| panic!("{error:#}"));
        let stop = CancellationToken::new();
        let task = tokio::spawn(node.run(Listeners { server, admin }, stop.clone()));
        Self { url, admin: admin_url, file, stop, task, _folder: folder }
    }

    /// Begins to drain.
    pub fn drain(&self) {
        self.stop.cancel();
    }

    /// Drains and waits until it is gone.
    pub async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.task).await.expect("a node ends without a panic");
    }

    /// Where the TCP port is, without scheme and path.
    pub fn address(&self) -> &str {
        self.url.split('/').nth(2).expect("scheme://address/path")
    }

    /// A GET of the admin listener with every scope; it must succeed.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, Some(KEY), "").await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    /// A call of the admin listener: status and body.
    pub async fn call(&self, method: &str, path: &str, key: Option<&str>, body: &str) -> (u16, String) {
        let address = self.admin.strip_prefix("http://").expect("plain HTTP");
        let mut tcp = TcpStream::connect(address).await.expect("the admin listener");
        let key = key.map_or(String::new(), |key| format!("Authorization: Bearer {key}\r\n"));
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{key}Connection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        tcp.write_all(head.as_bytes()).await.expect("a request");
        tcp.write_all(body.as_bytes()).await.expect("a body");
        let mut answer = String::new();
        let read = tcp.read_to_string(&mut answer);
        tokio::time::timeout(PATIENCE, read).await.expect("an answer in time").expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("{head}")), body.to_owned())
    }

    /// Replaces the configuration file in one step, as an editor does.
    pub fn reconfigure(&self, text: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, text).expect("a file beside the configuration");
        std::fs::rename(new, &self.file).expect("one step");
    }

    pub fn folder(&self) -> &Path {
        self.file.parent().expect("a folder")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
