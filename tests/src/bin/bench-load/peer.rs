//! What is measured: a node, or the floor under it, each as a process of its own and, where there is more than one core, on the
//! first of them.

use crate::line::{Line, micros};
use std::{
    fs, io,
    process::Stdio,
    sync::{Arc, LazyLock},
    time::Duration,
};
use switchyard_tests::{Server, binary, spent};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::sleep,
};
use tokio_rustls::rustls::ClientConfig;

/// Members are as many connections of one principal, in as many rooms as they like.
const CONFIG: &str = "\
[server]
listen = \"127.0.0.1:0\"
[admin]
listen = \"127.0.0.1:0\"
[tier.default]
connections = 1000000
rooms = 100000
";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Node,
    /// With what waits for a flush, in milliseconds.
    Floor(Option<u64>),
}

pub struct Peer {
    pub kind: Kind,
    pub address: String,
    /// How clients speak TLS to it.
    pub tls: Option<Arc<ClientConfig>>,
    id: u32,
    /// Bytes of memory before the first connection.
    empty: usize,
    _child: Child,
    _folder: tempfile::TempDir,
    _lines: Lines<BufReader<ChildStdout>>,
}

/// A member that is in, and how long that took.
pub struct Joined {
    pub line: Line,
    /// Of a node.
    pub session: String,
    /// From the first packet until it was in its rooms, microseconds.
    pub took: u64,
}

impl Peer {
    pub async fn floor(flush: Option<u64>) -> Self {
        let own = std::env::current_exe().expect("this program");
        let mut command = pinned(own.to_str().expect("UTF-8"));
        command.arg("floor").args(flush.map(|flush| flush.to_string()));
        let folder = tempfile::tempdir().expect("a folder");
        Self::start(command, Kind::Floor(flush), folder, |line| line.to_owned()).await
    }

    /// A node with this much more TOML.
    pub async fn node(extra: &str) -> Self {
        Self::node_in(tempfile::tempdir().expect("a folder"), extra).await
    }

    pub async fn node_in(folder: tempfile::TempDir, extra: &str) -> Self {
        let file = folder.path().join("switchyard.toml");
        fs::write(&file, format!("{}{CONFIG}{extra}", Server::keys())).expect("a file");
        let mut command = pinned(binary().to_str().expect("UTF-8"));
        command.args(["serve", "--json", "--config"]).arg(file);
        command.stderr(fs::File::create(folder.path().join("stderr")).expect("a file for what it logs"));
        Self::start(command, Kind::Node, folder, |line| {
            let told: serde_json::Value = serde_json::from_str(line).expect("JSON");
            told["url"].as_str().and_then(|url| url.split('/').nth(2)).expect("a URL").to_owned()
        })
        .await
    }

    async fn start(
        mut command: Command,
        kind: Kind,
        folder: tempfile::TempDir,
        address: impl Fn(&str) -> String,
    ) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("a process");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = lines.next_line().await.expect("text");
        let line = line.unwrap_or_else(|| {
            panic!("it ended: {}", fs::read_to_string(folder.path().join("stderr")).unwrap_or_default())
        });
        let id = child.id().expect("it runs");
        let address = address(&line);
        Self {
            kind,
            address,
            tls: None,
            id,
            empty: memory(id),
            _child: child,
            _folder: folder,
            _lines: lines,
        }
    }

    pub fn is_node(&self) -> bool {
        self.kind == Kind::Node
    }

    /// Seconds of processor time so far.
    pub fn cpu(&self) -> f64 {
        spent::precisely(self.id)
    }

    /// Bytes more than before the first connection, when it has come to rest.
    pub async fn grown(&self) -> usize {
        sleep(Duration::from_millis(1500)).await;
        memory(self.id).saturating_sub(self.empty)
    }

    /// A member of these rooms, each with or without a filter.
    pub async fn join(&self, rooms: &[String], filter: Option<&str>) -> io::Result<Joined> {
        let began = micros();
        let (mut line, session) = match self.kind {
            Kind::Floor(_) => (Line::open(self, &format!("/in/{}", rooms.join(","))).await?, String::new()),
            Kind::Node => Line::connect(self, None).await?,
        };
        if self.is_node() {
            for some in rooms.chunks(50) {
                let wishes: Vec<_> = some.iter().map(|room| wish(room, filter)).collect();
                line.send(&format!(r#"{{"type":"subscribe","id":1,"rooms":[{}]}}"#, wishes.join(",")))
                    .await?;
                let answer = line.text().await?;
                if !answer.starts_with(r#"{"type":"subscribed""#) || answer.contains(r#""error""#) {
                    return Err(io::Error::other(answer));
                }
            }
        }
        Ok(Joined { line, session, took: micros() - began })
    }

    pub async fn publisher(&self) -> io::Result<Line> {
        match self.kind {
            Kind::Floor(_) => Line::open(self, "/publish").await,
            Kind::Node => Ok(Line::connect(self, None).await?.0),
        }
    }
}

fn wish(room: &str, filter: Option<&str>) -> String {
    match filter {
        None => format!(r#""{room}""#),
        Some(filter) => format!(r#"{{"room":"{room}","filter":{filter}}}"#),
    }
}

/// Proportional set size: what is shared counts by share.
fn memory(id: u32) -> usize {
    let text =
        fs::read_to_string(format!("/proc/{id}/smaps_rollup")).expect("Linux, and a process that runs");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("Pss");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

/// Whether servers have a core of their own. Asked first before this program keeps to the others.
pub fn apart() -> bool {
    static APART: LazyLock<bool> = LazyLock::new(|| {
        let there = std::process::Command::new("taskset").arg("--version").stdout(Stdio::null()).status();
        spent::cores() > 1 && there.is_ok_and(|status| status.success())
    });
    *APART
}

fn pinned(program: &str) -> Command {
    if !apart() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", "0", program]);
    command
}
