//! What strangers may take of a node: places for connections that have not authenticated, files, and wrong keys. Knows no
//! listener and no socket.

mod address;
mod failures;
mod files;
mod rate;
mod slots;
mod token_bucket;

pub(crate) use address::{Group, Network};
pub(crate) use failures::Failures;
pub(crate) use files::Files;
pub use files::raise_file_limit;
pub(crate) use rate::Rate;
pub(crate) use slots::{Busy, Full, Slot, Slots};
pub(crate) use token_bucket::TokenBucket;

use crate::metrics::{Limited, Listener, Metrics};
use serde::Deserialize;
use std::{net::IpAddr, num::NonZeroUsize, sync::Arc, time::Duration};
use switchyard_protocol::{ErrorCode, Refusal};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Proxies: many clients come from one of their addresses, so nothing is limited by it.
    pub trusted: Vec<Network>,
    /// Connections in all that have not authenticated yet.
    pub unauthenticated: NonZeroUsize,
    pub address: AddressConfig,
}

/// `[limits.address]`: of an IPv4 address, or of an IPv6 /64.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AddressConfig {
    pub unauthenticated: Option<NonZeroUsize>,
    /// Keys that are not good; beyond, connects are refused.
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

/// The limits of a node's listener for clients.
pub(crate) struct Limits {
    trusted: Vec<Network>,
    slots: Arc<Slots>,
    failures: Failures,
    pub files: Files,
    /// The tasks of all clients' connections: as many as they have files.
    pub clients: TaskTracker,
    metrics: Metrics,
}

/// A client that means well is through within a few round trips.
const GRACE: Duration = Duration::from_secs(1);
/// Clients beyond the files that they may have: those that made room may not have gone yet. Beyond it they are waited for.
const OVERLAP: usize = 16;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Limits {
    pub(crate) fn new(config: &LimitsConfig, files: Files, metrics: Metrics) -> Arc<Self> {
        let LimitsConfig { trusted, unauthenticated, address } = config;
        let by_address = address.unauthenticated.map(NonZeroUsize::get);
        Arc::new(Self {
            trusted: trusted.clone(),
            slots: Slots::new(unauthenticated.get(), by_address, GRACE),
            failures: Failures::new(address.failures, Listener::Clients, metrics.clone()),
            files,
            clients: TaskTracker::new(),
            metrics,
        })
    }

    /// A place for a connection that was just accepted, as soon as there is one: where there is none, the one of its address'
    /// or another's that waits for its peer longest makes room. `None`: it is to be closed.
    pub(crate) async fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Unauthenticated> {
        let group = Group::of(address);
        let is_trusted = self.is_trusted(address);
        loop {
            let freed = self.slots.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let wait = match self.room_in_files() {
                Ok(()) => match self.slots.take(group, is_trusted) {
                    Ok((slot, made_room)) => {
                        if made_room {
                            self.limited(Limited::Unauthenticated);
                        }
                        self.metrics.unauthenticated.inc();
                        return Some(Unauthenticated { slot, address, limits: self.clone() });
                    }
                    Err(Full::Address) => {
                        self.limited(Limited::AddressUnauthenticated);
                        return None;
                    }
                    Err(Full::Until(then)) => then,
                },
                Err(None) => {
                    self.limited(Limited::Files);
                    return None;
                }
                Err(Some(then)) => then,
            };
            tokio::select! {
                () = freed => {}
                () = sleep_until(wait) => {}
            }
        }
    }

    /// `Err`: when somebody may make room, if ever.
    fn room_in_files(&self) -> Result<(), Option<Instant>> {
        let (clients, most) = (self.clients.len(), self.files.clients);
        if clients < most {
            return Ok(());
        }
        if clients >= most.saturating_add(OVERLAP) {
            return Err(Some(Instant::now() + LOOK_AGAIN));
        }
        match self.slots.make_room() {
            Ok(()) => {
                self.limited(Limited::Files);
                Ok(())
            }
            Err(then) => Err(then),
        }
    }

    pub(crate) fn limited(&self, limit: Limited) {
        self.metrics.limited(limit);
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// What this node cannot do for want of files, where that is so.
    pub(crate) fn shortage(&self) -> Option<String> {
        let Files { limit, clients, .. } = self.files;
        (self.clients.len() >= clients).then(|| {
            let strangers = self.metrics.unauthenticated.get();
            format!(
                "no files are left for more clients: they have {clients}, of {limit} that this process may open, and {strangers} of them have not authenticated; raise its limit of open files"
            )
        })
    }
}

/// A client's connection that has not authenticated yet, with its place, which it leaves when it has or when this is dropped.
pub(crate) struct Unauthenticated {
    slot: Slot,
    pub address: IpAddr,
    limits: Arc<Limits>,
}

impl Unauthenticated {
    /// Does this for the connection; `None`: it had to make room for another.
    pub(crate) async fn run<F: Future>(&self, work: F) -> Option<F::Output> {
        self.slot.run(work).await
    }

    /// It has, or is gone.
    pub(crate) fn authenticated(&self) {
        if self.slot.leave() {
            self.limits.metrics.unauthenticated.dec();
        }
    }

    /// Why nobody from its address may try a key now.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        if self.limits.is_trusted(self.address) {
            return None;
        }
        let wait = self.limits.failures.wait(self.address)?;
        self.limits.limited(Limited::AddressFailures);
        let message =
            format!("too many keys from {} were not good; try again later", Group::of(self.address));
        Some(Refusal::retry(ErrorCode::RateLimited, message, wait.as_millis() as u64 + 1))
    }

    /// Counts a key that was refused, and returns when its answer may be given.
    pub(crate) async fn refused(&self, code: ErrorCode) {
        let is_trusted = self.limits.is_trusted(self.address);
        self.limits.failures.refused(self.address, is_trusted, code).await;
    }
}

impl Drop for Unauthenticated {
    fn drop(&mut self) {
        self.authenticated();
    }
}
