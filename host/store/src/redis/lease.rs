//! This node's lease: renewed each second, and with it comes what other nodes left undone. A node whose lease has run out is
//! dead to the others; if it lives all the same, it takes back what is its own under another name.

use super::{
    Event, PATIENCE, Redis, Shared, Unavailable, answer, listener::Request, listing, patrol::Patrol, reaper,
    scripts, shared::Fault,
};
use crate::ConnectionId;
use std::{
    sync::{Arc, Mutex, Weak, atomic::Ordering},
    time::Duration,
};
use switchyard_process::vital::VitalTasks;
use switchyard_protocol::unix_ms;
use tokio::time::Instant;

/// A node that was not heard of for so long is dead.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// How long a notice of a takeover is kept.
pub(super) const NOTICES: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_secs(1);
/// For how long a node looks for notices under a name that it had: by then its sessions have its new one, or are compared.
const FORMER: Duration = Duration::from_secs(20);
/// What was begun on what a node left is done by another if it is not done by then.
pub(super) const CLAIM: Duration = Duration::from_secs(15);
/// How often a node sees to the list of rooms, if no other has.
const PRUNE: Duration = Duration::from_secs(3600);
/// How often rooms that may be gone are looked at.
const CHECK: Duration = Duration::from_secs(5);
/// How often the rooms that somebody here is in are listed again, should the list have been lost.
const LIST: Duration = Duration::from_secs(60);
/// How often everything is written again, so that nothing in use ends with its time to live.
const REWRITE: Duration = Duration::from_secs(6 * 3600);

/// When the lease was last asked for and given.
pub(super) struct Renewal(Mutex<Instant>);

impl Default for Renewal {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Renewal {
    fn set(&self, asked: Instant) {
        *self.0.lock().expect("no code panics while it holds the time") = asked;
    }

    /// Until when others surely do not take this node for dead.
    pub(super) fn end(&self) -> Instant {
        *self.0.lock().expect("no code panics while it holds the time") + LEASE
    }

    /// By this node's own clock others may have taken it for dead.
    pub(super) fn is_past(&self) -> bool {
        Instant::now() > self.end()
    }
}

pub(super) fn new_node() -> String {
    format!("{:012x}", u64::from_le_bytes(crate::random()) >> 16)
}

/// Takes a lease and holds it as long as the store is there.
pub(super) async fn hold(store: &Arc<Redis>, vitals: &VitalTasks) -> Result<(), Unavailable> {
    let now = Instant::now();
    let mut lease = Lease {
        rewritten: now,
        pruned: now,
        checked: now,
        listed: now,
        away: false,
        until: 0,
        former: Vec::new(),
        claims: false,
        patrol: Patrol::default(),
    };
    let node = store.shared.node.load_full();
    lease.tick(&store.shared, &node, Some("")).await?;
    let store = Arc::downgrade(store);
    vitals.spawn("the lease", async move { lease.run(store).await });
    Ok(())
}

/// Other nodes need not wait until it runs out. What was not let go in time is theirs to clear away.
pub(super) async fn give_up(shared: &Shared) {
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
    rewritten: Instant,
    pruned: Instant,
    checked: Instant,
    listed: Instant,
    /// The last attempt failed, and that was said.
    away: bool,
    /// Until when it is held, by cluster time, as Redis said last.
    until: u64,
    /// Names of this node that ran out, and when.
    former: Vec<(Arc<String>, Instant)>,
    /// The schema may be lost, and is to be claimed again.
    claims: bool,
    patrol: Patrol,
}

/// Whether a lease is still what it was.
enum Renewed {
    Held,
    /// Redis knows an older one than it gave.
    WentBack,
    /// Others took this node for dead, or Redis has forgotten it.
    Lost,
}

impl Lease {
    async fn run(&mut self, store: Weak<Redis>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(store) = store.upgrade() else { return };
            let shared = &store.shared;
            match self.renew(shared).await {
                Ok(renewed) => {
                    shared.link.trouble.renewed(None);
                    if std::mem::take(&mut self.away) {
                        tracing::info!(node = %shared.node.load(), "the store is back");
                    }
                    if !matches!(renewed, Renewed::Held) {
                        // Rooms may be gone as well, and nothing says so until somebody publishes.
                        store.listener.send(Request::Look).ok();
                        self.claims = true;
                    }
                }
                Err(error) => {
                    shared.link.trouble.renewed(Some(&error.0));
                    if !self.away {
                        tracing::warn!(%error, "connections stay, publishing is refused until it is back");
                    }
                    self.away = true;
                    if shared.renewed.is_past() {
                        shared.metrics.lease.set(0);
                    }
                    continue;
                }
            }
            if let Err(error) = self.take_notices(shared).await {
                tracing::debug!(%error, "takeovers are seen to later");
            }
            self.patrol.look(shared, TICK);
            if self.pruned.elapsed() > PRUNE {
                self.pruned = Instant::now();
                listing::prune(shared, PRUNE);
            }
            if self.rewritten.elapsed() > REWRITE {
                self.rewritten = Instant::now();
                shared.rewrite_all();
                shared.connections.rewrite();
            }
            if self.listed.elapsed() > LIST {
                self.listed = Instant::now();
                store.listener.send(Request::List).ok();
            }
            shared.estate.sweep().await;
            shared.write_list().await;
            if self.checked.elapsed() > CHECK {
                self.checked = Instant::now();
                listing::check(shared);
            }
            if self.claims {
                self.claim(shared).await;
            }
        }
    }

