//! This node's lease: renewed each second, and with it comes what other nodes left undone. A node whose lease has run out is
//! dead to the others; if it lives all the same, it takes back what is its own under another name.

use crate::{
    ConnectionId, Event, PATIENCE, Unavailable,
    redis::{
        answer,
        cluster::{patrol::Patrol, reaper::Reaper},
        context::{
            Context,
            faults::NodeFault,
            lease_time::{CLAIM, LEASE},
            node_name,
        },
        listing::Listing,
        opening::claim_schema,
        pubsub::listener_request::ListenerRequest,
        scripts::leases::{self, Tick, TickReply},
        sessions::Sessions,
    },
};
use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};
use switchyard_process::vital::VitalTasks;
use switchyard_protocol::unix_ms;
use tokio::{sync::mpsc, time::Instant};

const TICK: Duration = Duration::from_secs(1);
/// For how long a node looks for notices under a name that it had: by then its sessions have its new one, or are compared.
const FORMER: Duration = Duration::from_secs(20);
/// How often a node sees to the list of rooms, if no other has.
const PRUNE: Duration = Duration::from_secs(3600);
/// How often rooms that may be gone are looked at.
const CHECK: Duration = Duration::from_secs(5);
/// How often the rooms that somebody here is in are listed again, should the list have been lost.
const LIST: Duration = Duration::from_secs(60);
/// How often everything is written again, so that nothing in use ends with its time to live.
const REWRITE: Duration = Duration::from_secs(6 * 3600);

/// What of a store ends with its lease.
pub(crate) struct Leased {
    pub context: Arc<Context>,
    pub sessions: Arc<Sessions>,
    pub listing: Arc<Listing>,
    pub listener: mpsc::UnboundedSender<ListenerRequest>,
}

/// Takes a lease and holds it as long as the store is there.
pub(crate) async fn hold(leased: &Arc<Leased>, vitals: &VitalTasks) -> Result<(), Unavailable> {
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
        reaper: Reaper::new(&leased.context),
    };
    let node = leased.context.node.get();
    lease.tick(&leased.context, &node, Some("")).await?;
    let leased = Arc::downgrade(leased);
    vitals.spawn("the lease", async move { lease.run(leased).await });
    Ok(())
}

