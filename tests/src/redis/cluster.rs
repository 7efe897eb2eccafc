//! A cluster of real processes, and moving a slot while clients use it.

use super::{Redis, says};
use crate::{eventually, hold_port};

/// Three masters with a third of the slots each, without replicas. A restarted node keeps its keys.
pub struct Cluster {
    pub nodes: Vec<Redis>,
}

impl Cluster {
    pub async fn start() -> Self {
        let (mut nodes, mut buses) = (Vec::<Redis>::new(), Vec::new());
        for (slots, epoch) in
            [("0", "5460"), ("5461", "10922"), ("10923", "16383")].into_iter().zip(["1", "2", "3"])
        {
            let (held, bus) = hold_port();
            let bus = bus.port().to_string();
            let cluster =
                ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &bus];
            let known = ["--cluster-announce-ip", "127.0.0.1", "--appendonly", "yes"];
            let mut node = Redis::start_with(&[&cluster[..], &known].concat()).await;
            node.ports.push(held);
            node.command(&["CLUSTER", "ADDSLOTSRANGE", slots.0, slots.1]).await;
            // Otherwise all three begin with the same epoch, and have to resolve that among themselves.
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", epoch]).await;
            nodes.push(node);
            buses.push(bus);
        }
        for (node, bus) in nodes.iter().zip(&buses).skip(1) {
            nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), bus]).await;
        }
        for node in &nodes {
            let signs = ["cluster_state:ok", "cluster_known_nodes:3", "cluster_size:3"];
            says(node, "a whole cluster", &["CLUSTER", "INFO"], &signs).await;
        }
        Self { nodes }
    }

    pub fn url(&self) -> String {
        let [first, second, third] = [0, 1, 2].map(|index| self.nodes[index].address());
        format!("redis-cluster://{first}?node={second}&node={third}")
    }

    pub async fn slot(&self, key: &str) -> u16 {
        self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]).await.parse().expect("a slot")
    }

    /// The node that owns the slot, according to the first node that is up.
    pub async fn owner(&self, slot: u16) -> usize {
        for node in &self.nodes {
            if let Some(owner) = self.owner_says(node, slot).await {
                return owner;
            }
        }
        panic!("no node says who has slot {slot}");
    }

    async fn owner_says(&self, node: &Redis, slot: u16) -> Option<usize> {
        let text = node.try_command(&["CLUSTER", "NODES"]).await.ok()?;
        let has = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            // A node's own line also lists migrations in progress, in brackets, which are not numbers.
            let (Ok(first), Ok(last)) = (first.parse(), last.parse()) else { return false };
            (first..=last).contains(&slot)
        };
        let line = text.lines().find(|line| line.split(' ').skip(8).any(has))?;
        let address = line.split(' ').nth(1)?.split('@').next()?;
        self.nodes.iter().position(|node| node.address() == address)
    }

    /// Moves a slot and its keys while clients use them, as `redis-cli --cluster reshard` does.
    pub async fn move_slot(&self, slot: u16, to: usize) {
        let from = self.owner(slot).await;
        if from == to {
            return;
        }
        self.move_keys(slot, from, to).await;
        let (name, id) = (slot.to_string(), self.nodes[to].command(&["CLUSTER", "MYID"]).await);
        // The target first, so that the slot always has an owner.
        for node in [to, from, 3 - from - to] {
            self.nodes[node].command(&["CLUSTER", "SETSLOT", &name, "NODE", &id]).await;
        }
        for node in &self.nodes {
            eventually("the slot's new owner known", || async {
                self.owner_says(node, slot).await.filter(|owner| *owner == to)
            })
            .await;
        }
    }

    /// Moves a slot's keys, but informs only the previous owner, as when resharding is aborted.
    pub async fn move_slot_by_half(&self, slot: u16, to: usize) {
        let from = self.owner(slot).await;
        self.move_keys(slot, from, to).await;
        let id = self.nodes[to].command(&["CLUSTER", "MYID"]).await;
        self.nodes[from].command(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id]).await;
    }

    async fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let (source, target, name) = (&self.nodes[from], &self.nodes[to], slot.to_string());
        let source_id = source.command(&["CLUSTER", "MYID"]).await;
        let target_id = target.command(&["CLUSTER", "MYID"]).await;
        target.command(&["CLUSTER", "SETSLOT", &name, "IMPORTING", &source_id]).await;
        source.command(&["CLUSTER", "SETSLOT", &name, "MIGRATING", &target_id]).await;
        let port = target.port.to_string();
        loop {
            let keys = source.command(&["CLUSTER", "GETKEYSINSLOT", &name, "100"]).await;
            if keys.is_empty() {
                return;
            }
            let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            source.command(&migrate.into_iter().chain(keys.lines()).collect::<Vec<_>>()).await;
        }
    }
}
