//! Building the plugin of a folder with the tools of its language, in a process of its own.

use anyhow::{Context, bail};
use serde::Deserialize;
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};
use switchyard_process::lock::LockExt;
use tokio::sync::oneshot;

use crate::output::write_stderr_line;

/// How to build the plugin.
pub(super) enum BuildCommand {
    /// A crate, whose plugin cargo names when it has built it.
    Cargo,
    /// Anything else, which builds `file`, or else the only Wasm file of the folder.
    Shell { command: String, file: Option<PathBuf> },
}

/// What cargo says about something that it has built.
#[derive(Deserialize)]
struct CargoMessage {
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

impl BuildCommand {
    /// Looks for the files of a project that `plugin new` has created.
    pub(super) fn find(folder: &Path) -> anyhow::Result<Self> {
        let has = |file: &str| folder.join(file).is_file();
        let shell = |command: &str| Self::Shell { command: command.to_owned(), file: None };
        if has("Cargo.toml") {
            Ok(Self::Cargo)
        } else if has("package.json") {
            Ok(shell("npm run build"))
        } else if has("build.sh") {
            Ok(shell("sh build.sh"))
        } else {
            bail!(
                "{}: no Cargo.toml, package.json or build.sh there; name the command with --build and what it builds with \
                 --file",
                folder.display()
            )
        }
    }

    /// Builds, and returns the plugin. Its output goes to standard error. Dropping the future ends the process.
    pub(super) async fn run(&self) -> anyhow::Result<Vec<u8>> {
        let mut command = match self {
            Self::Cargo => {
                let mut command = Command::new("cargo");
                command.args(["build", "--release", "--lib", "--target", "wasm32-unknown-unknown"]);
                command.arg("--message-format=json-render-diagnostics");
                command
            }
            Self::Shell { command: line, .. } => {
                let mut command = Command::new("sh");
                command.args(["-c", line]);
                command
            }
        };
        let name = command.get_program().to_string_lossy().into_owned();
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().expect("it is piped");
        let child = Arc::new(Mutex::new(child));
        let _kill_if_dropped = KillOnDrop(child.clone());
        let (sender, ended) = oneshot::channel();
        let is_cargo = matches!(self, Self::Cargo);
        let wait = move || {
            let built = read_output(stdout, is_cargo);
            // It has closed its output, so it ends soon.
            let status = child.locked().wait();
            sender.send((status, built)).ok();
        };
        thread::Builder::new().spawn(wait).context("cannot start a thread for the build")?;
        let (status, built) = ended.await.context("the build was not awaited")?;
        let status = status.with_context(|| format!("cannot wait for {name}"))?;
        if !status.success() {
            bail!("the build failed ({status})");
        }
        let file = match self {
            Self::Shell { file: Some(file), .. } => file.clone(),
            Self::Shell { file: None, .. } => find_plugin(Path::new("."))?,
            Self::Cargo => {
                built.context("cargo built no plugin; the crate needs crate-type = [\"cdylib\"] in [lib]")?
            }
        };
        fs::read(&file).with_context(|| format!("the build made no {}", file.display()))
    }
}

/// Passes what a command prints on to standard error. What cargo prints there are messages for programs; the last
/// Wasm file that they name is the plugin.
fn read_output(stdout: impl Read, is_cargo: bool) -> Option<PathBuf> {
    let mut built = None;
    for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        if !is_cargo {
            write_stderr_line(line);
            continue;
        }
        let message = serde_json::from_str(&line).unwrap_or(CargoMessage { filenames: vec![] });
        let is_plugin = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "wasm");
        built = message.filenames.into_iter().find(is_plugin).or(built);
    }
    built
}

/// The only Wasm file of a folder.
fn find_plugin(folder: &Path) -> anyhow::Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut plugins: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|extension| extension == "wasm")).collect();
    match (plugins.pop(), plugins.is_empty()) {
        (Some(plugin), true) => Ok(plugin),
        (None, _) => {
            bail!("the build made no .wasm file in this folder; name the file with --build and --file")
        }
        (Some(_), false) => {
            bail!("there are several .wasm files in this folder; name one with --build and --file")
        }
    }
}

struct KillOnDrop(Arc<Mutex<Child>>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // Does nothing if it has ended. While the thread waits for its end, it is about to.
        if let Ok(mut child) = self.0.try_lock() {
            child.kill().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_is_the_last_wasm_file_that_cargo_names() {
        let printed = "{\"reason\":\"compiler-artifact\",\"filenames\":[\"/t/libserde.rlib\"]}\n\
                       {\"reason\":\"compiler-artifact\",\"filenames\":[\"/t/mine.wasm\",\"/t/libmine.rlib\"]}\n\
                       {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(read_output(printed.as_bytes(), true), Some("/t/mine.wasm".into()));
    }

    #[tokio::test]
    async fn a_build_is_a_command_and_the_file_that_it_makes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.wasm");
        let shell = |command: String| BuildCommand::Shell { command, file: Some(file.clone()) };
        let built = shell(format!("printf made > {}", file.display())).run().await.unwrap();
        assert_eq!(built, b"made");
        let error = shell("exit 3".into()).run().await.unwrap_err();
        assert_eq!(error.to_string(), "the build failed (exit status: 3)");
        fs::remove_file(&file).unwrap();
        let error = shell("true".into()).run().await.unwrap_err();
        assert!(format!("{error:#}").starts_with("the build made no "), "{error:#}");
    }
}
