//! This node's lease: renewed each second, and with it comes what other nodes left undone. A node whose lease has run out is
//! dead to the others; if it lives all the same, it takes back what is its own under another name.

use crate::{
    ConnectionId, Event, RESPONSE_TIMEOUT, Unavailable,
    redis::{
        answer,
        cluster::{reaper::Reaper, session_audit::SessionAudit},
        connecting::claim_schema,
        context::{
            Context,
            faults::NodeFault,
            lease_expiry::{CLAIM_DURATION, LEASE_DURATION},
            node_name,
        },
        pubsub::listener_request::ListenerRequest,
        room_index::RoomIndex,
        scripts::leases::{self, LeaseRenewal, LeaseRenewalReply},
        sessions::RedisSessions,
    },
};
use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};
use switchyard_process::vital::VitalTasks;
use switchyard_protocol::unix_ms;
use tokio::{sync::mpsc, time::Instant};

const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);
/// For how long a node looks for notices under a name that it had: by then its sessions have its new one, or are compared.
const FORMER_NAME_TTL: Duration = Duration::from_secs(20);
/// How often a node sees to the list of rooms, if no other has.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
/// How often rooms that may be gone are looked at.
const ROOM_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How often the rooms that somebody here is in are listed again, should the list have been lost.
const ROOM_LISTING_INTERVAL: Duration = Duration::from_secs(60);
/// How often everything is written again, so that nothing in use ends with its time to live.
const REWRITE_INTERVAL: Duration = Duration::from_secs(6 * 3600);

/// What of a store ends with its lease.
pub(crate) struct Leased {
    pub context: Arc<Context>,
    pub sessions: Arc<RedisSessions>,
    pub room_index: Arc<RoomIndex>,
    pub listener: mpsc::UnboundedSender<ListenerRequest>,
}

/// Takes a lease and holds it as long as the store is there.
pub(crate) async fn acquire(leased: &Arc<Leased>, vitals: &VitalTasks) -> Result<(), Unavailable> {
    let now = Instant::now();
    let mut lease = Lease {
        rewritten: now,
        pruned: now,
        checked: now,
        listed: now,
        is_unreachable: false,
        held_until: 0,
        former_names: Vec::new(),
        must_claim_schema: false,
        audit: SessionAudit::default(),
        reaper: Reaper::new(&leased.context),
    };
    let node = leased.context.node.get();
    lease.renew(&leased.context, &node, Some("")).await?;
    let leased = Arc::downgrade(leased);
    vitals.spawn("the lease", async move { lease.run(leased).await });
    Ok(())
}

/// Other nodes need not wait until it runs out. What was not let go in time is theirs to clear away.
pub(crate) async fn release(context: &Context) {
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
    is_unreachable: bool,
    /// Until when it is held, by cluster time, as Redis said last.
    held_until: u64,
    /// Names of this node that ran out, and when.
    former_names: Vec<(Arc<String>, Instant)>,
    /// The schema may be lost, and is to be claimed again.
    must_claim_schema: bool,
    audit: SessionAudit,
    reaper: Reaper,
}

/// Whether a lease is still what it was.
enum LeaseStatus {
    Held,
    /// Redis knows an older one than it gave.
    RolledBack,
    /// Others took this node for dead, or Redis has forgotten it.
    Lost,
}

impl Lease {
    async fn run(&mut self, leased: Weak<Leased>) {
        let mut ticks = tokio::time::interval(RENEWAL_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(leased) = leased.upgrade() else { return };
            let Leased { context, sessions, room_index, listener } = &*leased;
            match self.renew_or_rejoin(&leased).await {
                Ok(renewed) => {
                    context.link.errors.renewed(None);
                    if std::mem::take(&mut self.is_unreachable) {
                        tracing::info!(node = %context.node.get(), "the store is back");
                    }
                    if !matches!(renewed, LeaseStatus::Held) {
                        // Rooms may be gone as well, and nothing says so until somebody publishes.
                        listener.send(ListenerRequest::Resync).ok();
                        self.must_claim_schema = true;
                    }
                }
                Err(error) => {
                    context.link.errors.renewed(Some(&error.0));
                    if !self.is_unreachable {
                        tracing::warn!(%error, "connections stay, publish_queue is refused until it is back");
                    }
                    self.is_unreachable = true;
                    if context.lease_expiry.has_expired() {
                        context.metrics.lease.set(0);
                    }
                    continue;
                }
            }
            if let Err(error) = self.read_takeover_notices(context).await {
                tracing::debug!(%error, "takeovers are seen to later");
            }
            self.audit.check_next(sessions, RENEWAL_INTERVAL);
            if self.pruned.elapsed() > PRUNE_INTERVAL {
                self.pruned = Instant::now();
                room_index.prune(PRUNE_INTERVAL);
            }
            if self.rewritten.elapsed() > REWRITE_INTERVAL {
                self.rewritten = Instant::now();
                sessions.rewrite_all();
                context.connections.rewrite();
            }
            if self.listed.elapsed() > ROOM_LISTING_INTERVAL {
                self.listed = Instant::now();
                listener.send(ListenerRequest::ListRooms).ok();
            }
            context.owned.remove_strays().await;
            room_index.write().await;
            if self.checked.elapsed() > ROOM_CHECK_INTERVAL {
                self.checked = Instant::now();
                room_index.check();
            }
            if self.must_claim_schema {
                self.try_create(context).await;
            }
        }
    }

