//! A master that is watched by real sentinels, and its failover.

use super::{Redis, says};
use crate::EVENT_TIMEOUT;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// A master and a replica, watched by three sentinels under the name `main`.
pub struct Sentinel {
    /// Initially the master, then the replica.
    pub servers: Vec<Redis>,
    pub sentinels: Vec<Redis>,
}

impl Sentinel {
    pub async fn start() -> Self {
        // Otherwise the master waits five seconds for more replicas before it synchronizes one.
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

    /// The master's port, according to the first sentinel that is up.
    pub async fn master(&self) -> u16 {
        for sentinel in &self.sentinels {
            if let Some(port) = master_says(sentinel).await {
                return port;
            }
        }
        panic!("no sentinel names a master");
    }

    /// The current master, and the other server.
    pub async fn pair(&self) -> (&Redis, &Redis) {
        self.pair_by(0).await
    }

    /// The master's port, according to one sentinel.
    pub async fn pair_by(&self, sentinel: usize) -> (&Redis, &Redis) {
        let master = master_says(&self.sentinels[sentinel]).await.expect("a master");
        let is_master = |server: &&Redis| server.port == master;
        let (mut masters, others): (Vec<_>, Vec<_>) = self.servers.iter().partition(is_master);
        (masters.pop().expect("a master of this test"), others[0])
    }

    /// Kills the server with this port without waiting for a failover.
    pub async fn kill_with(&mut self, port: u16) {
        let server = self.servers.iter_mut().find(|server| server.port == port);
        server.expect("a server of this test").kill().await;
    }

    /// Waits until every sentinel names the other server as the master, and it is one.
    pub async fn replaces(&self, old: u16) {
        let new = self.servers.iter().find(|server| server.port != old).expect("a replica");
        // After a split vote, sentinels wait for twice the failover timeout before they vote again.
        let end = Instant::now() + 4 * EVENT_TIMEOUT;
        for sentinel in &self.sentinels {
            while master_says(sentinel).await != Some(new.port) {
                assert!(Instant::now() < end, "no failover within {:?}", 4 * EVENT_TIMEOUT);
                sleep(Duration::from_millis(20)).await;
            }
        }
        says(new, "a new master", &["INFO", "replication"], &["role:master"]).await;
    }

    /// Kills the master, and waits until the other server is the master and every sentinel names it. If the
    /// killed one is restarted, it considers itself a master until the sentinels make it a replica ten
    /// seconds later.
    pub async fn kill_master(&mut self) {
        let old = self.master().await;
        self.kill_with(old).await;
        self.replaces(old).await;
    }
}

fn sentinel_file(own: u16, folder: &Path, master: &str) -> Vec<String> {
    let file = folder.join("sentinel.conf");
    // A new master is probed for the first time after one second. With a shorter limit, it could be declared
    // down before that.
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
