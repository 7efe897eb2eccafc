//! One of several nodes on one store: the real binary, with a configuration of its own.

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
    /// On this store, with the keys of this crate and `extra` TOML.
    pub async fn start(store: &str, extra: &str) -> Self {
        let folder = Self::folder(store, extra);
        Self::start_in(folder).await
    }

    /// A folder with the configuration of a node that is not started yet.
    pub fn folder(store: &str, extra: &str) -> tempfile::TempDir {
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

    /// One that has mounts of its own.
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

    /// One whose standard error is this.
    pub async fn start_logging_to(folder: tempfile::TempDir, log: impl Into<Stdio>) -> Self {
        let arguments = ["--config", "switchyard.toml"];
        let change = |command: &mut Command| _ = command.stderr(log);
        let process = Process::serve_with(folder.path(), &arguments, &[], change).await;
        Self { url: process.url.clone(), process, folder }
    }

    /// Where its configuration is.
    pub fn place(&self) -> &Path {
        self.folder.path()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// A new session of `acme`.
    pub async fn client(&self) -> Client {
        Client::connect_at(&self.url, json!({"auth": {"apiKey": KEY}})).await
    }

    pub async fn resume(&self, token: &str) -> Client {
        Client::connect_at(&self.url, json!({"auth": {"apiKey": KEY}, "session": token})).await
    }

    pub async fn call(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        Answer::called(&self.process.admin, method, path, Some(KEY), body).await
    }

    /// A GET that must succeed.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, "").await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    /// Members of a room on all nodes; 0 for a room that is not there.
    pub async fn members(&self, room: &str) -> u64 {
        match self.call("GET", &format!("/v1/rooms/{room}"), "").await {
            (200, body) => {
                serde_json::from_str::<Value>(&body).expect("JSON")["members"].as_u64().expect("a number")
            }
            (404, _) => 0,
            (status, body) => panic!("{status}: {body}"),
        }
    }

    /// Waits until a room has so many members.
    pub async fn has_members(&self, room: &str, count: u64) {
        eventually(&format!("{count} members of {room}"), async || {
            (self.members(room).await == count).then_some(())
        })
        .await;
    }

    pub async fn is_ready(&self) -> bool {
        self.call("GET", "/readyz", "").await.0 == 200
    }

    /// The value of a series without labels, or the sum of those with labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.call("GET", "/metrics", "").await;
        let values = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }
}
