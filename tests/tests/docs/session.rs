//! The commands of a guide, run one after the other as a reader would type them: in a shell, with a node that
//! serves what the guide configures.

use super::shape::lookalike;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use switchyard_tests::{KEY, Process, binary, signal};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

/// One of them builds a crate.
const BUILD: Duration = Duration::from_secs(400);

pub struct Session {
    folder: PathBuf,
    variables: HashMap<&'static str, String>,
    node: Option<Process>,
    /// Options that a reader does not need: paths on this machine.
    more: Vec<(&'static str, String)>,
}

impl Session {
    pub fn new(folder: &Path, more: Vec<(&'static str, String)>) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        let beside = binary().parent().expect("a folder").display().to_string();
        let variables = HashMap::from([
            ("PATH", format!("{beside}:{path}")),
            ("SWITCHYARD_KEY", KEY.to_owned()),
            ("SWITCHYARD_SERVER__LISTEN", "127.0.0.1:0".to_owned()),
            ("SWITCHYARD_ADMIN__LISTEN", "127.0.0.1:0".to_owned()),
            ("RUST_LOG", "off".to_owned()),
        ]);
        Self { folder: folder.to_owned(), variables, node: None, more }
    }

    pub fn set(&mut self, name: &'static str, value: String) {
        self.variables.insert(name, value);
    }

    /// Runs the commands of all blocks and returns their number.
    pub async fn run(mut self, blocks: &[String]) -> usize {
        let mut count = 0;
        for block in blocks {
            for step in format!("\n{block}").split("\n$ ").skip(1) {
                let (command, expected) = step.split_once('\n').unwrap_or((step, ""));
                let printed = self.step(command).await;
                let (printed, expected) = (printed.trim_end(), expected.trim_end());
                assert!(lookalike(expected, printed), "$ {command}\nsays\n{printed}\nnot\n{expected}");
                count += 1;
            }
        }
        count
    }

    async fn step(&mut self, command: &str) -> String {
        if let Some(folder) = command.strip_prefix("cd ") {
            self.folder.push(folder);
            return String::new();
        }
        if let Some(arguments) = command.strip_prefix("switchyard serve ") {
            let arguments: Vec<_> = arguments.split(' ').collect();
            let variables: Vec<_> =
                self.variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let node = Process::serve(&self.folder, &arguments, &variables).await;
            let printed = format!("clients {}\noperators {}", node.url, node.admin);
            self.variables.insert("SWITCHYARD_ADMIN", node.admin.clone());
            self.node = Some(node);
            return printed;
        }
        if command.starts_with("switchyard plugin dev ") {
            return self.develop(command).await;
        }
        let mut command = command.to_owned();
        for (begins, more) in &self.more {
            if command.starts_with(begins) {
                command = format!("{command} {more}");
            }
        }
        if let Some(node) = &self.node {
            command = command.replace("ws://127.0.0.1:8080/v2/realtime", &node.url);
        }
        let mut shell = Command::new("sh");
        // In braces, so that a command may redirect its own output.
        shell.args(["-c", &format!("{{ {command}\n}} 2>&1")]).current_dir(&self.folder).envs(&self.variables);
        shell.stdin(Stdio::null()).kill_on_drop(true);
        let output =
            tokio::time::timeout(BUILD, shell.output()).await.expect("an end in time").expect("a shell");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a command until it has printed the key, and then ends it as Ctrl-C does.
    async fn develop(&self, command: &str) -> String {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {command}")]).current_dir(&self.folder).envs(&self.variables);
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = shell.spawn().expect("a shell");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut printed = String::new();
        while !printed.contains("\nkey ") {
            let line = tokio::time::timeout(BUILD, lines.next_line()).await.expect("a line in time");
            printed += &line.expect("text").unwrap_or_else(|| panic!("{command} ended: {printed}"));
            printed.push('\n');
        }
        signal(&child, "INT").await;
        assert_eq!(child.wait().await.expect("an end").code(), Some(0), "{command}");
        printed
    }
}
