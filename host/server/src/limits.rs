//! What clients that have not authenticated may use of a node: connection slots, file descriptors and failed
//! keys. Knows no listener and no socket.

mod address;
mod failures;
mod files;
mod rate;
mod slots;
mod token_bucket;

pub(crate) use crate::limit_mode::LimitMode;
pub(crate) use address::{AddressGroup, IpNetwork};
pub(crate) use failures::KeyFailures;
pub(crate) use files::FileBudget;
pub use files::raise_file_limit;
pub(crate) use rate::Rate;
pub(crate) use slots::{EvictionGuard, NoSlot, Slot, Slots};
pub(crate) use token_bucket::TokenBucket;

use crate::metrics::{LimitKind, ListenerKind, Metrics};
use serde::Deserialize;
use std::{net::IpAddr, num::NonZeroUsize, sync::Arc, time::Duration};
use switchyard_protocol::{ErrorCode, Refusal};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Proxies. Many clients connect from one of their addresses, so no limit by address applies to them.
    pub trusted: Vec<IpNetwork>,
    /// How many connections of the node may be unauthenticated at a time.
    pub unauthenticated: NonZeroUsize,
    /// Limits for a single address.
    pub address: AddressConfig,
}

/// `[limits.address]`: limits for one IPv4 address, or for one IPv6 /64. `None` means no limit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AddressConfig {
    /// How many of its connections may be unauthenticated at a time.
    pub unauthenticated: Option<NonZeroUsize>,
    /// How often it may present an invalid key. Beyond that its upgrades are refused.
    pub failures: Option<Rate>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            trusted: vec![],
            unauthenticated: NonZeroUsize::new(1000).expect("not zero"),
            address: AddressConfig::default(),
        }
    }
}

/// The limits of the clients' listener.
pub(crate) struct ClientLimits {
    trusted: Vec<IpNetwork>,
    slots: Arc<Slots>,
    failures: KeyFailures,
    pub files: FileBudget,
    /// One task for each client connection. Each holds one file descriptor.
    pub clients: TaskTracker,
    metrics: Metrics,
}

/// How long a connection is safe from eviction. A well-behaved client has authenticated by then: it needs
/// only a few round trips.
const EVICTION_GRACE: Duration = Duration::from_secs(1);
/// How many clients there may be beyond their share of files, because evicted ones have not closed yet. If
/// there are more, new ones wait.
const MAX_CLOSING_CLIENTS: usize = 16;
/// How often a new client tries again while too many evicted ones are closing.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

impl ClientLimits {
    pub(crate) fn new(config: &LimitsConfig, files: FileBudget, metrics: Metrics) -> Arc<Self> {
        let LimitsConfig { trusted, unauthenticated, address } = config;
        let max_per_address = address.unauthenticated.map(NonZeroUsize::get);
        Arc::new(Self {
            trusted: trusted.clone(),
            slots: Slots::new(unauthenticated.get(), max_per_address, EVICTION_GRACE),
            failures: KeyFailures::new(address.failures, ListenerKind::Clients, metrics.clone()),
            files,
            clients: TaskTracker::new(),
            metrics,
        })
    }

    /// Waits for a slot for a connection that was just accepted. If all are taken, a connection that waits
    /// for its peer is evicted. `None`: close the connection.
    pub(crate) async fn admit(self: &Arc<Self>, address: IpAddr) -> Option<PendingConnection> {
        let group = AddressGroup::of(address);
        let is_trusted = self.is_trusted(address);
        loop {
            let freed = self.slots.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let retry_at = match self.reserve_file() {
                Ok(()) => match self.slots.acquire(group, is_trusted) {
                    Ok((slot, has_evicted)) => {
                        if has_evicted {
                            self.count_limited(LimitKind::Unauthenticated);
                        }
                        self.metrics.unauthenticated.inc();
                        return Some(PendingConnection { slot, address, limits: self.clone() });
                    }
                    Err(NoSlot::AddressLimit) => {
                        self.count_limited(LimitKind::AddressUnauthenticated);
                        return None;
                    }
                    Err(NoSlot::RetryAt(time)) => time,
                },
                Err(None) => {
                    self.count_limited(LimitKind::Files);
                    return None;
                }
                Err(Some(time)) => time,
            };
            tokio::select! {
                () = freed => {}
                () = sleep_until(retry_at) => {}
            }
        }
    }

    /// Makes sure that there is a file for one more client, if need be by evicting another. `Err`: when to
    /// try again, or `None` if no client can be evicted because all have authenticated.
    fn reserve_file(&self) -> Result<(), Option<Instant>> {
        let (clients, max_clients) = (self.clients.len(), self.files.clients);
        if clients < max_clients {
            return Ok(());
        }
        if clients >= max_clients.saturating_add(MAX_CLOSING_CLIENTS) {
            return Err(Some(Instant::now() + RETRY_INTERVAL));
        }
        self.slots.evict_one()?;
        self.count_limited(LimitKind::Files);
        Ok(())
    }

    pub(crate) fn count_limited(&self, limit: LimitKind) {
        self.metrics.count_limited(limit, LimitMode::Enforce);
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// Why this node can take no more clients, if it has run out of files.
    pub(crate) fn shortage(&self) -> Option<String> {
        let FileBudget { limit, clients, .. } = self.files;
        (self.clients.len() >= clients).then(|| {
            let unauthenticated = self.metrics.unauthenticated.get();
            format!(
                "no files are left for more clients: they have {clients} of {limit} that this process may open, and \
                 {unauthenticated} of them have not authenticated; raise the limit of open files"
            )
        })
    }
}

/// A client connection that has not authenticated yet. It gives its slot back once it has, or when this is
/// dropped.
pub(crate) struct PendingConnection {
    slot: Slot,
    pub address: IpAddr,
    limits: Arc<ClientLimits>,
}

impl PendingConnection {
    /// Runs `work` for the connection. `None`: the connection was evicted.
    pub(crate) async fn run<F: Future>(&self, work: F) -> Option<F::Output> {
        self.slot.run(work).await
    }

    /// Gives the slot back, because the connection has authenticated.
    pub(crate) fn release_slot(&self) {
        if self.slot.release() {
            self.limits.metrics.unauthenticated.dec();
        }
    }

    /// Why clients at this address may not try a key now. `None`: they may.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        if self.limits.is_trusted(self.address) {
            return None;
        }
        let wait = self.limits.failures.wait(self.address)?;
        self.limits.count_limited(LimitKind::AddressFailures);
        let message =
            format!("too many invalid keys from {}; try again later", AddressGroup::of(self.address));
        Some(Refusal::retry(ErrorCode::RateLimited, message, wait.as_millis() as u64 + 1))
    }

    /// Counts a refused key, and returns when the answer may be sent.
    pub(crate) async fn key_refused(&self, code: ErrorCode) {
        let is_trusted = self.limits.is_trusted(self.address);
        self.limits.failures.refused(self.address, is_trusted, code).await;
    }
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        self.release_slot();
    }
}
