//! How many connections each principal has, on this node and on all nodes.

mod slot_attempt;

pub(crate) use slot_attempt::SlotAttempt;

use crate::{
    RESPONSE_TIMEOUT, SlotResult, Unavailable,
    connection_counts::ConnectionCounts,
    permit::ConnectionSlots,
    redis::{
        context::{
            lease_expiry::LeaseExpiry,
            node_name::NodeName,
            owned_entries::OwnedEntries,
            redis_clock::{RedisClock, WRITE_VALIDITY},
        },
        link::Link,
        names::Names,
        owned_entry::OwnedEntry,
        scripts::{
            clock::server_time,
            connections::{SlotReply, SlotRequest, acquire_slot, write_count},
        },
        timeouts::too_late,
    },
};
use futures_util::future::try_join_all;
use slot_attempt::SlotOutcome;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    mem,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use switchyard_process::lock::LockExt;
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

/// How long changes of a count are collected before it is written.
const COALESCE_DELAY: Duration = Duration::from_millis(100);
/// How many counts are written at a time.
const MAX_CONCURRENT_WRITES: usize = 64;
/// The delay before a count that could not be written is tried again. Together with the time that its caller
/// waited, it is as long as a write stays valid, so the next write cannot be overtaken by this one.
const RETRY_DELAY: Duration = Duration::from_millis(500);
const _: () = assert!(RESPONSE_TIMEOUT.as_millis() + RETRY_DELAY.as_millis() >= WRITE_VALIDITY.as_millis());

pub(crate) struct ClusterConnectionCounts {
    link: Arc<Link>,
    names: Names,
    node: Arc<NodeName>,
    owned: Arc<OwnedEntries>,
    redis_clock: Arc<RedisClock>,
    lease_expiry: Arc<LeaseExpiry>,
    counts: ConnectionCounts,
    state: Mutex<State>,
    write_permits: Semaphore,
    /// Notified when no count is waiting to be written.
    written: Notify,
}

#[derive(Default)]
struct State {
    /// The principals whose count is being written, and whether it has changed since the write began.
    writing: HashMap<Arc<str>, bool>,
    /// The principals that are in this node's set of owned entries, and the node name they are listed under.
    listed: HashSet<Arc<str>>,
    listed_under: Arc<String>,
}

impl ConnectionSlots for ClusterConnectionCounts {
    fn release(self: Arc<Self>, principal: &Arc<str>) {
        self.counts.subtract(principal);
        self.schedule_write(principal);
    }
}

impl ClusterConnectionCounts {
    pub(crate) fn new(
        link: &Arc<Link>,
        names: &Names,
        node: &Arc<NodeName>,
        owned: &Arc<OwnedEntries>,
        redis_clock: &Arc<RedisClock>,
        lease_expiry: &Arc<LeaseExpiry>,
    ) -> Arc<Self> {
        Arc::new(Self {
            link: link.clone(),
            names: names.clone(),
            node: node.clone(),
            owned: owned.clone(),
            redis_clock: redis_clock.clone(),
            lease_expiry: lease_expiry.clone(),
            counts: ConnectionCounts::default(),
            state: Mutex::default(),
            write_permits: Semaphore::new(MAX_CONCURRENT_WRITES),
            written: Notify::new(),
        })
    }

    /// Counts a connection that has no slot yet.
    pub(crate) fn attempt(self: &Arc<Self>, principal: &Arc<str>, max_connections: u32) -> SlotAttempt {
        let (connections, principal) = (self.clone(), principal.clone());
        let own = self.counts.add(&principal);
        SlotAttempt { connections, principal, own, max_connections, outcome: SlotOutcome::Unknown }
    }

    /// What a new connection would ask Redis for. Does not count it.
    pub(crate) fn prospective_request(&self, principal: &str, max_connections: u32) -> SlotRequest {
        SlotRequest { own: self.counts.of(principal) + 1, max_connections }
    }

