//! Real `redis-server` processes for one test: a single server, a cluster, and a master with sentinels.

mod clock;
mod cluster;
mod sentinel;

pub use cluster::Cluster;
pub use sentinel::Sentinel;

use crate::{EVENT_TIMEOUT, eventually, hold_port};
use std::{
    fs::{self, File},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    process::{Child, Command},
    time::{sleep, timeout},
};

/// A process with its own port and folder. Dropping it ends the process and removes the folder.
pub struct Redis {
    // Dropped before the folder, so that the process does not write while the folder is removed.
    child: Child,
    port: u16,
    arguments: Vec<String>,
    folder: TempDir,
    ports: Vec<TcpSocket>,
}

impl Redis {
    /// Starts a server that keeps nothing on disk.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server that keeps its data when it is killed. Only what [`Redis::written`] waited for is
    /// certain to be kept.
    pub async fn durable() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "everysec"]).await
    }

    /// Starts a server with more arguments. It keeps nothing on disk, unless these arguments say otherwise.
    pub async fn start_with(more: &[&str]) -> Self {
        Self::launch(|port, folder| arguments(port, folder, more)).await
    }

    /// Starts a server that keeps nothing on disk, and whose clock can be set.
    pub async fn with_clock() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        clock::set(folder.path(), 0);
        Self::launch_in(folder, |port, folder| arguments(port, folder, &[])).await
    }

    /// Sets its wall clock wrong by this many seconds. Its monotonic clock stays right.
    pub fn set_clock(&self, seconds: i64) {
        clock::set(self.folder.path(), seconds);
    }

    async fn launch(arguments: impl FnOnce(u16, &Path) -> Vec<String>) -> Self {
        Self::launch_in(tempfile::tempdir().expect("a temporary folder"), arguments).await
    }

    async fn launch_in(folder: TempDir, arguments: impl FnOnce(u16, &Path) -> Vec<String>) -> Self {
        let (held, address) = hold_port();
        let port = address.port();
        let arguments = arguments(port, folder.path());
        let child = spawn(&arguments, folder.path());
        let mut redis = Self { child, port, arguments, folder, ports: vec![held] };
        redis.ready().await;
        redis
    }

    /// Waits until it answers, which is once it has loaded its data.
    async fn ready(&mut self) {
        let end = Instant::now() + EVENT_TIMEOUT;
        while self.try_command(&["PING"]).await.as_deref() != Ok("PONG") {
            let ended = self.child.try_wait().expect("the state of redis-server");
            if ended.is_some() || Instant::now() > end {
                let log = fs::read_to_string(self.folder.path().join(LOG_FILE)).unwrap_or_default();
                panic!("redis-server {:?} did not start ({ended:?}):\n{log}", self.arguments);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address())
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The id of the process. Panics while it is killed.
    pub fn id(&self) -> u32 {
        self.child.id().expect("redis-server runs")
    }

    /// Sends a command over a new connection. Each part of the reply is one line.
    pub async fn command(&self, words: &[&str]) -> String {
        self.try_command(words)
            .await
            .unwrap_or_else(|error| panic!("{words:?} at port {}: {error}", self.port))
    }

    /// Like [`Redis::command`], but returns errors, from Redis or from the connection.
    pub async fn try_command(&self, words: &[&str]) -> Result<String, String> {
        timeout(EVENT_TIMEOUT, ask(self.port, words))
            .await
            .map_err(|_| format!("no reply within {EVENT_TIMEOUT:?}"))?
    }

    /// Waits until everything is on disk. While its disk is slow, Redis delays writing what it has
    /// acknowledged.
    pub async fn written(&self) {
        let signs = ["\r\naof_enabled:1\r\n", "\r\naof_buffer_length:0\r\n"];
        says(self, "all written to its file", &["INFO", "persistence"], &signs).await;
    }

    /// Kills the process. Its port stays reserved and refuses connections.
    pub async fn kill(&mut self) {
        if self.child.id().is_some() {
            self.child.kill().await.expect("redis-server killed");
        }
    }

    /// Restarts it with the same port, folder and arguments, and kills it before if it runs.
    pub async fn restart(&mut self) {
        self.begin_restart().await;
        self.ready().await;
    }

    /// Restarts it without waiting until it has loaded its data.
    pub async fn begin_restart(&mut self) {
        self.kill().await;
        self.child = spawn(&self.arguments, self.folder.path());
    }

    /// Stops the process with SIGSTOP, so that it does not answer while its connections stay open.
    pub async fn pause(&self) {
        self.signal("STOP").await;
    }

    pub async fn resume(&self) {
        self.signal("CONT").await;
    }

    async fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.id().to_string()]).status().await;
        assert!(sent.expect("kill is there").success());
    }
}

fn arguments(port: u16, folder: &Path, more: &[&str]) -> Vec<String> {
    let (port, folder) = (port.to_string(), folder.to_str().expect("a folder in UTF-8"));
    let first = ["--bind", "127.0.0.1", "--port", &port, "--dir", folder];
    let all = [&first[..], &["--save", "", "--appendonly", "no"], more].concat();
    all.into_iter().map(String::from).collect()
}

const LOG_FILE: &str = "output.log";

fn spawn(arguments: &[String], folder: &Path) -> Child {
    let log = File::options().create(true).append(true).open(folder.join(LOG_FILE)).expect("a log");
    Command::new("redis-server")
        .args(arguments)
        .envs(clock::environment(folder))
        .stdin(Stdio::null())
        .stderr(log.try_clone().expect("the log twice"))
        .stdout(log)
        .kill_on_drop(true)
        .spawn()
        .expect("redis-server is installed")
}

async fn ask(port: u16, words: &[&str]) -> Result<String, String> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
    let mut stream = BufReader::new(stream);
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    reply(&mut stream).await.map_err(|error| error.to_string())?
}

async fn reply(stream: &mut BufReader<TcpStream>) -> std::io::Result<Result<String, String>> {
    let (mut parts, mut left) = (Vec::new(), 1);
    while left > 0 {
        left -= 1;
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((kind, rest)) = line.strip_suffix("\r\n").and_then(|line| line.split_at_checked(1)) else {
            return Ok(Err(format!("the connection ended after {line:?}")));
        };
        let size = rest.parse::<usize>().ok();
        match (kind, size) {
            ("-", _) => return Ok(Err(rest.to_owned())),
            ("+" | ":", _) => parts.push(rest.to_owned()),
            ("*", Some(size)) => left += size,
            ("$", Some(size)) => {
                let mut text = vec![0; size + 2];
                stream.read_exact(&mut text).await?;
                parts.push(String::from_utf8_lossy(&text[..size]).into_owned());
            }
            ("*" | "$", None) => parts.push(String::new()),
            _ => return Ok(Err(format!("not a reply: {line:?}"))),
        }
    }
    Ok(Ok(parts.join("\n")))
}

/// Waits until the reply to a command contains all these texts.
async fn says(redis: &Redis, what: &str, words: &[&str], signs: &[&str]) {
    eventually(what, || async {
        let reply = redis.try_command(words).await.ok()?;
        signs.iter().all(|sign| reply.contains(sign)).then_some(())
    })
    .await;
}
