//! The real binary, as an operator runs it.

use crate::{PATIENCE, binary, eventually};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// The binary in a folder, ended when the command is dropped.
pub fn command(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
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

/// A process that is on its way to serve.
pub struct Starting {
    pub child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Starting {
    /// `serve --json` in a folder, with more arguments.
    pub fn serve(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let log = folder.join("stderr");
        let arguments = [&["serve", "--json"], arguments].concat();
        let mut command = command(folder, &arguments, environment);
        command.stderr(std::fs::File::create(&log).expect("a file for what it logs"));
        Self::spawn(command, log)
    }

    fn spawn(mut command: Command, log: PathBuf) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a process");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines, log }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The URL of its operators' listener, as soon as it says it.
    pub async fn admin(&self) -> String {
        eventually("the operators' listener", async || {
            let log = self.log();
            let (before, _) = log.split_once("/readyz")?;
            Some(before[before.rfind("http://")?..].to_owned())
        })
        .await
    }

    /// Sends a signal by its name, such as `TERM`.
    pub async fn signal(&self, name: &str) {
        signal(&self.child, name).await;
    }

    /// Waits until it serves.
    pub async fn serves(self) -> Process {
        let log = self.log.clone();
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        self.try_serves().await.unwrap_or_else(|_| panic!("it ended: {}", said()))
    }

    /// The same, or how it ended instead.
    async fn try_serves(mut self) -> Result<Process, ExitStatus> {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time").expect("text");
        let Some(line) = line else {
            return Err(timeout(PATIENCE, self.child.wait())
                .await
                .expect("an end in time")
                .expect("a status"));
        };
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text =
            |name: &str| told[name].as_str().unwrap_or_else(|| panic!("no {name} in {line}")).to_owned();
        Ok(Process { url: text("url"), admin: text("admin"), told, child: self.child })
    }
}

async fn signal(child: &Child, name: &str) {
    let id = child.id().expect("it runs");
    let sent = Command::new("kill").args(["-s", name, &id.to_string()]).status().await;
    assert!(sent.expect("kill is there").success());
}

impl Process {
    /// `serve --json` in a folder, with more arguments.
    pub async fn serve(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Starting::serve(folder, arguments, environment).serves().await
    }

    /// The same by a command that is changed before; what it logs goes nowhere by itself.
    pub async fn serve_with(
        folder: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let arguments = [&["serve", "--json"], arguments].concat();
        let mut command = command(folder, &arguments, environment);
        command.stderr(Stdio::null());
        change(&mut command);
        Self::started(command).await.unwrap_or_else(|status| panic!("it ended: {status}"))
    }

    /// A command that serves, or how it ended instead.
    pub async fn started(command: Command) -> Result<Self, ExitStatus> {
        Starting::spawn(command, PathBuf::new()).try_serves().await
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
        signal(&self.child, name).await;
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
