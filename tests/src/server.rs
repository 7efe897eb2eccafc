//! A node in the test's own process, on free loopback ports.

use crate::{EVENT_TIMEOUT, KEY, READER, replace_file};
use serde_json::Value;
use std::path::{Path, PathBuf};
use switchyard_process::vital::VitalTasks;
use switchyard_server::{AdminListener, ConfigSource, Listeners, Node, config::Config};
use switchyard_store::key::Digest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// The principals, and keys, of [`Server::more_keys`].
pub const MORE_KEYS: [&str; 3] = ["ann", "bob", "cyd"];

/// The rooms of a key that may also publish to the inboxes of others.
pub const EVERY_ROOM: &str =
    r#"rooms = [{ match = "**", allow = ["subscribe", "publish"] }, { match = "@*", allow = ["publish"] }]"#;

pub struct Server {
    pub url: String,
    pub admin: String,
    /// The configuration, to be edited.
    pub file: PathBuf,
    stop: CancellationToken,
    /// The node's folder.
    pub vitals: VitalTasks,
    task: JoinHandle<Result<(), String>>,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts a node with the keys of this crate and `extra` TOML, which must not begin inside a `[[key]]`
    /// section.
    pub async fn start(extra: &str) -> Self {
        Self::start_with(&format!("{}\n{extra}", Self::keys())).await
    }

    /// The keys that every test may use.
    pub fn keys() -> String {
        let all = r#"["subscribe", "publish", "broadcast", "admin"]"#;
        Self::key(KEY, "acme", all, &format!("id = \"acme\"\n{EVERY_ROOM}"))
            + &Self::key(READER, "zed", r#"["subscribe"]"#, "id = \"zed\"")
    }

    /// Keys of three more principals, for tests that need several. Each key is the name of its principal.
    pub fn more_keys() -> String {
        let keys = MORE_KEYS.map(|key| Self::key(key, key, r#"["subscribe", "publish"]"#, ""));
        keys.concat()
    }

    /// A `[[key]]` section with these scopes and more lines.
    pub fn key(key: &str, principal: &str, scopes: &str, more: &str) -> String {
        let digest = Digest::of(key);
        format!("[[key]]\ndigest = \"{digest}\"\nprincipal = \"{principal}\"\nscopes = {scopes}\n{more}\n")
    }

    /// Starts a node with exactly this configuration.
    pub async fn start_with(text: &str) -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder for the configuration"), text).await
    }

    /// Starts a node with this configuration in an existing folder.
    pub async fn start_in(folder: tempfile::TempDir, text: &str) -> Self {
        let file = folder.path().join("switchyard.toml");
        std::fs::write(&file, text).expect("a file in it");
        let vitals = VitalTasks::default();
        let source = ConfigSource::open(Some(file.clone()), &vitals).expect("signals");
        // Read by the source that watches it, as a real node does. Otherwise an immediate change could go
        // unnoticed.
        let path = file.clone();
        let read = source.reader().run_without_timeout(move || Config::load(Some(&path), &vec![])).await;
        let config = read.expect("no panic").unwrap_or_else(|error| panic!("{error}"));
        let listen = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (server, admin) = (listen().await, AdminListener::start(listen().await, vitals).expect("bound"));
        let scheme = if config.server.tls.is_some() { "wss" } else { "ws" };
        let address = server.local_addr().expect("bound");
        let url = format!("{scheme}://{address}{}", config.server.path);
        let admin_url = format!("http://{}", admin.address);
        let stop = CancellationToken::new();
        let node = Node::start(config, source, &admin, &stop).await;
        let node = node.unwrap_or_else(|error| panic!("{error:#}")).expect("nobody stops it");
        let vitals = node.vitals().clone();
        let ended = node.run(Listeners { server, admin }, stop.clone());
        let task = tokio::spawn(async { ended.await.map_err(|error| format!("{error:#}")) });
        Self { url, admin: admin_url, file, stop, vitals, task, _folder: folder }
    }

    /// Starts draining.
    pub fn drain(&self) {
        self.stop.cancel();
    }

    /// Drains, and waits until the node has stopped.
    pub async fn stop(self) {
        self.stop.cancel();
        self.ended().await.expect("a node that ends because it was told to");
    }

    /// Waits until the node has stopped by itself, and returns why.
    pub async fn ended(mut self) -> Result<(), String> {
        let ended = tokio::time::timeout(2 * EVENT_TIMEOUT, &mut self.task).await;
        ended.expect("an end in time").expect("a node ends without a panic")
    }

    /// The TCP address of its WebSocket listener, without scheme and path.
    pub fn address(&self) -> &str {
        self.url.split('/').nth(2).expect("scheme://address/path")
    }

    /// Makes a GET request to the admin listener, with every scope, which must succeed.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, Some(KEY), "").await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    /// Calls the admin listener, and returns the status and the body.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: impl AsRef<[u8]>,
    ) -> (u16, String) {
        Answer::called(&self.admin, method, path, key, body).await
    }

    /// Calls the admin listener, which must refuse with an error object. Returns the status and the error code.
    pub async fn refused(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: impl AsRef<[u8]>,
    ) -> (u16, String) {
        let (status, body) = self.call(method, path, key, body).await;
        let error: Value = serde_json::from_str(&body)
            .unwrap_or_else(|_| panic!("{method} {path}: {status} with no error object: {body}"));
        let error = &error["error"];
        assert!(error["message"].is_string(), "{method} {path}: {body}");
        (status, error["code"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned())
    }

    /// Replaces the configuration file atomically, as an editor does.
    pub fn reconfigure(&self, text: &str) {
        replace_file(&self.file, text);
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

/// An HTTP response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// Calls the admin listener at a URL, and returns the status and the body.
    pub async fn called(
        url: &str,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: impl AsRef<[u8]>,
    ) -> (u16, String) {
        let key = key.map_or(String::new(), |key| format!("Authorization: Bearer {key}\r\n"));
        let address = url.strip_prefix("http://").expect("plain HTTP");
        let answer = Self::of(address, method, path, &key, body.as_ref()).await;
        (answer.status, answer.body)
    }

    /// Makes one request on a new connection. `headers` are complete lines.
    pub async fn of(address: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> Self {
        let mut tcp = TcpStream::connect(address).await.expect("a listener");
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        let mut answer = vec![];
        let exchange = async {
            tcp.write_all(head.as_bytes()).await.expect("a request");
            // The server may stop reading a body that is too long. The response counts then.
            tcp.write_all(body).await.ok();
            tcp.read_to_end(&mut answer).await.ok();
        };
        tokio::time::timeout(EVENT_TIMEOUT, exchange).await.expect("an answer in time");
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) =
            answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Self {
            status: status.unwrap_or_else(|| panic!("{head}")),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }
}
