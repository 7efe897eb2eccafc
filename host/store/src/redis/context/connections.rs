//! How many connections each principal has, on this node and on all.

use crate::{
    Permit, RESPONSE_TIMEOUT, Unavailable,
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
        scripts::{
            clock::server_time,
            connections::{SlotReply, SlotRequest, acquire_slot, write_count},
        },
    },
};
use futures_util::future::try_join_all;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

/// How long changes of a count gather.
const GATHER: Duration = Duration::from_millis(100);
/// Counts that are written at a time.
const AT_ONCE: usize = 64;
/// After a count that could not be written: with what was waited for it, as long as it may be written late.
const PAUSE: Duration = Duration::from_millis(500);
const _: () = assert!(RESPONSE_TIMEOUT.as_millis() + PAUSE.as_millis() >= WRITE_VALIDITY.as_millis());

pub(crate) struct ClusterConnectionCounts {
    link: Arc<Link>,
    names: Names,
    node: Arc<NodeName>,
    owned: Arc<OwnedEntries>,
    redis_clock: Arc<RedisClock>,
    lease_expiry: Arc<LeaseExpiry>,
    counts: ConnectionCounts,
    state: Mutex<State>,
    at_once: Semaphore,
    /// Rung when nothing waits to be written.
    written: Notify,
}

#[derive(Default)]
struct State {
    /// Principals whose count is being written; whether it changed again meanwhile.
    writing: HashMap<Arc<str>, bool>,
    /// Principals in the owned, under which of this node's names.
    noted: HashSet<Arc<str>>,
    under: Arc<String>,
}

/// A connection that is counted before Redis was asked whether there is a slot for it. Whoever drops it has none.
pub(crate) struct SlotAttempt {
    connections: Arc<ClusterConnectionCounts>,
    principal: Arc<str>,
    /// With this one, on this node.
    own: u32,
    most: u32,
    outcome: SlotOutcome,
}

#[derive(Clone, Copy, PartialEq)]
enum SlotOutcome {
    /// The count may have been written.
    Unknown,
    Refused,
    Taken,
}

impl SlotAttempt {
    /// What Redis is asked for.
    pub(crate) fn request(&self) -> SlotRequest {
        SlotRequest { own: self.own, most: self.most }
    }

    pub(crate) fn granted(mut self) -> Permit {
        self.outcome = SlotOutcome::Taken;
        Permit::new(self.principal.clone(), self.connections.clone())
    }

    /// Nothing was written.
    pub(crate) fn refused(mut self) {
        self.outcome = SlotOutcome::Refused;
    }
}

impl Drop for SlotAttempt {
    fn drop(&mut self) {
        let Self { connections, principal, outcome, .. } = self;
        if *outcome != SlotOutcome::Taken {
            connections.counts.subtract(principal);
        }
        // Counts cross one another on the way: what is so in the end is written afterwards.
        if *outcome != SlotOutcome::Refused {
            connections.recount(principal);
        }
    }
}

