//! What clients may use of a node: connection slots, file descriptors, connections of one address and failed keys
//! before their principal is known, and then the budget of their principal. Knows no listener and no socket.

mod address_connections;
mod address_limits;
mod address_table;
mod budget;
mod budgets;
mod connects;
mod failures;
mod files;
mod network;
mod pending_connection;
mod proxies;
mod refusal_log;
mod slots;
mod token_bucket;

pub(crate) use crate::limit_mode::LimitMode;
pub(crate) use crate::rate::{ByteRate, Rate};
pub(crate) use address_connections::CountedConnection;
pub(crate) use budget::{Budget, TierRate};
pub(crate) use budgets::Budgets;
pub(crate) use failures::KeyFailures;
pub(crate) use files::FileBudget;
pub use files::raise_file_limit;
pub(crate) use network::IpNetwork;
pub(crate) use pending_connection::PendingConnection;
pub(crate) use proxies::ProxyHeader;
pub(crate) use slots::{EvictionGuard, NoSlot, Slot, Slots};
pub(crate) use switchyard_store::denial::AddressRange;
pub(crate) use token_bucket::TokenBucket;

use crate::metrics::{LimitKind, Metrics};
use address_limits::AddressLimits;
use pending_connection::PendingClient;
use proxies::TrustedProxies;
use serde::Deserialize;
use std::{net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Whether limits by address, and the rates of tiers, refuse what exceeds them or only count it.
    pub mode: LimitMode,
    /// Proxies. Many clients connect from one of their addresses, so no limit by address applies to them.
    pub trusted: Vec<IpNetwork>,
    /// Where trusted proxies name their clients, to which the limits by address apply then. `None`: nowhere, so
    /// the clients behind proxies have no limits by address.
    pub header: Option<ProxyHeader>,
    /// How many connections of the node may be unauthenticated at a time.
    pub unauthenticated: NonZeroUsize,
    /// Limits for a single address.
    pub address: AddressConfig,
}

/// `[limits.address]`: limits for one IPv4 address, or for one IPv6 /64. `None` means no limit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AddressConfig {
    /// How many live connections it may have, authenticated or not.
    pub connections: Option<NonZeroUsize>,
    /// How many of its connections may be unauthenticated at a time.
    pub unauthenticated: Option<NonZeroUsize>,
    /// How often it may connect.
    pub connects: Option<Rate>,
    /// How often it may present an invalid key. Beyond that its upgrades are refused.
    pub failures: Option<Rate>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            mode: LimitMode::default(),
            trusted: vec![],
            header: None,
            unauthenticated: NonZeroUsize::new(1000).expect("not zero"),
            address: AddressConfig::default(),
        }
    }
}

/// The limits of the clients' listener.
pub(crate) struct ClientLimits {
    proxies: TrustedProxies,
    addresses: AddressLimits,
    slots: Arc<Slots>,
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
        let max_per_address = config.address.unauthenticated.map(NonZeroUsize::get);
        Arc::new(Self {
            proxies: TrustedProxies::new(config.trusted.clone(), config.header),
            addresses: AddressLimits::new(config, metrics.clone()),
            slots: Slots::new(config.unauthenticated.get(), max_per_address, EVICTION_GRACE),
            files,
            clients: TaskTracker::new(),
            metrics,
        })
    }

    /// Waits for a slot for a connection that was just accepted. If all are taken, a connection that waits
    /// for its peer is evicted. `can_answer` tells whether a refusal can be answered without a TLS handshake.
    /// `None`: close the connection.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        peer: SocketAddr,
        can_answer: bool,
    ) -> Option<PendingConnection> {
        let group = AddressRange::of(peer.ip());
        let mut is_exempt = self.proxies.contains(peer.ip());
        let mut client = PendingClient { address: peer, counted: None, refusal: None };
        if !is_exempt {
            match self.addresses.connect(group) {
                Ok(counted) => client.counted = counted,
                // Nobody is evicted for an answer to it.
                Err(refusal) if can_answer && self.has_room() => client.refusal = Some(refusal),
                Err(_) => return None,
            }
        }
        loop {
            let freed = self.slots.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let retry_at = match self.reserve_file() {
                Ok(()) => match self.slots.acquire(group, is_exempt) {
                    Ok((slot, has_evicted)) => {
                        if has_evicted {
                            self.count_limited(LimitKind::Unauthenticated);
                        }
                        return Some(PendingConnection::new(slot, peer, client, self.clone()));
                    }
                    Err(NoSlot::AddressLimit) => {
                        self.addresses.unauthenticated_exceeded(group).ok()?;
                        is_exempt = true;
                        continue;
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

    /// Whether a connection can be admitted without evicting another.
    fn has_room(&self) -> bool {
        self.clients.len() < self.files.clients && self.slots.has_room()
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

    /// Whether one of the addresses in a range is a trusted proxy.
    pub(crate) fn trusts_some_of(&self, range: AddressRange) -> bool {
        self.proxies.overlap(range)
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
