//! A master that real sentinels watch, and its failover.

use super::{Redis, says};
use crate::PATIENCE;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// A master and a replica, watched by three sentinels under the name `main`.
pub struct Sentinel {
    /// At first the master, then the replica.
    pub servers: Vec<Redis>,
    pub sentinels: Vec<Redis>,
}

impl Sentinel {
    pub async fn start() -> Self {
        // Else a replica waits five seconds for more of its kind before it is filled.
        let at_once = ["--repl-diskless-sync-delay", "0"];
        let master = Redis::start_with(&at_once).await;
        let port = master.port.to_string();
        let replica = Redis::start_with(&[&at_once[..], &["--replicaof", "127.0.0.1", &port]].concat()).await;
        says(&replica, "a replica in sync", &["INFO", "replication"], &["master_link_status:up"]).await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Redis::launch(|own, folder| sentinel_file(own, folder, &port)).await);
        }
        for sentinel in &sentinels {
            let quorum = ["SENTINEL", "CKQUORUM", "main"];
            says(sentinel, "three sentinels that know each other", &quorum, &["OK 3 usable"]).await;
            let replicas = ["SENTINEL", "REPLICAS", "main"];
            let signs = ["flags\nslave\n", "master-link-status\nok\n"];
            says(sentinel, "a replica that its sentinels know", &replicas, &signs).await;
        }
        Self { servers: vec![master, replica], sentinels }
    }

    pub fn url(&self) -> String {
        let [first, second, third] = [0, 1, 2].map(|index| self.sentinels[index].address());
        format!("redis-sentinel://{first}/0?sentinelServiceName=main&node={second}&node={third}")
    }

    /// The master's port, as told by the first sentinel that is up.
    pub async fn master(&self) -> u16 {
        for sentinel in &self.sentinels {
            if let Some(port) = master_says(sentinel).await {
                return port;
            }
        }
        panic!("no sentinel names a master");
    }

    /// The server that is the master now, and the other one.
    pub async fn pair(&self) -> (&Redis, &Redis) {
        self.pair_by(0).await
    }

    /// The same, as that sentinel says.
    pub async fn pair_by(&self, sentinel: usize) -> (&Redis, &Redis) {
        let master = master_says(&self.sentinels[sentinel]).await.expect("a master");
        let is_master = |server: &&Redis| server.port == master;
        let (mut masters, others): (Vec<_>, Vec<_>) = self.servers.iter().partition(is_master);
        (masters.pop().expect("a master of this test"), others[0])
    }

    /// Kills the server with that port, and waits for nothing.
    pub async fn kill_with(&mut self, port: u16) {
        let server = self.servers.iter_mut().find(|server| server.port == port);
        server.expect("a server of this test").kill().await;
    }

    /// Waits until every sentinel names another master than that, and it is one.
    pub async fn replaces(&self, old: u16) {
        let new = self.servers.iter().find(|server| server.port != old).expect("a replica");
        // Sentinels that split their votes wait for twice the failover's timeout before they vote again.
        let end = Instant::now() + 4 * PATIENCE;
        for sentinel in &self.sentinels {
            while master_says(sentinel).await != Some(new.port) {
                assert!(Instant::now() < end, "no failover within {:?}", 4 * PATIENCE);
                sleep(Duration::from_millis(20)).await;
            }
        }
        says(new, "a new master", &["INFO", "replication"], &["role:master"]).await;
    }

    /// Kills the master and waits for the other server to be one, and to be named by every sentinel.
    /// The killed one, restarted, takes itself for a master until they make it a replica ten seconds later.
    pub async fn kill_master(&mut self) {
        let old = self.master().await;
        self.kill_with(old).await;
        self.replaces(old).await;
    }
}

fn sentinel_file(own: u16, folder: &Path, master: &str) -> Vec<String> {
    let file = folder.join("sentinel.conf");
    // A new master is first asked after one second, and with no more than that may be called down unasked.
    let text = format!(
        "bind 127.0.0.1\nport {own}\ndir {}\n\
         sentinel monitor main 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds main 2000\n\
         sentinel failover-timeout main 5000\n",
        folder.display()
    );
    fs::write(&file, text).expect("the sentinel's file");
    vec![file.to_str().expect("a folder in UTF-8").to_owned(), "--sentinel".to_owned()]
}

async fn master_says(sentinel: &Redis) -> Option<u16> {
    let reply = sentinel.try_command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]).await.ok()?;
    reply.lines().nth(1)?.parse().ok()
}
