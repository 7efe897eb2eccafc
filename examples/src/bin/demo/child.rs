//! A program that runs beside this one. Its output goes to a file, and is shown when it ends too early.

use anyhow::{Context, bail};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process::{self, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// A node drains within 10 s.
const GRACE: Duration = Duration::from_secs(12);
/// Lines of output that are shown.
const SHOWN: usize = 30;

pub struct Child {
    name: String,
    process: process::Child,
    output: PathBuf,
}

impl Child {
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

    /// How, when it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    /// An error when it has ended, with its last words.
    pub fn alive(&mut self) -> anyhow::Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; it said:\n{}", self.name, self.log()),
        }
    }

    /// The first line that is JSON, once there is one: log lines may come before it.
    pub fn first_line(&self) -> anyhow::Result<Option<String>> {
        let text = fs::read_to_string(&self.output)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole.lines().find(|line| line.starts_with('{')).map(str::to_owned))
    }

    /// The end of its output.
    pub fn log(&self) -> String {
        let text = fs::read(&self.output).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN)..].join("\n")
    }

    /// Asks it to end, as an operator would, and waits; kills it when it does not.
    pub fn stop(&mut self) {
        let asked = Instant::now();
        // std can only kill.
        Command::new("kill")
            .args(["-TERM", &self.process.id().to_string()])
            .stderr(Stdio::null())
            .status()
            .ok();
        while asked.elapsed() < GRACE {
            match self.process.try_wait() {
                Ok(None) => sleep(Duration::from_millis(20)),
                _ => return,
            }
        }
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Only reached alive when something panicked.
        self.process.kill().ok();
    }
}
