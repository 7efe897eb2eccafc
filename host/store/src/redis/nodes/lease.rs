//! This node's lease, which is renewed every second. Each renewal also returns what other nodes have left
//! behind. When the lease has expired, other nodes consider this one dead; if it is alive, it continues under
//! another name and takes its sessions back.

use crate::{
    RESPONSE_TIMEOUT, Unavailable,
    redis::{
        context::{
            Context,
            lease_expiry::{CLAIM_DURATION, LEASE_DURATION},
            node_name,
        },
        nodes::{
            reaper::Reaper,
            upkeep::{Renewal, Upkeep},
        },
        pubsub::listener_request::ListenerRequest,
        replies,
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

/// How often the lease is renewed. A renewal takes two requests at most, so the lease does not expire as long
/// as Redis answers them in time.
pub(super) const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

/// The parts of the store that the lease's task uses.
pub(crate) struct Leased {
    pub context: Arc<Context>,
    pub sessions: Arc<RedisSessions>,
    pub room_index: Arc<RoomIndex>,
    pub listener: mpsc::UnboundedSender<ListenerRequest>,
}

/// Acquires the lease, and starts the task that renews it until the store is dropped.
pub(crate) async fn acquire(leased: &Arc<Leased>, vitals: &VitalTasks) -> Result<(), Unavailable> {
    let (renewals, renewed) = mpsc::unbounded_channel();
    let mut lease =
        Lease { is_unreachable: false, held_until: 0, renewals, reaper: Reaper::new(&leased.context) };
    let node = leased.context.node.get();
    lease.renew(&leased.context, &node, Some("")).await?;
    let leased = Arc::downgrade(leased);
    vitals.spawn("the lease", async move {
        tokio::join!(lease.run(leased.clone()), Upkeep::new().run(leased, renewed));
    });
    Ok(())
}

/// Releases the lease, so that other nodes need not wait for it to expire. They clean up what this node could
/// not release in time.
pub(crate) async fn release(context: &Context) {
    let (link, names, node) = (&context.link, &context.names, context.node.get());
    let release = async {
        let left = link.command("SCARD", vec![names.owned(&node).into()]).await?;
        if replies::number(&left)? > 0 {
            link.command("ZADD", vec![names.dead().into(), "0".into(), node.as_str().into()]).await?;
        }
        link.command("ZREM", vec![names.leases().into(), node.as_str().into()]).await
    };
    if let Err(error) = release.await {
        tracing::debug!(%error, "could not release the lease; it will expire");
    }
}

struct Lease {
    /// The last renewal failed, and this has been logged.
    is_unreachable: bool,
    /// Until when Redis has last said that the lease is held, in cluster time.
    held_until: u64,
    /// Told of each renewal.
    renewals: mpsc::UnboundedSender<Renewal>,
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
    async fn run(mut self, leased: Weak<Leased>) {
        let mut ticks = tokio::time::interval(RENEWAL_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(leased) = leased.upgrade() else { return };
            let Leased { context, listener, .. } = &*leased;
            match self.renew_or_rejoin(&leased).await {
                Ok(renewal) => {
                    context.link.errors.renewed(None);
                    if std::mem::take(&mut self.is_unreachable) {
                        tracing::info!(node = %context.node.get(), "the store is back");
                    }
                    if renewal.former_name.is_some() {
                        // Rooms may be lost as well. Without this, that would be noticed only at the next
                        // publish.
                        listener.send(ListenerRequest::Resync).ok();
                    }
                    self.renewals.send(renewal).ok();
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
                }
            }
        }
    }

    async fn renew_or_rejoin(&mut self, leased: &Leased) -> Result<Renewal, Unavailable> {
        let context = &leased.context;
        let node = context.node.get();
        let renewed = match self.renew(context, &node, None).await? {
            LeaseStatus::Held if context.server_replaced.load(Ordering::Relaxed) => LeaseStatus::RolledBack,
            renewed => renewed,
        };
        match renewed {
            LeaseStatus::Held => return Ok(Renewal { former_name: None }),
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
        let rejoined = self.rejoin(leased, node.clone()).await;
        if rejoined.is_err() {
            context.server_replaced.fetch_or(has_changed, Ordering::Relaxed);
        }
        rejoined.map(|()| Renewal { former_name: Some(node) })
    }

    /// Renews the lease, or takes a new one, which replaces that of the former name if there is one (`""`:
    /// there is none).
    async fn renew(
        &mut self,
        context: &Context,
        node: &str,
        new_lease: Option<&str>,
    ) -> Result<LeaseStatus, Unavailable> {
        // The first request has no deadline, because Redis' clock is not known yet. The node waits for its
        // reply however long it takes.
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
        // Only now that the name is set: nothing may be written under the former name on the strength of the
        // new lease.
        context.lease_expiry.set(began);
        leased.sessions.mark_all_uncertain();
        context.connections.node_renamed(former);
        Ok(())
    }
}