    /// Where Redis has forgotten everything, another version may have begun to keep its own there.
    async fn claim(&mut self, shared: &Shared) {
        let Ok(claimed) = super::claim_schema(&shared.link, &shared.names).await else { return };
        self.claims = claimed.is_err();
        let foreign = claimed.err();
        if shared.faults.set(Fault::Schema, foreign.clone()) {
            tracing::error!("{}", foreign.unwrap_or_default());
        }
    }

    async fn renew(&mut self, shared: &Arc<Shared>) -> Result<Renewed, Unavailable> {
        let node = shared.node.load_full();
        let renewed = match self.tick(shared, &node, None).await? {
            Renewed::Held if shared.has_changed.load(Ordering::Relaxed) => Renewed::WentBack,
            renewed => renewed,
        };
        match renewed {
            Renewed::Held => return Ok(renewed),
            Renewed::WentBack => {
                tracing::warn!(
                    "Redis may have gone back; writing again what this node knows under another name"
                );
            }
            Renewed::Lost => tracing::warn!("the lease ran out; taking everything back under another name"),
        }
        // Another change may come meanwhile.
        let has_changed = shared.has_changed.swap(false, Ordering::Relaxed);
        let came_back = self.come_back(shared, node).await;
        if came_back.is_err() {
            shared.has_changed.fetch_or(has_changed, Ordering::Relaxed);
        }
        came_back.map(|()| renewed)
    }

    /// Renews the lease, or takes one anew, in the place of a former name where there is one.
    async fn tick(
        &mut self,
        shared: &Arc<Shared>,
        node: &str,
        anew: Option<&str>,
    ) -> Result<Renewed, Unavailable> {
        let names = &shared.names;
        // Before the first answer Redis' clock is not known; nobody else waits for that one.
        let deadline = match shared.time.now() {
            0 => u64::MAX >> 11,
            now => now + PATIENCE.as_millis() as u64,
        };
        let keys = vec![names.leases(), names.dead(), names.ends(), names.clock()];
        let arguments = vec![
            node.into(),
            answer::millis(LEASE),
            answer::millis(CLAIM),
            answer::integer(reaper::wanted(shared)),
            answer::integer(anew.is_some().into()),
            anew.unwrap_or_default().into(),
            answer::integer(deadline),
            answer::integer(shared.cluster.now()),
        ];
        let (asked, began) = (unix_ms(), Instant::now());
        let mut parts = answer::list(shared.link.run(&scripts::TICK, keys, arguments).await?)?.into_iter();
        let mut next = || parts.next().unwrap_or(fred::types::Value::Null);
        let here = (asked + unix_ms()) / 2;
        let exact = answer::number(&next())?;
        shared.time.heard(exact);
        shared.clock.store((exact / 1000) as i64 - here as i64, Ordering::Relaxed);
        let time = answer::number(&next())?;
        shared.cluster.heard(time);
        let held = answer::text(next())?;
        let nodes = answer::number(&next())?;
        let (dead, due) = (answer::texts(next())?, answer::texts(next())?);
        let Ok(held) = held.parse::<u64>() else { return Ok(Renewed::Lost) };
        let went_back = anew.is_none() && held < self.until;
        self.until = time + LEASE.as_millis() as u64;
        if anew.is_none_or(str::is_empty) {
            shared.renewed.set(began);
        }
        shared.metrics.nodes.set(nodes as i64);
        shared.metrics.lease.set(1);
        reaper::start(shared, reaper::listed(&dead), reaper::listed(&due));
        Ok(if went_back { Renewed::WentBack } else { Renewed::Held })
    }

    /// What others may be clearing away goes under the old name. So does what an older state of Redis has of sessions that this node
    /// does not hold any more: the former name is cleared away.
    async fn come_back(&mut self, shared: &Arc<Shared>, former: Arc<String>) -> Result<(), Unavailable> {
        let name = new_node();
        tracing::info!(node = %former, now = name, "this node has another name");
        let began = Instant::now();
        self.tick(shared, &name, Some(&former)).await?;
        shared.node.store(Arc::new(name));
        // Only now: nothing is written under the former name by the lease of this one.
        shared.renewed.set(began);
        shared.doubt_all();
        shared.connections.moved(former.clone());
        self.former.push((former, Instant::now()));
        Ok(())
    }

    /// Connections whose sessions others took over.
    async fn take_notices(&mut self, shared: &Shared) -> Result<(), Unavailable> {
        self.former.retain(|(_, since)| since.elapsed() < FORMER);
        let node = shared.node.load_full();
        for name in self.former.iter().map(|(name, _)| name).chain([&node]) {
            let command = vec![shared.names.takeovers(name).into(), "1000".into()];
            // A former name may be on a server that does not answer.
            let Ok(notices) = shared.link.command("LPOP", command).await else { continue };
            let notices = if notices.is_null() { vec![] } else { answer::texts(notices)? };
            for connection in notices {
                if let Some(connection) = ConnectionId::parse(&connection) {
                    (shared.feed)(Event::TakenOver(connection));
                }
            }
        }
        Ok(())
    }
}
