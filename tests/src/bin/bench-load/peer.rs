//! The server that is measured: a node or the minimal server, as a process of its own. If there are several
//! cores, it runs on the first.

use crate::line::{Line, micros};
use std::{
    fs, io,
    process::Stdio,
    sync::{Arc, LazyLock},
    time::Duration,
};
use switchyard_tests::{KEY, Server, binary, cpu_time};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::sleep,
};
use tokio_rustls::rustls::ClientConfig;

/// One principal has all the connections, in any number of rooms.
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
    /// How long it collects messages before a flush, in milliseconds.
    Floor(Option<u64>),
}

pub struct Peer {
    pub kind: Kind,
    pub address: String,
    /// The TLS configuration of clients.
    pub tls: Option<Arc<ClientConfig>>,
    /// The `auth` with which clients connect to a node.
    pub auth: String,
    id: u32,
    /// Memory in bytes before the first connection.
    empty: usize,
    _child: Child,
    _folder: tempfile::TempDir,
    _lines: Lines<BufReader<ChildStdout>>,
}

/// A member that has joined, and how long that took.
pub struct Joined {
    pub line: Line,
    /// The session on a node.
    pub session: String,
    /// Microseconds from the first packet until it had joined its rooms.
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

    /// Starts a node with additional TOML.
    pub async fn node(extra: &str) -> Self {
        Self::node_in(tempfile::tempdir().expect("a folder"), extra).await
    }

    pub async fn node_in(folder: tempfile::TempDir, extra: &str) -> Self {
        Self::node_by(pinned(binary().to_str().expect("UTF-8")), folder, extra).await
    }

    /// Starts a node that may use the cores of the clients as well.
    pub async fn node_on_all_cores(extra: &str) -> Self {
        let mut command = Command::new("taskset");
        command.args(["-c", &format!("0-{}", cpu_time::cores() - 1)]).arg(binary());
        Self::node_by(command, tempfile::tempdir().expect("a folder"), extra).await
    }

    async fn node_by(mut command: Command, folder: tempfile::TempDir, extra: &str) -> Self {
        let file = folder.path().join("switchyard.toml");
        fs::write(&file, format!("{}{CONFIG}{extra}", Server::keys())).expect("a file");
        command.args(["serve", "--json", "--config"]).arg(file);
        command.stderr(fs::File::create(folder.path().join("stderr")).expect("a file for what it logs"));
        Self::start(command, Kind::Node, folder, |line| {
            let startup: serde_json::Value = serde_json::from_str(line).expect("JSON");
            startup["url"].as_str().and_then(|url| url.split('/').nth(2)).expect("a URL").to_owned()
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
            auth: format!(r#"{{"apiKey":"{KEY}"}}"#),
            id,
            empty: memory(id),
            _child: child,
            _folder: folder,
            _lines: lines,
        }
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn is_node(&self) -> bool {
        self.kind == Kind::Node
    }

    /// Processor seconds so far.
    pub fn cpu(&self) -> f64 {
        cpu_time::precisely(self.id)
    }

    /// Memory in bytes in addition to that before the first connection, once it is stable.
    pub async fn grown(&self) -> usize {
        sleep(Duration::from_millis(1500)).await;
        memory(self.id).saturating_sub(self.empty)
    }

    /// Connects a member of these rooms, each with or without a filter.
    pub async fn join(&self, rooms: &[String], filter: Option<&str>) -> io::Result<Joined> {
        let began = micros();
        let (mut line, session) = match self.kind {
            Kind::Floor(_) => (Line::open(self, &format!("/in/{}", rooms.join(","))).await?, String::new()),
            Kind::Node => Line::connect(self, None).await?,
        };
        if self.is_node() {
            for some in rooms.chunks(50) {
                let wishes: Vec<_> = some.iter().map(|room| choose_rooms(room, filter)).collect();
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

fn choose_rooms(room: &str, filter: Option<&str>) -> String {
    match filter {
        None => format!(r#""{room}""#),
        Some(filter) => format!(r#"{{"room":"{room}","filter":{filter}}}"#),
    }
}

/// The proportional set size, in which shared memory is divided among its users.
fn memory(id: u32) -> usize {
    let text =
        fs::read_to_string(format!("/proc/{id}/smaps_rollup")).expect("Linux, and a process that runs");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("Pss");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

/// Whether the server has a core of its own. Must be called before this program restricts itself to the other
/// cores.
pub fn apart() -> bool {
    static APART: LazyLock<bool> = LazyLock::new(|| {
        let there = std::process::Command::new("taskset").arg("--version").stdout(Stdio::null()).status();
        cpu_time::cores() > 1 && there.is_ok_and(|status| status.success())
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