impl ConnectionSlots for ClusterConnectionCounts {
    fn release(self: Arc<Self>, principal: &Arc<str>) {
        self.counts.subtract(principal);
        self.recount(principal);
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
            at_once: Semaphore::new(AT_ONCE),
            written: Notify::new(),
        })
    }

    /// Counts one more, which has no slot yet.
    pub(crate) fn ask(self: &Arc<Self>, principal: &Arc<str>, most: u32) -> SlotAttempt {
        let (connections, principal) = (self.clone(), principal.clone());
        let own = self.counts.add(&principal);
        SlotAttempt { connections, principal, own, most, outcome: SlotOutcome::Unknown }
    }

    /// A slot for one more. Whoever stops waiting has none.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        principal: &Arc<str>,
        most: u32,
    ) -> Result<Result<Permit, u32>, Unavailable> {
        let asked = self.ask(principal, most);
        // Those of this node alone are too many, whatever others have.
        if asked.own > most {
            let others = asked.own - 1;
            asked.refused();
            return Ok(Err(others));
        }
        let began = Instant::now();
        let mut taken = self.ask_for_slot(&asked).await?;
        // What is late at once is so by a clock that was set.
        if matches!(taken, SlotReply::Late) && began.elapsed() < RESPONSE_TIMEOUT {
            self.redis_clock.observe(server_time(&self.link, self.names.clock()).await?);
            taken = self.ask_for_slot(&asked).await?;
        }
        match taken {
            SlotReply::Acquired => Ok(Ok(asked.granted())),
            SlotReply::Late => Err(late()),
            SlotReply::Full(count) => {
                asked.refused();
                Ok(Err(count))
            }
        }
    }

    async fn ask_for_slot(&self, asked: &SlotAttempt) -> Result<SlotReply, Unavailable> {
        let (deadline, node) = (self.deadline(), self.node.get());
        self.note(&node, &asked.principal).await?;
        acquire_slot(&self.link, &self.names, &asked.principal, &node, deadline, asked.request()).await
    }

    /// All counts are written again.
    pub(crate) fn rewrite(self: &Arc<Self>) {
        self.state().noted.clear();
        self.counts.principals().iter().for_each(|principal| self.recount(principal));
    }

    /// This node goes on under another name, and the former one is on the list of the dead. A count may still arrive under that name
    /// after its owned was lost or cleared away, so the principals are put there again, and the name is listed once more.
    pub(crate) fn node_renamed(self: &Arc<Self>, former: Arc<String>) {
        let mut principals: BTreeSet<_> = self.counts.principals().into_iter().collect();
        {
            let state = self.state();
            principals.extend(state.noted.iter().chain(state.writing.keys()).cloned());
        }
        self.rewrite();
        if !principals.is_empty() {
            tokio::spawn(self.clone().leave(former, principals));
        }
    }

    async fn leave(self: Arc<Self>, former: Arc<String>, principals: BTreeSet<Arc<str>>) {
        tokio::time::sleep(WRITE_VALIDITY).await;
        loop {
            let left = principals.iter().map(|principal| self.owned.add(&former, principal.to_string()));
            let listed = async {
                try_join_all(left).await?;
                let entry = vec![self.names.dead().into(), "0".into(), former.as_str().into()];
                self.link.command("ZADD", entry).await
            };
            match listed.await {
                Ok(_) => return,
                Err(error) => tracing::debug!(%error, "what was counted under a former name is left later"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// When a count must be written at the latest: before others may take this node for dead, because they clear its name away only
    /// once. Ask for it before the node's name.
    fn deadline(&self) -> u64 {
        self.redis_clock.micros_at(self.lease_expiry.end().min(Instant::now() + WRITE_VALIDITY)) / 1000
    }

    /// Writes the count of a principal, soon.
    pub(crate) fn recount(self: &Arc<Self>, principal: &Arc<str>) {
        let mut state = self.state();
        if let Some(again) = state.writing.get_mut(principal) {
            *again = true;
            return;
        }
        state.writing.insert(principal.clone(), false);
        drop(state);
        tokio::spawn(self.clone().write(principal.clone()));
    }

    async fn write(self: Arc<Self>, principal: Arc<str>) {
        let mut pause = GATHER;
        loop {
            tokio::time::sleep(pause).await;
            self.state().writing.insert(principal.clone(), false);
            let written = {
                let _turn = self.at_once.acquire().await.expect("it is never closed");
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
                Ok(()) => pause = GATHER,
                Err(error) => {
                    tracing::debug!(%error, "a number of connections is written later");
                    pause = PAUSE;
                }
            }
        }
    }

    async fn write_once(&self, principal: &Arc<str>) -> Result<(), Unavailable> {
        let (deadline, node) = (self.deadline(), self.node.get());
        if self.counts.of(principal) > 0 {
            self.note(&node, principal).await?;
        }
        let count = self.counts.of(principal);
        if !write_count(&self.link, &self.names, principal, &node, count, deadline).await? {
            return Err(late());
        }
        if count == 0 {
            self.owned.remove(&node, principal.to_string()).await?;
            let mut state = self.state();
            state.noted.remove(principal);
            // One that came meanwhile took it for noted.
            if self.counts.of(principal) > 0 {
                state.writing.insert(principal.clone(), true);
            }
        }
        Ok(())
    }

    /// Puts a principal among what this node would leave behind.
    pub(crate) async fn note(&self, node: &Arc<String>, principal: &Arc<str>) -> Result<(), Unavailable> {
        {
            let mut state = self.state();
            if state.under != *node {
                (state.under, state.noted) = (node.clone(), HashSet::new());
            }
            if state.noted.contains(principal) {
                return Ok(());
            }
        }
        self.owned.add(node, principal.to_string()).await?;
        let mut state = self.state();
        if state.under == *node {
            state.noted.insert(principal.clone());
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
        self.state.lock().expect("no code panics while it holds the counts")
    }
}

fn late() -> Unavailable {
    Unavailable("Redis does not answer in time".to_owned())
}