    /// Acquires a slot for a connection. If the caller stops waiting, it has none.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        principal: &Arc<str>,
        max_connections: u32,
    ) -> Result<SlotResult, Unavailable> {
        let attempt = self.attempt(principal, max_connections);
        // This node alone has reached the limit, whatever other nodes have.
        if attempt.own > max_connections {
            let others = attempt.own - 1;
            attempt.refused();
            return Ok(SlotResult::LimitReached(others));
        }
        let began = Instant::now();
        let mut reply = self.request_slot(&attempt).await?;
        // A refusal as too late that arrives quickly means that the clock was set, so learn the time and try
        // again.
        if matches!(reply, SlotReply::Late) && began.elapsed() < RESPONSE_TIMEOUT {
            self.redis_clock.observe(server_time(&self.link, self.names.clock()).await?);
            reply = self.request_slot(&attempt).await?;
        }
        match reply {
            SlotReply::Acquired => Ok(SlotResult::Acquired(attempt.granted())),
            SlotReply::Late => Err(too_late()),
            SlotReply::Full(count) => {
                attempt.refused();
                Ok(SlotResult::LimitReached(count))
            }
        }
    }

    async fn request_slot(&self, attempt: &SlotAttempt) -> Result<SlotReply, Unavailable> {
        let (deadline, node) = (self.deadline(), self.node.get());
        self.list(&node, &attempt.principal).await?;
        acquire_slot(&self.link, &self.names, &attempt.principal, &node, deadline, attempt.request()).await
    }

    /// Writes all counts again.
    pub(crate) fn rewrite(self: &Arc<Self>) {
        self.state().listed.clear();
        self.counts.principals().for_each(|principal| self.schedule_write(&principal));
    }

    /// This node continues under another name, and its former name is on the list of dead nodes. A count may
    /// still be written under the former name after what that name owned was removed. So the principals are
    /// listed under it again, and so is the name itself.
    pub(crate) fn node_renamed(self: &Arc<Self>, former: Arc<String>) {
        let mut principals: BTreeSet<_> = self.counts.principals().collect();
        // Under the new name, none of them is listed.
        let (listed, writing) = {
            let mut state = self.state();
            (mem::take(&mut state.listed), state.writing.keys().cloned().collect::<Vec<_>>())
        };
        principals.extend(listed.into_iter().chain(writing));
        self.rewrite();
        if !principals.is_empty() {
            tokio::spawn(self.clone().relist_former(former, principals));
        }
    }

    async fn relist_former(self: Arc<Self>, former: Arc<String>, principals: BTreeSet<Arc<str>>) {
        tokio::time::sleep(WRITE_VALIDITY).await;
        loop {
            let entries = principals
                .iter()
                .map(|principal| self.owned.add(&former, OwnedEntry::ConnectionCount { principal }));
            let relisted = async {
                try_join_all(entries).await?;
                let entry = vec![self.names.dead().into(), "0".into(), former.as_str().into()];
                self.link.command("ZADD", entry).await
            };
            match relisted.await {
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(%error, "could not list the connections of a former name; trying again")
                }
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    /// The deadline for writing a count: before other nodes may consider this node dead, because they remove
    /// its counts only once. Read it before the node's name.
    fn deadline(&self) -> u64 {
        self.redis_clock.micros_at(self.lease_expiry.end().min(Instant::now() + WRITE_VALIDITY)) / 1000
    }

    /// Starts writing the count of a principal.
    pub(crate) fn schedule_write(self: &Arc<Self>, principal: &Arc<str>) {
        let mut state = self.state();
        if let Some(has_changed) = state.writing.get_mut(principal) {
            *has_changed = true;
            return;
        }
        state.writing.insert(principal.clone(), false);
        drop(state);
        tokio::spawn(self.clone().write(principal.clone()));
    }

    async fn write(self: Arc<Self>, principal: Arc<str>) {
        let mut delay = COALESCE_DELAY;
        loop {
            tokio::time::sleep(delay).await;
            self.state().writing.insert(principal.clone(), false);
            let written = {
                let _permit = self.write_permits.acquire().await.expect("the semaphore is never closed");
                self.write_once(&principal).await
            };
            let mut state = self.state();
            match written {
                Ok(()) if state.writing.get(&principal) == Some(&false) => {
                    state.writing.remove(&principal);
                    if state.writing.is_empty() {
                        self.written.notify_waiters();
                    }
                    return;
                }
                Ok(()) => delay = COALESCE_DELAY,
                Err(error) => {
                    tracing::debug!(%error, "could not write a count of connections; trying again");
                    delay = RETRY_DELAY;
                }
            }
        }
    }

    async fn write_once(&self, principal: &Arc<str>) -> Result<(), Unavailable> {
        let (deadline, node) = (self.deadline(), self.node.get());
        if self.counts.of(principal) > 0 {
            self.list(&node, principal).await?;
        }
        let count = self.counts.of(principal);
        if !write_count(&self.link, &self.names, principal, &node, count, deadline).await? {
            return Err(too_late());
        }
        if count == 0 {
            self.owned.remove(&node, OwnedEntry::ConnectionCount { principal }).await?;
            let mut state = self.state();
            state.listed.remove(principal);
            // A connection that was counted meanwhile still took the principal for listed.
            if self.counts.of(principal) > 0 {
                state.writing.insert(principal.clone(), true);
            }
        }
        Ok(())
    }

    /// Adds a principal to what the node owns, so that its count is removed if the node dies.
    pub(crate) async fn list(&self, node: &Arc<String>, principal: &Arc<str>) -> Result<(), Unavailable> {
        {
            let mut state = self.state();
            if state.listed_under != *node {
                (state.listed_under, state.listed) = (node.clone(), HashSet::new());
            }
            if state.listed.contains(principal) {
                return Ok(());
            }
        }
        self.owned.add(node, OwnedEntry::ConnectionCount { principal }).await?;
        let mut state = self.state();
        if state.listed_under == *node {
            state.listed.insert(principal.clone());
        }
        Ok(())
    }

    /// Waits until all counts are written.
    pub(crate) async fn written(&self) {
        loop {
            let written = self.written.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if self.state().writing.is_empty() {
                return;
            }
            written.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }
}
