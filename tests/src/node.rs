//! A node as a process of its own: the real binary with its own configuration. Several can share a store.

use crate::{Answer, Client, KEY, OWN_MOUNTS, Process, Server, binary, eventually};
use serde_json::{Value, json};
use std::{path::Path, process::Stdio};
use tokio::process::Command;

pub struct Node {
    pub process: Process,
    pub url: String,
    pub folder: tempfile::TempDir,
}

impl Node {
    /// Starts a node on this store, with the keys of this crate and `extra` TOML.
    pub async fn start(store: &str, extra: &str) -> Self {
        let folder = Self::create_folder(store, extra);
        Self::start_in(folder).await
    }

    /// Creates a folder with the configuration of a node, without starting it.
    pub fn create_folder(store: &str, extra: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [store]\nurl = \"{store}\"\n{}\n{extra}",
            Server::keys()
        );
        std::fs::write(folder.path().join("switchyard.toml"), text).expect("a configuration");
        folder
    }

    pub async fn start_in(folder: tempfile::TempDir) -> Self {
        let process = Process::serve(folder.path(), &["--config", "switchyard.toml"], &[]).await;
        Self { url: process.url.clone(), process, folder }
    }

    /// Starts a node with its own mount namespace.
    pub async fn start_mounting(folder: tempfile::TempDir) -> Self {
        let [program, argument] = OWN_MOUNTS;
        let mut command = Command::new(program);
        command.arg(argument).arg(binary()).args(["serve", "--json", "--config", "switchyard.toml"]);
        let log = std::fs::File::create(folder.path().join("stderr")).expect("a file for what it logs");
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        command.kill_on_drop(true);
        let process = Process::started(command).await;
        let process = process.unwrap_or_else(|status| panic!("it ended: {status}"));
        Self { url: process.url.clone(), process, folder }
    }

    /// Starts a node that logs to the given target.
    pub async fn start_logging_to(folder: tempfile::TempDir, log: impl Into<Stdio>) -> Self {
        let arguments = ["--config", "switchyard.toml"];
        let change = |command: &mut Command| _ = command.stderr(log);
        let process = Process::serve_with(folder.path(), &arguments, &[], change).await;
        Self { url: process.url.clone(), process, folder }
    }

    /// The folder with its configuration.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// Opens a new session of `acme`.
    pub async fn client(&self) -> Client {
        Client::connect_at(&self.url, json!({"auth": {"apiKey": KEY}})).await
    }

    pub async fn resume(&self, token: &str) -> Client {
        Client::connect_at(&self.url, json!({"auth": {"apiKey": KEY}, "session": token})).await
    }

    pub async fn call(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        Answer::called(&self.process.admin, method, path, Some(KEY), body).await
    }

    /// Makes a GET request, which must succeed.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, "").await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    /// The number of members of a room on all nodes; 0 if the room does not exist.
    pub async fn members(&self, room: &str) -> u64 {
        match self.call("GET", &format!("/v1/rooms/{room}"), "").await {
            (200, body) => {
                serde_json::from_str::<Value>(&body).expect("JSON")["members"].as_u64().expect("a number")
            }
            (404, _) => 0,
            (status, body) => panic!("{status}: {body}"),
        }
    }

    /// Waits until a room has `count` members.
    pub async fn has_members(&self, room: &str, count: u64) {
        eventually(&format!("{count} members of {room}"), async || {
            (self.members(room).await == count).then_some(())
        })
        .await;
    }

    pub async fn is_ready(&self) -> bool {
        self.call("GET", "/readyz", "").await.0 == 200
    }

    /// The value of a metric: its only series, or the sum of all series with labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.call("GET", "/metrics", "").await;
        let values = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }
}