    /// Where Redis has forgotten everything, another version may have begun to keep its own there.
    async fn try_create(&mut self, context: &Context) {
        let Ok(claimed) = claim_schema(&context.link, &context.names).await else { return };
        self.must_claim_schema = claimed.is_err();
        let foreign = claimed.err().map(|mismatch| mismatch.to_string());
        if context.faults.set(NodeFault::Schema, foreign.clone()) {
            tracing::error!("{}", foreign.unwrap_or_default());
        }
    }

    async fn renew_or_rejoin(&mut self, leased: &Leased) -> Result<LeaseStatus, Unavailable> {
        let context = &leased.context;
        let node = context.node.get();
        let renewed = match self.renew(context, &node, None).await? {
            LeaseStatus::Held if context.server_replaced.load(Ordering::Relaxed) => LeaseStatus::RolledBack,
            renewed => renewed,
        };
        match renewed {
            LeaseStatus::Held => return Ok(renewed),
            LeaseStatus::RolledBack => {
                tracing::warn!(
                    "Redis may have gone back; writing again what this node knows under another name"
                );
            }
            LeaseStatus::Lost => {
                tracing::warn!("the lease ran out; taking everything back under another name")
            }
        }
        // Another change may come meanwhile.
        let has_changed = context.server_replaced.swap(false, Ordering::Relaxed);
        let came_back = self.rejoin(leased, node).await;
        if came_back.is_err() {
            context.server_replaced.fetch_or(has_changed, Ordering::Relaxed);
        }
        came_back.map(|()| renewed)
    }

    /// Renews the lease, or takes one anew, in the place of a former name where there is one.
    async fn renew(
        &mut self,
        context: &Context,
        node: &str,
        anew: Option<&str>,
    ) -> Result<LeaseStatus, Unavailable> {
        // Before the first answer Redis' clock is not known; nobody else waits for that one.
        let deadline = match context.redis_clock.now_ms() {
            0 => u64::MAX >> 11,
            now => now + RESPONSE_TIMEOUT.as_millis() as u64,
        };
        let tick = LeaseRenewal {
            node,
            lease: LEASE_DURATION,
            claim: CLAIM_DURATION,
            sessions: self.reaper.wanted_sessions(),
            former: anew,
            deadline,
            cluster_time: context.cluster_clock.now(),
        };
        let (asked, began) = (unix_ms(), Instant::now());
        let LeaseRenewalReply { time, cluster_time, held_until, nodes, dead, ends } =
            leases::renew(&context.link, &context.names, tick).await?;
        let here = (asked + unix_ms()) / 2;
        context.redis_clock.observe(time);
        context.clock_offset_ms.store((time / 1000) as i64 - here as i64, Ordering::Relaxed);
        context.cluster_clock.observe(cluster_time);
        let Some(held) = held_until else { return Ok(LeaseStatus::Lost) };
        let went_back = anew.is_none() && held < self.held_until;
        self.held_until = cluster_time + LEASE_DURATION.as_millis() as u64;
        if anew.is_none_or(str::is_empty) {
            context.lease_expiry.set(began);
        }
        context.metrics.nodes.set(nodes as i64);
        context.metrics.lease.set(1);
        self.reaper.start(dead, ends);
        Ok(if went_back { LeaseStatus::RolledBack } else { LeaseStatus::Held })
    }

    /// What others may be clearing away goes under the old name. So does what an older state of Redis has of sessions that this node
    /// does not hold any more: the former name is cleared away.
    async fn rejoin(&mut self, leased: &Leased, former: Arc<String>) -> Result<(), Unavailable> {
        let (context, name) = (&leased.context, node_name::random_name());
        tracing::info!(node = %former, now = name, "this node has another name");
        let began = Instant::now();
        self.renew(context, &name, Some(&former)).await?;
        context.node.set(name);
        // Only now: nothing is written under the former name by the lease of this one.
        context.lease_expiry.set(began);
        leased.sessions.mark_all_uncertain();
        context.connections.node_renamed(former.clone());
        self.former_names.push((former, Instant::now()));
        Ok(())
    }

    /// Connections whose sessions others took over.
    async fn read_takeover_notices(&mut self, context: &Context) -> Result<(), Unavailable> {
        self.former_names.retain(|(_, since)| since.elapsed() < FORMER_NAME_TTL);
        let node = context.node.get();
        for name in self.former_names.iter().map(|(name, _)| name).chain([&node]) {
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
