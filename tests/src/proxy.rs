//! A proxy in front of a Redis, for the one node that is given its URL. A test controls it: it cuts, refuses
//! and stalls connections, and delays, loses or fails selected commands. Nothing in it depends on time,
//! unless a test limits its bandwidth.

mod connection;
mod resp;
mod rule;
#[cfg(test)]
mod tests;

pub use rule::{Pattern, Rule};

use crate::Redis;
use resp::Command;
use rule::{Action, Rules};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// The folder with the host's scripts, so that a rule can name one.
const SCRIPTS_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../host/store/src/redis/lua");

pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// What all connections share.
struct Shared {
    /// The port of Redis.
    redis: AtomicU16,
    rules: Rules,
    /// The number of commands that were passed to Redis, by name.
    passed: Mutex<BTreeMap<String, u64>>,
    /// Names of scripts, by their digest and by their code.
    scripts: HashMap<Vec<u8>, String>,
    flowing: watch::Sender<bool>,
    /// Bytes per second for each connection and direction; 0 for no limit.
    rate: AtomicU64,
    refusing: watch::Sender<bool>,
    /// Cancelled and replaced to end all open connections.
    open: Mutex<CancellationToken>,
    /// Cancelled and replaced to silence all open connections.
    audible: Mutex<CancellationToken>,
}

impl Proxy {
    /// Starts a proxy on a free port, in front of a running Redis. Redis may be killed and restarted behind it.
    pub async fn start(redis: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::new(Shared {
            redis: AtomicU16::new(redis.port()),
            rules: Rules::default(),
            passed: Mutex::default(),
            scripts: scripts(redis).await,
            flowing: watch::Sender::new(true),
            rate: AtomicU64::new(0),
            refusing: watch::Sender::new(false),
            open: Mutex::default(),
            audible: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Self { port, shared, task }
    }

    /// The URL for the configuration of a node.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Leads new connections to another port, as when a host name gets another address.
    pub fn lead_to(&self, redis: &Redis) {
        self.shared.redis.store(redis.port(), Ordering::Relaxed);
    }

    /// Closes every connection and drops what is held on it. New connections work.
    pub fn cut(&self) {
        let mut open = self.shared.open.lock().expect("no panic");
        std::mem::take(&mut *open).cancel();
    }

    /// Closes every connection, and each new one at once, until [`Proxy::accept`].
    pub fn refuse(&self) {
        self.shared.refusing.send_replace(true);
        self.cut();
    }

    /// Accepts new connections again.
    pub fn accept(&self) {
        self.shared.refusing.send_replace(false);
    }

    /// Passes nothing in either direction until [`Proxy::pass`], while connections stay open and new ones are
    /// accepted. What was sent meanwhile passes then, unless [`Proxy::cut`] drops it before.
    pub fn swallow(&self) {
        self.shared.flowing.send_replace(false);
    }

    /// Passes nothing on open connections any more, in either direction. They stay open, and new connections
    /// work.
    pub fn silence(&self) {
        let mut audible = self.shared.audible.lock().expect("no panic");
        std::mem::take(&mut *audible).cancel();
    }

    /// Limits each connection to this many bytes per second in each direction.
    pub fn slow(&self, rate: u64) {
        self.shared.rate.store(rate, Ordering::Relaxed);
    }

    /// Ends [`Proxy::swallow`].
    pub fn pass(&self) {
        self.shared.flowing.send_replace(true);
    }

    /// Holds requests: each waits, with everything after it on its connection. It is executed when the rule
    /// is released, even if its sender has disconnected.
    pub fn hold(&self, pattern: Pattern) -> Rule {
        self.shared.rules.add(pattern, Action::Hold)
    }

    /// Delays requests: each is executed when the rule is released, but everything after it at once. Because
    /// answers come in the order of requests, the later answers wait for this one.
    pub fn delay(&self, pattern: Pattern) -> Rule {
        self.shared.rules.add(pattern, Action::Delay)
    }

    /// Executes requests, but holds each answer and those after it until the rule is released.
    pub fn hold_answer(&self, pattern: Pattern) -> Rule {
        self.shared.rules.add(pattern, Action::HoldAnswer)
    }

    /// Executes requests, but closes the connection instead of answering.
    pub fn lose_answer(&self, pattern: Pattern) -> Rule {
        self.shared.rules.add(pattern, Action::LoseAnswer)
    }

    /// Closes the connection instead of executing the request.
    pub fn drop_request(&self, pattern: Pattern) -> Rule {
        self.shared.rules.add(pattern, Action::Drop)
    }

    /// Answers with an error instead of executing the request.
    pub fn fail(&self, pattern: Pattern) -> Rule {
        self.shared.rules.add(pattern, Action::Fail)
    }

    /// The number of commands that were passed to Redis so far, by name. The host's scripts count as `script
    /// NAME`.
    pub fn passed(&self) -> BTreeMap<String, u64> {
        self.shared.passed.lock().expect("no panic").clone()
    }

    /// The total number of commands that were passed to Redis.
    pub fn total(&self) -> u64 {
        self.shared.passed.lock().expect("no panic").values().sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

impl Shared {
    /// Waits as long as this many bytes take.
    async fn carry(&self, bytes: usize) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate > 0 {
            tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / rate as f64)).await;
        }
    }

    fn count(&self, command: &Command) {
        let name = match self.script(command) {
            Some(script) => format!("script {script}"),
            None => command.name.clone(),
        };
        *self.passed.lock().expect("no panic").entry(name).or_default() += 1;
    }

    /// The name of the host's script that a command runs.
    fn script(&self, command: &Command) -> Option<&str> {
        self.scripts.get(command.script()?).map(String::as_str)
    }

    /// What happens to a command, and the rule that decides it.
    fn decide(&self, command: &Command) -> Option<(Action, CancellationToken)> {
        self.rules.decide(command, self.script(command))
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let open = shared.open.lock().expect("no panic").clone();
        if *shared.refusing.borrow() {
            continue;
        }
        let shared = shared.clone();
        tokio::spawn(async move {
            let serve = async {
                let port = shared.redis.load(Ordering::Relaxed);
                if let Ok(upstream) = TcpStream::connect(("127.0.0.1", port)).await {
                    connection::serve(client, upstream, &shared).await;
                }
            };
            // Everything that belongs to the connection ends with this future.
            open.run_until_cancelled(serve).await;
        });
    }
}

/// Loads the host's scripts into Redis and returns their digests, so that the host never has to send their
/// code.
async fn scripts(redis: &Redis) -> HashMap<Vec<u8>, String> {
    let read = |file: &Path| fs::read_to_string(file).unwrap_or_default();
    let prelude = read(&Path::new(SCRIPTS_FOLDER).join("prelude.lua"));
    let mut names = HashMap::new();
    for entry in fs::read_dir(SCRIPTS_FOLDER).into_iter().flatten().flatten() {
        let name = entry.path().file_stem().expect("a file").to_string_lossy().into_owned();
        let code = prelude.clone() + &read(&entry.path());
        if let Ok(digest) = redis.try_command(&["SCRIPT", "LOAD", &code]).await {
            names.insert(digest.into_bytes(), name.clone());
            names.insert(code.into_bytes(), name);
        }
    }
    names
}
