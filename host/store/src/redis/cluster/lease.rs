//! This node's lease, which is renewed every second. Each renewal also returns what other nodes have left behind.
//! When the lease has expired, other nodes consider this one dead; if it is alive, it continues under another
//! name and takes its sessions back.

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
/// How long a node reads notices that are addressed to a former name. By then its sessions are known under the
/// new name, or have been audited.
const FORMER_NAME_TTL: Duration = Duration::from_secs(20);
/// How often one of the nodes removes rooms that are gone from the list of rooms.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
/// How often rooms are checked that may be gone.
const ROOM_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How often the rooms with members on this node are added to the list of rooms again, in case Redis lost the
/// list.
const ROOM_LISTING_INTERVAL: Duration = Duration::from_secs(60);
/// How often everything is written again, so that the keys of what is in use do not expire.
const REWRITE_INTERVAL: Duration = Duration::from_secs(6 * 3600);

/// The parts of the store that the lease's task uses.
pub(crate) struct Leased {
    pub context: Arc<Context>,
    pub sessions: Arc<RedisSessions>,
    pub room_index: Arc<RoomIndex>,
    pub listener: mpsc::UnboundedSender<ListenerRequest>,
}

/// Acquires the lease, and starts the task that renews it until the store is dropped.
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

/// Releases the lease, so that other nodes need not wait for it to expire. They clean up what this node could not
/// release in time.
pub(crate) async fn release(context: &Context) {
    let (link, names, node) = (&context.link, &context.names, context.node.get());
    let release = async {
        let left = link.command("SCARD", vec![names.owned(&node).into()]).await?;
        if answer::number(&left)? > 0 {
            link.command("ZADD", vec![names.dead().into(), "0".into(), node.as_str().into()]).await?;
        }
        link.command("ZREM", vec![names.leases().into(), node.as_str().into()]).await
    };
    if let Err(error) = release.await {
        tracing::debug!(%error, "could not release the lease; it will expire");
    }
}

struct Lease {
    rewritten: Instant,
    pruned: Instant,
    checked: Instant,
    listed: Instant,
    /// The last renewal failed, and this has been logged.
    is_unreachable: bool,
    /// Until when Redis has last said that the lease is held, in cluster time.
    held_until: u64,
    /// Former names of this node, and when each of them was given up.
    former_names: Vec<(Arc<String>, Instant)>,
    /// Redis may have lost the schema, so it must be claimed again.
    must_claim_schema: bool,
    audit: SessionAudit,
    reaper: Reaper,
}

/// The outcome of a renewal.
enum LeaseStatus {
    Held,
    /// Redis has an earlier end of the lease than it reported before, so it has gone back to an older state.
    RolledBack,
    /// Other nodes consider this node dead, or Redis has lost the lease.
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
                        // Rooms may be lost as well. Without this, that would be noticed only at the next
                        // publish.
                        listener.send(ListenerRequest::Resync).ok();
                        self.must_claim_schema = true;
                    }
                }
                Err(error) => {
                    context.link.errors.renewed(Some(&error.0));
                    if !self.is_unreachable {
                        tracing::warn!(%error, "cannot reach the store; connections stay open, publishing fails until it is back");
                    }
                    self.is_unreachable = true;
                    if context.lease_expiry.has_expired() {
                        context.metrics.lease.set(0);
                    }
                    continue;
                }
            }
            if let Err(error) = self.read_takeover_notices(context).await {
                tracing::debug!(%error, "could not read takeover notices; trying again");
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
                self.reclaim_schema(context).await;
            }
        }
    }

    /// If Redis has lost everything, a node of another version may have started to use it.
    async fn reclaim_schema(&mut self, context: &Context) {
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
                    "Redis may have gone back to an older state; writing everything again under another name"
                );
            }
            LeaseStatus::Lost => {
                tracing::warn!("the lease expired; taking all sessions back under another name")
            }
        }
        // Another server may be replaced meanwhile.
        let has_changed = context.server_replaced.swap(false, Ordering::Relaxed);
        let rejoined = self.rejoin(leased, node).await;
        if rejoined.is_err() {
            context.server_replaced.fetch_or(has_changed, Ordering::Relaxed);
        }
        rejoined.map(|()| renewed)
    }

    /// Renews the lease, or takes a new one, which replaces that of the former name if there is one (`""`: there
    /// is none).
    async fn renew(
        &mut self,
        context: &Context,
        node: &str,
        new_lease: Option<&str>,
    ) -> Result<LeaseStatus, Unavailable> {
        // The first request has no deadline, because Redis' clock is not known yet. The node waits for its reply
        // however long it takes.
        let deadline = match context.redis_clock.now_ms() {
            0 => u64::MAX >> 11,
            now => now + RESPONSE_TIMEOUT.as_millis() as u64,
        };
        let tick = LeaseRenewal {
            node,
            lease: LEASE_DURATION,
            claim: CLAIM_DURATION,
            sessions: self.reaper.wanted_sessions(),
            former: new_lease,
            deadline,
            cluster_time: context.cluster_clock.now(),
        };
        let (requested_at, began) = (unix_ms(), Instant::now());
        let LeaseRenewalReply { time, cluster_time, held_until, nodes, dead, ends } =
            leases::renew(&context.link, &context.names, tick).await?;
        let local_time = (requested_at + unix_ms()) / 2;
        context.redis_clock.observe(time);
        context.clock_offset_ms.store((time / 1000) as i64 - local_time as i64, Ordering::Relaxed);
        context.cluster_clock.observe(cluster_time);
        let Some(held) = held_until else { return Ok(LeaseStatus::Lost) };
        let went_back = new_lease.is_none() && held < self.held_until;
        self.held_until = cluster_time + LEASE_DURATION.as_millis() as u64;
        if new_lease.is_none_or(str::is_empty) {
            context.lease_expiry.set(began);
        }
        context.metrics.nodes.set(nodes as i64);
        context.metrics.lease.set(1);
        self.reaper.start(dead, ends);
        Ok(if went_back { LeaseStatus::RolledBack } else { LeaseStatus::Held })
    }

    /// Continues under another name, because other nodes may be cleaning up the old one. This also cleans up
    /// sessions that an older state of Redis has under the old name and that this node no longer holds.
    async fn rejoin(&mut self, leased: &Leased, former: Arc<String>) -> Result<(), Unavailable> {
        let (context, name) = (&leased.context, node_name::random_name());
        tracing::info!(node = %former, now = name, "this node has a new name");
        let began = Instant::now();
        self.renew(context, &name, Some(&former)).await?;
        context.node.set(name);
        // Only now that the name is set: nothing may be written under the former name on the strength of the new
        // lease.
        context.lease_expiry.set(began);
        leased.sessions.mark_all_uncertain();
        context.connections.node_renamed(former.clone());
        self.former_names.push((former, Instant::now()));
        Ok(())
    }

    /// Reads which connections have lost their session to another node.
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
