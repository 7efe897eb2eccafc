//! A child process of the demo. Its output goes to a file, the end of which is shown if the process exits too
//! early.

use anyhow::{Context, bail};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process::{self, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long to wait for a process after SIGTERM. A node drains for up to 10 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(12);
/// Maximum number of lines of output to show.
const MAX_LOG_LINES: usize = 30;

pub struct ChildProcess {
    name: String,
    process: process::Child,
    output: PathBuf,
}

impl ChildProcess {
    /// Starts a program that writes all its output to the file `output`. `name` is for messages.
    pub fn start(name: String, mut command: Command, output: PathBuf) -> anyhow::Result<Self> {
        let opened = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&output);
        let file = opened.with_context(|| output.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let process = command.spawn().with_context(|| command.get_program().display().to_string())?;
        Ok(Self { name, process, output })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The exit status, if the process has exited.
    pub fn exit_status(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    /// Fails if the process has exited, with the end of its output.
    pub fn ensure_running(&mut self) -> anyhow::Result<()> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended with {status}; the end of its output:\n{}", self.name, self.log_tail())
            }
        }
    }

    /// The first line of output that is JSON, if there is one. Log lines may come before it.
    pub fn first_json_line(&self) -> anyhow::Result<Option<String>> {
        let text = fs::read_to_string(&self.output)?;
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        Ok(complete.lines().find(|line| line.starts_with('{')).map(str::to_owned))
    }

    /// The last lines of the output.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.output).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(MAX_LOG_LINES)..].join("\n")
    }

    /// Stops the process with SIGTERM, as an operator would, and waits for it. If it does not exit, kills it.
    pub fn stop(&mut self) {
        let began = Instant::now();
        // The standard library can only send SIGKILL.
        Command::new("kill")
            .args(["-TERM", &self.process.id().to_string()])
            .stderr(Stdio::null())
            .status()
            .ok();
        while began.elapsed() < STOP_TIMEOUT {
            match self.process.try_wait() {
                Ok(None) => sleep(Duration::from_millis(20)),
                _ => return,
            }
        }
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // Has an effect only after a panic; otherwise the process has been stopped already.
        self.process.kill().ok();
    }
}
