//! Redis, three nodes with a proxy each, and how steps change them.

use super::{
    http,
    schedule::{NODES, Options},
    step::{Action, Kind},
    transcript::Fault,
};
use crate::{EVERY_ROOM, KEY, Node, Pattern, Proxy, Redis, Rule, Server, plugin};
use futures_util::future::join_all;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{io::AsyncWriteExt, net::TcpStream};

/// The addresses of the nodes that run.
pub type Urls = Arc<Mutex<Vec<Option<String>>>>;

/// The API keys of clients with their principals. The last one belongs to the publishers.
pub const KEYS: [(&str, &str); 5] =
    [(KEY, "acme"), ("sk_ann", "ann"), ("sk_bob", "bob"), ("sk_cy", "cy"), ("sk_pub", "pub")];
/// How long a session can be resumed after its connection has ended.
pub const TTL: Duration = Duration::from_secs(3);
pub const HISTORY: u64 = 100_000;

pub struct World {
    pub redis: Redis,
    pub proxies: Vec<Proxy>,
    pub nodes: Vec<Option<Node>>,
    pub urls: Urls,
    pub admins: Urls,
    pub began: Instant,
    faults: Vec<Fault>,
    rules: Vec<Vec<Rule>>,
    stopped: [bool; NODES],
}

impl World {
    pub async fn start(options: &Options) -> Self {
        let redis = match options.durable {
            true => Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await,
            false => Redis::start().await,
        };
        let mut proxies = vec![];
        for _ in 0..NODES {
            proxies.push(Proxy::start(&redis).await);
        }
        let extra = extra();
        let nodes =
            join_all(proxies.iter().map(async |proxy| Some(Node::start(&proxy.url(), &extra).await))).await;
        let world = Self {
            redis,
            proxies,
            nodes,
            urls: Urls::default(),
            admins: Urls::default(),
            began: Instant::now(),
            faults: vec![],
            rules: (0..NODES).map(|_| vec![]).collect(),
            stopped: [false; NODES],
        };
        world.publish_urls();
        world
    }

    fn publish_urls(&self) {
        let nodes = || self.nodes.iter();
        *self.urls.lock().expect("no panic") =
            nodes().map(|node| node.as_ref().map(|node| node.url.clone())).collect();
        *self.admins.lock().expect("no panic") =
            nodes().map(|node| node.as_ref().map(|node| node.process.admin.clone())).collect();
    }

    /// The disturbances so far.
    pub fn faults(&self) -> Vec<Fault> {
        let now = self.began.elapsed();
        self.faults.iter().map(|fault| Fault { to: fault.to.min(now), ..*fault }).collect()
    }

    fn begin_fault(&mut self, node: usize) {
        let from = self.began.elapsed();
        self.faults.push(Fault { node: Some(node), from, to: Duration::MAX });
    }

    /// Ends everything that disturbs the node.
    fn end_faults(&mut self, node: usize) {
        let now = self.began.elapsed();
        let open = self.faults.iter_mut().filter(|fault| fault.node == Some(node) && fault.to > now);
        open.for_each(|fault| fault.to = now);
    }

    pub async fn kill(&mut self, node: usize) {
        let Some(mut process) = self.nodes[node].take() else { return };
        self.begin_fault(node);
        self.publish_urls();
        process.process.kill().await;
        self.stopped[node] = false;
    }

    pub async fn term(&mut self, node: usize) {
        if self.stopped[node] {
            self.resume(node).await;
        }
        let Some(mut process) = self.nodes[node].take() else { return };
        self.begin_fault(node);
        self.publish_urls();
        process.process.signal("TERM").await;
        // Not awaited, because that would delay all other steps.
        tokio::spawn(async move {
            process.process.ended_within(Duration::from_secs(30)).await;
        });
    }

    pub async fn launch(&mut self, node: usize) {
        if self.nodes[node].is_some() {
            return;
        }
        self.restore(node);
        self.release(node);
        self.nodes[node] = Some(Node::start(&self.proxies[node].url(), &extra()).await);
        self.publish_urls();
        self.end_faults(node);
    }

    pub async fn stop(&mut self, node: usize) {
        let Some(process) = &self.nodes[node] else { return };
        process.process.signal("STOP").await;
        self.stopped[node] = true;
        self.begin_fault(node);
    }

    pub async fn resume(&mut self, node: usize) {
        let Some(process) = self.nodes[node].as_ref().filter(|_| self.stopped[node]) else { return };
        process.process.signal("CONT").await;
        self.stopped[node] = false;
        self.end_faults(node);
    }

