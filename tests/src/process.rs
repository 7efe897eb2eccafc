//! The real binary, as an operator runs it.

use crate::{PATIENCE, binary};
use serde_json::Value;
use std::{
    path::Path,
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

fn command(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(folder).envs(environment.iter().copied());
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs the binary in a folder until it ends by itself.
pub async fn run(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let output = command(folder, arguments, environment).output();
    timeout(PATIENCE, output).await.expect("an end in time").expect("a process")
}

/// A serving process.
pub struct Process {
    pub url: String,
    pub admin: String,
    /// What it printed first.
    pub told: Value,
    child: Child,
}

impl Process {
    /// `serve --json` in a folder, with more arguments.
    pub async fn serve(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let log = std::fs::File::create(folder.join("stderr")).expect("a file for what it logs");
        let arguments = [&["serve", "--json"], arguments].concat();
        let mut child = command(folder, &arguments, environment)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("a process");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.expect("a line in time").expect("text");
        let line = line.unwrap_or_else(|| {
            panic!("it ended: {}", std::fs::read_to_string(folder.join("stderr")).unwrap_or_default())
        });
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text =
            |name: &str| told[name].as_str().unwrap_or_else(|| panic!("no {name} in {line}")).to_owned();
        Self { url: text("url"), admin: text("admin"), told, child }
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Where the TCP port is.
    pub fn address(&self) -> &str {
        self.url.split('/').nth(2).expect("scheme://address/path")
    }

    /// Sends a signal by its name, such as `HUP`.
    pub async fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.id().to_string()]).status().await;
        assert!(sent.expect("kill is there").success());
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("an end in time").expect("a status")
    }

    /// Waits until it ends by itself, and ends it when that takes longer.
    pub async fn ended_within(&mut self, patience: Duration) {
        if timeout(patience, self.child.wait()).await.is_err() {
            self.kill().await;
        }
    }

    /// Ends it without a chance to do anything more.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("a process");
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
    }
}
