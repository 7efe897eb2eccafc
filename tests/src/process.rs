//! The real binary as a process, run as an operator does.

use crate::{EVENT_TIMEOUT, binary, eventually};
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

/// A command that runs the binary in a folder. The process is killed when it is dropped.
pub fn command(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(folder).envs(environment.iter().copied());
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs the binary in a folder until it exits.
pub async fn run(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let output = command(folder, arguments, environment).output();
    timeout(EVENT_TIMEOUT, output).await.expect("an end in time").expect("a process")
}

/// Waits for the next line that a process prints. `None`: it has closed its output.
pub async fn next_line(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<String> {
    timeout(EVENT_TIMEOUT, lines.next_line()).await.expect("a line in time").expect("text")
}

/// A process that serves.
pub struct Process {
    pub url: String,
    pub admin: String,
    /// The JSON that it printed when it began to serve.
    pub startup: Value,
    child: Child,
}

/// A process that is starting, and does not serve yet.
pub struct Starting {
    pub child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Starting {
    /// Starts `serve --json` in a folder with more arguments.
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

    /// Waits for the URL of its admin listener, which it logs.
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

    /// Waits until the process serves.
    pub async fn until_serving(self) -> Process {
        let log = self.log.clone();
        let log_text = || std::fs::read_to_string(log).unwrap_or_default();
        self.try_until_serving().await.unwrap_or_else(|_| panic!("it ended: {}", log_text()))
    }

    /// Waits until the process serves. The error is the exit status.
    async fn try_until_serving(mut self) -> Result<Process, ExitStatus> {
        let Some(line) = next_line(&mut self.lines).await else {
            return Err(timeout(EVENT_TIMEOUT, self.child.wait())
                .await
                .expect("an end in time")
                .expect("a status"));
        };
        let startup: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text =
            |name: &str| startup[name].as_str().unwrap_or_else(|| panic!("no {name} in {line}")).to_owned();
        Ok(Process { url: text("url"), admin: text("admin"), startup, child: self.child })
    }
}

/// Sends a signal to a process by its name, such as `TERM`.
pub async fn signal(child: &Child, name: &str) {
    let id = child.id().expect("it runs");
    let sent = Command::new("kill").args(["-s", name, &id.to_string()]).status().await;
    assert!(sent.expect("kill is there").success());
}

impl Process {
    /// Starts `serve --json` in a folder with more arguments, and waits until it serves.
    pub async fn serve(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Starting::serve(folder, arguments, environment).until_serving().await
    }

    /// Like [`Process::serve`], with a command that `change` may modify. By default the log is discarded.
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

    /// Starts a command that serves. The error is the exit status.
    pub async fn started(command: Command) -> Result<Self, ExitStatus> {
        Starting::spawn(command, PathBuf::new()).try_until_serving().await
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// The TCP address of its WebSocket listener.
    pub fn address(&self) -> &str {
        self.url.split('/').nth(2).expect("scheme://address/path")
    }

    /// Sends a signal by its name, such as `HUP`.
    pub async fn signal(&self, name: &str) {
        signal(&self.child, name).await;
    }

    /// Waits until the process exits.
    pub async fn ended(&mut self) -> ExitStatus {
        timeout(EVENT_TIMEOUT, self.child.wait()).await.expect("an end in time").expect("a status")
    }

    /// Waits until the process exits, and kills it after a timeout.
    pub async fn ended_within(&mut self, max_wait: Duration) {
        if timeout(max_wait, self.child.wait()).await.is_err() {
            self.kill().await;
        }
    }

    /// Kills the process.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("a process");
    }

    /// Its resident memory, in bytes.
    pub fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
    }
}