    pub fn cut(&mut self, node: usize) {
        let now = self.began.elapsed();
        self.faults.push(Fault { node: Some(node), from: now, to: now });
        self.proxies[node].cut();
    }

    pub fn refuse(&mut self, node: usize) {
        self.begin_fault(node);
        self.proxies[node].refuse();
    }

    pub fn swallow(&mut self, node: usize) {
        self.begin_fault(node);
        self.proxies[node].swallow();
    }

    pub fn restore(&mut self, node: usize) {
        self.proxies[node].accept();
        self.proxies[node].pass();
        if self.nodes[node].is_some() && !self.stopped[node] && self.rules[node].is_empty() {
            self.end_faults(node);
        }
    }

    pub fn rule(&mut self, node: usize, kind: Kind, action: Action, times: u64) {
        self.begin_fault(node);
        let proxy = &self.proxies[node];
        let pattern = match kind {
            Kind::Session => Pattern::command("EVALSHA").containing(":session:"),
            Kind::Members => Pattern::any().containing("}:members"),
            Kind::Acks => Pattern::any().containing("}:acks"),
            Kind::Subscriptions => Pattern::command("SSUBSCRIBE"),
            Kind::Ticks => Pattern::any().containing("{/nodes}:leases"),
            Kind::Notices => Pattern::command("RPUSH"),
        }
        .times(times);
        self.rules[node].push(match action {
            Action::Hold => proxy.hold(pattern),
            Action::Delay => proxy.delay(pattern),
            Action::HoldAnswer => proxy.hold_answer(pattern),
            Action::LoseAnswer => proxy.lose_answer(pattern),
            Action::Drop => proxy.drop_request(pattern),
            Action::Fail => proxy.fail(pattern),
        });
    }

    pub fn release(&mut self, node: usize) {
        self.rules[node].clear();
        self.restore_faults(node);
    }

    fn restore_faults(&mut self, node: usize) {
        if self.nodes[node].is_some() && !self.stopped[node] {
            self.end_faults(node);
        }
    }

    pub async fn pause(&mut self, millis: u64) {
        let now = self.began.elapsed();
        self.faults.push(Fault { node: None, from: now, to: now + Duration::from_millis(millis) });
        self.redis.try_command(&["CLIENT", "PAUSE", &millis.to_string(), "ALL"]).await.ok();
    }

    pub async fn restart(&mut self) {
        let now = self.began.elapsed();
        self.redis.restart().await;
        self.faults.push(Fault { node: None, from: now, to: self.began.elapsed() });
    }

    /// Ends all disturbances, and starts all nodes.
    pub async fn heal(&mut self) {
        for node in 0..NODES {
            self.restore(node);
            self.release(node);
            self.resume(node).await;
            self.launch(node).await;
            self.end_faults(node);
        }
    }

    /// Requests upgrades with a key, and disconnects at once.
    pub async fn abandon(&self, node: usize, key: &str) {
        let Some(url) = self.urls.lock().expect("no panic")[node].clone() else { return };
        let Some((address, path)) = url.trim_start_matches("ws://").split_once('/') else { return };
        let request = format!(
            "GET /{path} HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {key}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        for _ in 0..3 {
            let Ok(mut tcp) = TcpStream::connect(address).await else { return };
            tcp.write_all(request.as_bytes()).await.ok();
            tcp.shutdown().await.ok();
        }
    }

    /// Calls the admin listener. The node may not answer.
    pub async fn end_connection(&self, node: usize, name: String) {
        let Some(url) = self.admins.lock().expect("no panic")[node].clone() else { return };
        tokio::spawn(
            async move { http::call(&url, "DELETE", &format!("/v1/connections/{name}"), KEY, "").await },
        );
    }
}

fn extra() -> String {
    let all = r#"["subscribe", "publish", "broadcast"]"#;
    let keys: String =
        KEYS[1..].iter().map(|(key, principal)| Server::key(key, principal, all, EVERY_ROOM)).collect();
    let plugin = plugin("threshold_filter", r#"["tvl-0", "tvl-1", "tvl-2"]"#, "{}");
    format!(
        "[session]\nttl = \"{}s\"\n[rooms]\nhistory = {{ messages = {HISTORY}, age = \"10m\" }}\n{keys}{plugin}",
        TTL.as_secs()
    )
}
