//! A proxy in front of a Redis, for the one node that is given its URL. A test drives it: it cuts, refuses and stalls
//! connections, and delays, loses or fails chosen commands. Nothing in it depends on time, unless it is made slow.

mod connection;
mod resp;
mod rule;
#[cfg(test)]
mod tests;

pub use rule::{Pattern, Rule};

use crate::Redis;
use resp::Command;
use rule::{Fate, Rules};
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

/// Where the host keeps its scripts, so that a rule can name one.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../host/store/src/redis/lua");

pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// What the connections share.
struct Shared {
    /// Its port.
    redis: AtomicU16,
    rules: Rules,
    /// Commands that were handed to Redis, by name.
    passed: Mutex<BTreeMap<String, u64>>,
    /// Names of scripts, by their digest and by their code.
    scripts: HashMap<Vec<u8>, String>,
    flowing: watch::Sender<bool>,
    /// Bytes a second of each connection and direction; 0 for as many as there are.
    rate: AtomicU64,
    refusing: watch::Sender<bool>,
    /// Cancelled and replaced to end all connections that are open.
    open: Mutex<CancellationToken>,
    /// Cancelled and replaced to let all connections that are open fall silent.
    audible: Mutex<CancellationToken>,
}

impl Proxy {
    /// On a free port, in front of a Redis that runs. Redis may be killed and started again behind it.
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

    /// For the configuration of a node.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// New connections lead there, as when a name is given another address.
    pub fn lead_to(&self, redis: &Redis) {
        self.shared.redis.store(redis.port(), Ordering::Relaxed);
    }

    /// Closes every connection, with whatever is held on it; new ones work.
    pub fn cut(&self) {
        let mut open = self.shared.open.lock().expect("no panic");
        std::mem::take(&mut *open).cancel();
    }

    /// Closes every connection, and each new one as soon as it comes, until [`Proxy::accept`].
    pub fn refuse(&self) {
        self.shared.refusing.send_replace(true);
        self.cut();
    }

    /// Lets new connections in again.
    pub fn accept(&self) {
        self.shared.refusing.send_replace(false);
    }

    /// Connections stay, and new ones are accepted, but nothing passes either way until [`Proxy::pass`]. What was sent
    /// meanwhile passes then, unless [`Proxy::cut`] drops it before.
    pub fn swallow(&self) {
        self.shared.flowing.send_replace(false);
    }

    /// Connections that are open stay, and nothing passes either way over them any more; new ones work.
    pub fn silence(&self) {
        let mut audible = self.shared.audible.lock().expect("no panic");
        std::mem::take(&mut *audible).cancel();
    }

    /// From now on so many bytes a second pass over each connection, each way.
    pub fn slow(&self, rate: u64) {
        self.shared.rate.store(rate, Ordering::Relaxed);
    }

    /// Ends [`Proxy::swallow`].
    pub fn pass(&self) {
        self.shared.flowing.send_replace(true);
    }

    /// Holds requests: each waits with everything behind it on its connection, and is carried out when it is released, even
    /// if whoever sent it has gone meanwhile.
    pub fn hold(&self, pattern: Pattern) -> Rule {
        self.shared.rules.add(pattern, Fate::Hold)
    }

    /// Makes requests late: each is carried out when it is released, and everything behind it at once. As answers come in
    /// the order of requests, those behind it wait for its own.
    pub fn detain(&self, pattern: Pattern) -> Rule {
        self.shared.rules.add(pattern, Fate::Detain)
    }

    /// Carries requests out, but keeps each answer and those behind it until they are released.
    pub fn hold_answer(&self, pattern: Pattern) -> Rule {
        self.shared.rules.add(pattern, Fate::HoldAnswer)
    }

    /// Carries requests out, but closes the connection instead of giving the answer.
    pub fn lose_answer(&self, pattern: Pattern) -> Rule {
        self.shared.rules.add(pattern, Fate::LoseAnswer)
    }

    /// Closes the connection instead of carrying the request out.
    pub fn drop_request(&self, pattern: Pattern) -> Rule {
        self.shared.rules.add(pattern, Fate::Drop)
    }

    /// Answers with an error instead of carrying the request out.
    pub fn fail(&self, pattern: Pattern) -> Rule {
        self.shared.rules.add(pattern, Fate::Fail)
    }

    /// Commands that were handed to Redis so far, by name. A script counts as `script NAME` where it is one of the host's.
    pub fn passed(&self) -> BTreeMap<String, u64> {
        self.shared.passed.lock().expect("no panic").clone()
    }

    /// How many they are.
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
    /// Waits for as long as so many bytes are on their way.
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

    /// What a command runs, if it is a script of the host.
    fn script(&self, command: &Command) -> Option<&str> {
        self.scripts.get(command.script()?).map(String::as_str)
    }

    /// What is to happen to a command, and the rule that says so.
    fn judge(&self, command: &Command) -> Option<(Fate, CancellationToken)> {
        self.rules.judge(command, self.script(command))
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
            // Everything that belongs to a connection ends with this future.
            open.run_until_cancelled(serve).await;
        });
    }
}

/// Has Redis load the host's scripts and say their digests, so that the host never has to send their code.
async fn scripts(redis: &Redis) -> HashMap<Vec<u8>, String> {
    let read = |file: &Path| fs::read_to_string(file).unwrap_or_default();
    let prelude = read(&Path::new(SCRIPTS).join("prelude.lua"));
    let mut names = HashMap::new();
    for entry in fs::read_dir(SCRIPTS).into_iter().flatten().flatten() {
        let name = entry.path().file_stem().expect("a file").to_string_lossy().into_owned();
        let code = prelude.clone() + &read(&entry.path());
        if let Ok(digest) = redis.try_command(&["SCRIPT", "LOAD", &code]).await {
            names.insert(digest.into_bytes(), name.clone());
            names.insert(code.into_bytes(), name);
        }
    }
    names
}
