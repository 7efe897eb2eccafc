//! This node's lease: renewed each second, and with it comes what other nodes left undone. A node whose lease has run out is
//! dead to the others; if it lives all the same, it takes back what is its own under another name.

use super::{Event, Redis, Shared, Unavailable, answer, reaper, scripts};
use crate::{protocol::unix_ms, store::ConnectionId};
use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

/// A node that was not heard of for so long is dead.
pub const LEASE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_secs(1);
/// What was begun on what a node left is done by another if it is not done by then.
const CLAIM: Duration = Duration::from_secs(30);
/// Sessions whose time is over, at a time.
const DUE: u64 = 500;
/// How often a node sees to the list of rooms, if no other has.
const PRUNE: Duration = Duration::from_secs(3600);
/// How often everything is written again, so that nothing in use ends with its time to live.
const REWRITE: Duration = Duration::from_secs(6 * 3600);

pub fn new_node() -> String {
    format!("{:012x}", u64::from_le_bytes(crate::store::random()) >> 16)
}

/// Takes a lease and holds it as long as the store is there.
pub async fn hold(store: &Arc<Redis>) -> Result<(), Unavailable> {
    let now = Instant::now();
    let mut lease = Lease { renewed: now, rewritten: now, pruned: now, away: false, names: Vec::new() };
    lease.renew(&store.shared, true).await?;
    let store = Arc::downgrade(store);
    tokio::spawn(async move { lease.run(store).await });
    Ok(())
}

/// Other nodes need not wait until it runs out. What was not let go in time is theirs to clear away.
pub async fn give_up(shared: &Shared) {
    let (link, names, node) = (&shared.link, &shared.names, shared.node.load_full());
    let given = async {
        let left = link.command("SCARD", vec![names.estate(&node).into()]).await?;
        if answer::number(&left)? > 0 {
            link.command("ZADD", vec![names.dead().into(), "0".into(), node.as_str().into()]).await?;
        }
        link.command("ZREM", vec![names.leases().into(), node.as_str().into()]).await
    };
    if let Err(error) = given.await {
        tracing::debug!(%error, "the lease runs out by itself");
    }
}

struct Lease {
    renewed: Instant,
    rewritten: Instant,
    pruned: Instant,
    /// The last attempt failed, and that was said.
    away: bool,
    /// Names of this node that ran out.
    names: Vec<Arc<String>>,
}

impl Lease {
    async fn run(&mut self, store: Weak<Redis>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(store) = store.upgrade() else { return };
            let shared = &store.shared;
            match self.renew(shared, false).await {
                Ok(()) if self.away => {
                    tracing::info!(node = %shared.node.load(), "the store is back");
                    self.away = false;
                }
                Ok(()) => {}
                Err(error) => {
                    if !self.away {
                        tracing::warn!(%error, "connections stay, publishing is refused until it is back");
                    }
                    self.away = true;
                    if self.renewed.elapsed() > LEASE {
                        shared.metrics.lease.set(0);
                    }
                    continue;
                }
            }
            if let Err(error) = self.answer_calls(shared).await {
                tracing::debug!(%error, "calls are answered later");
            }
            if self.pruned.elapsed() > PRUNE {
                self.pruned = Instant::now();
                reaper::prune(shared, PRUNE);
            }
            if self.rewritten.elapsed() > REWRITE {
                self.rewrite(shared);
            }
            store.writer.wake();
        }
    }

    async fn renew(&mut self, shared: &Arc<Shared>, first: bool) -> Result<(), Unavailable> {
        let (names, node) = (&shared.names, shared.node.load_full());
        let keys = vec![names.leases(), names.dead(), names.ends(), names.clock()];
        let arguments =
            vec![node.as_str().into(), answer::millis(LEASE), answer::millis(CLAIM), answer::integer(DUE)];
        let asked = unix_ms();
        let mut parts = answer::list(shared.link.run(&scripts::TICK, keys, arguments).await?)?.into_iter();
        let mut next = || parts.next().unwrap_or(fred::types::Value::Null);
        let here = (asked + unix_ms()) / 2;
        shared.clock.store(answer::number(&next())? as i64 - here as i64, Ordering::Relaxed);
        let (held, nodes) = (answer::number(&next())? == 1, answer::number(&next())?);
        let dead: Vec<_> = answer::list(next())?.into_iter().map(answer::text).collect::<Result<_, _>>()?;
        let due: Vec<_> = answer::list(next())?.into_iter().map(answer::text).collect::<Result<_, _>>()?;
        (self.renewed, _) = (Instant::now(), shared.metrics.nodes.set(nodes as i64));
        shared.metrics.lease.set(1);
        if !held && !first {
            self.come_back(shared, &node);
        }
        reaper::start(shared, dead, due);
        Ok(())
    }

    /// Others took this node for dead, or Redis has forgotten it. What they are clearing away goes under the old name.
    fn come_back(&mut self, shared: &Arc<Shared>, node: &Arc<String>) {
        let name = new_node();
        tracing::warn!(node = %node, now = name, "the lease ran out; taking everything back under another name");
        self.names.push(node.clone());
        shared.node.store(Arc::new(name));
        self.rewrite(shared);
    }

    fn rewrite(&mut self, shared: &Shared) {
        self.rewritten = Instant::now();
        let principals = shared.counts.principals();
        let mut held = shared.held();
        held.rewrite();
        principals.iter().for_each(|principal| held.recount(principal));
    }

    /// Connections whose sessions others took over.
    async fn answer_calls(&self, shared: &Shared) -> Result<(), Unavailable> {
        let node = shared.node.load_full();
        for name in self.names.iter().chain([&node]) {
            let calls =
                shared.link.command("LPOP", vec![shared.names.calls(name).into(), "1000".into()]).await?;
            let calls = if calls.is_null() { vec![] } else { answer::list(calls)? };
            for connection in calls.into_iter().map(answer::text) {
                let Some(connection) = ConnectionId::parse(&connection?) else { continue };
                let mut held = shared.held();
                if let Some(token) = held.of(connection) {
                    held.forget(token);
                }
                drop(held);
                (shared.feed)(Event::TakenOver(connection));
            }
        }
        Ok(())
    }
}