/// Other nodes need not wait until it runs out. What was not let go in time is theirs to clear away.
pub(crate) async fn give_up(context: &Context) {
    let (link, names, node) = (&context.link, &context.names, context.node.get());
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
    reaper: Reaper,
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
    async fn run(&mut self, leased: Weak<Leased>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(leased) = leased.upgrade() else { return };
            let Leased { context, sessions, listing, listener } = &*leased;
            match self.renew(&leased).await {
                Ok(renewed) => {
                    context.link.errors.renewed(None);
                    if std::mem::take(&mut self.away) {
                        tracing::info!(node = %context.node.get(), "the store is back");
                    }
                    if !matches!(renewed, Renewed::Held) {
                        // Rooms may be gone as well, and nothing says so until somebody publishes.
                        listener.send(ListenerRequest::Resync).ok();
                        self.claims = true;
                    }
                }
                Err(error) => {
                    context.link.errors.renewed(Some(&error.0));
                    if !self.away {
                        tracing::warn!(%error, "connections stay, publishing is refused until it is back");
                    }
                    self.away = true;
                    if context.renewed.is_past() {
                        context.metrics.lease.set(0);
                    }
                    continue;
                }
            }
            if let Err(error) = self.take_notices(context).await {
                tracing::debug!(%error, "takeovers are seen to later");
            }
            self.patrol.look(sessions, TICK);
            if self.pruned.elapsed() > PRUNE {
                self.pruned = Instant::now();
                listing.prune(PRUNE);
            }
            if self.rewritten.elapsed() > REWRITE {
                self.rewritten = Instant::now();
                sessions.rewrite_all();
                context.connections.rewrite();
            }
            if self.listed.elapsed() > LIST {
                self.listed = Instant::now();
                listener.send(ListenerRequest::ListRooms).ok();
            }
            context.estate.sweep().await;
            listing.write().await;
            if self.checked.elapsed() > CHECK {
                self.checked = Instant::now();
                listing.check();
            }
            if self.claims {
                self.claim(context).await;
            }
        }
    }

    /// Where Redis has forgotten everything, another version may have begun to keep its own there.
    async fn claim(&mut self, context: &Context) {
        let Ok(claimed) = claim_schema(&context.link, &context.names).await else { return };
        self.claims = claimed.is_err();
        let foreign = claimed.err();
        if context.faults.set(NodeFault::Schema, foreign.clone()) {
            tracing::error!("{}", foreign.unwrap_or_default());
        }
    }

    async fn renew(&mut self, leased: &Leased) -> Result<Renewed, Unavailable> {
        let context = &leased.context;
        let node = context.node.get();
        let renewed = match self.tick(context, &node, None).await? {
            Renewed::Held if context.has_changed.load(Ordering::Relaxed) => Renewed::WentBack,
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
        let has_changed = context.has_changed.swap(false, Ordering::Relaxed);
        let came_back = self.come_back(leased, node).await;
        if came_back.is_err() {
            context.has_changed.fetch_or(has_changed, Ordering::Relaxed);
        }
        came_back.map(|()| renewed)
    }

    /// Renews the lease, or takes one anew, in the place of a former name where there is one.
    async fn tick(
        &mut self,
        context: &Context,
        node: &str,
        anew: Option<&str>,
    ) -> Result<Renewed, Unavailable> {
        // Before the first answer Redis' clock is not known; nobody else waits for that one.
        let deadline = match context.time.now() {
            0 => u64::MAX >> 11,
            now => now + PATIENCE.as_millis() as u64,
        };
        let tick = Tick {
            node,
            lease: LEASE,
            claim: CLAIM,
            sessions: self.reaper.wanted(),
            former: anew,
            deadline,
            cluster_time: context.cluster.now(),
        };
        let (asked, began) = (unix_ms(), Instant::now());
        let TickReply { time, cluster_time, held_until, nodes, dead, ends } =
            leases::tick(&context.link, &context.names, tick).await?;
        let here = (asked + unix_ms()) / 2;
        context.time.heard(time);
        context.clock.store((time / 1000) as i64 - here as i64, Ordering::Relaxed);
        context.cluster.heard(cluster_time);
        let Some(held) = held_until else { return Ok(Renewed::Lost) };
        let went_back = anew.is_none() && held < self.until;
        self.until = cluster_time + LEASE.as_millis() as u64;
        if anew.is_none_or(str::is_empty) {
            context.renewed.set(began);
        }
        context.metrics.nodes.set(nodes as i64);
        context.metrics.lease.set(1);
        self.reaper.start(dead, ends);
        Ok(if went_back { Renewed::WentBack } else { Renewed::Held })
    }

    /// What others may be clearing away goes under the old name. So does what an older state of Redis has of sessions that this node
    /// does not hold any more: the former name is cleared away.
    async fn come_back(&mut self, leased: &Leased, former: Arc<String>) -> Result<(), Unavailable> {
        let (context, name) = (&leased.context, node_name::random_name());
        tracing::info!(node = %former, now = name, "this node has another name");
        let began = Instant::now();
        self.tick(context, &name, Some(&former)).await?;
        context.node.set(name);
        // Only now: nothing is written under the former name by the lease of this one.
        context.renewed.set(began);
        leased.sessions.doubt_all();
        context.connections.moved(former.clone());
        self.former.push((former, Instant::now()));
        Ok(())
    }

    /// Connections whose sessions others took over.
    async fn take_notices(&mut self, context: &Context) -> Result<(), Unavailable> {
        self.former.retain(|(_, since)| since.elapsed() < FORMER);
        let node = context.node.get();
        for name in self.former.iter().map(|(name, _)| name).chain([&node]) {
            let command = vec![context.names.takeovers(name).into(), "1000".into()];
            // A former name may be on a server that does not answer.
            let Ok(notices) = context.link.command("LPOP", command).await else { continue };
            let notices = if notices.is_null() { vec![] } else { answer::texts(notices)? };
            for connection in notices {
                if let Some(connection) = ConnectionId::parse(&connection) {
                    (context.feed)(Event::TakenOver(connection));
                }
            }
        }
        Ok(())
    }
}
