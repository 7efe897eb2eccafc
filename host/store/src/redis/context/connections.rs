//! How many connections each principal has, on this node and on all.

use crate::{
    PATIENCE, Permit, Unavailable,
    connection_counts::ConnectionCounts,
    permit::ConnectionSlots,
    redis::{
        context::{
            clock::{Clock, DEADLINE},
            estate::Estate,
            lease_time::Renewal,
            node_name::NodeName,
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
const _: () = assert!(PATIENCE.as_millis() + PAUSE.as_millis() >= DEADLINE.as_millis());

pub(crate) struct Connections {
    link: Arc<Link>,
    names: Names,
    node: Arc<NodeName>,
    estate: Arc<Estate>,
    time: Arc<Clock>,
    renewed: Arc<Renewal>,
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
    /// Principals in the estate, under which of this node's names.
    noted: HashSet<Arc<str>>,
    under: Arc<String>,
}

/// A connection that is counted before Redis was asked whether there is a slot for it. Whoever drops it has none.
pub(crate) struct Asked {
    connections: Arc<Connections>,
    principal: Arc<str>,
    /// With this one, on this node.
    own: u32,
    most: u32,
    outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    /// The count may have been written.
    Unknown,
    Refused,
    Taken,
}

impl Asked {
    /// What Redis is asked for.
    pub(crate) fn request(&self) -> SlotRequest {
        SlotRequest { own: self.own, most: self.most }
    }

    pub(crate) fn granted(mut self) -> Permit {
        self.outcome = Outcome::Taken;
        Permit::new(self.principal.clone(), self.connections.clone())
    }

    /// Nothing was written.
    pub(crate) fn refused(mut self) {
        self.outcome = Outcome::Refused;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Self { connections, principal, outcome, .. } = self;
        if *outcome != Outcome::Taken {
            connections.counts.subtract(principal);
        }
        // Counts cross one another on the way: what is so in the end is written afterwards.
        if *outcome != Outcome::Refused {
            connections.recount(principal);
        }
    }
}

impl ConnectionSlots for Connections {
    fn release(self: Arc<Self>, principal: &Arc<str>) {
        self.counts.subtract(principal);
        self.recount(principal);
    }
}

impl Connections {
    pub(crate) fn new(
        link: &Arc<Link>,
        names: &Names,
        node: &Arc<NodeName>,
        estate: &Arc<Estate>,
        time: &Arc<Clock>,
        renewed: &Arc<Renewal>,
    ) -> Arc<Self> {
        Arc::new(Self {
            link: link.clone(),
            names: names.clone(),
            node: node.clone(),
            estate: estate.clone(),
            time: time.clone(),
            renewed: renewed.clone(),
            counts: ConnectionCounts::default(),
            state: Mutex::default(),
            at_once: Semaphore::new(AT_ONCE),
            written: Notify::new(),
        })
    }

    /// Counts one more, which has no slot yet.
    pub(crate) fn ask(self: &Arc<Self>, principal: &Arc<str>, most: u32) -> Asked {
        let (connections, principal) = (self.clone(), principal.clone());
        let own = self.counts.add(&principal);
        Asked { connections, principal, own, most, outcome: Outcome::Unknown }
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
        if matches!(taken, SlotReply::Late) && began.elapsed() < PATIENCE {
            self.time.heard(server_time(&self.link, self.names.clock()).await?);
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

    async fn ask_for_slot(&self, asked: &Asked) -> Result<SlotReply, Unavailable> {
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
    /// after its estate was lost or cleared away, so the principals are put there again, and the name is listed once more.
    pub(crate) fn moved(self: &Arc<Self>, former: Arc<String>) {
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
        tokio::time::sleep(DEADLINE).await;
        loop {
            let left = principals.iter().map(|principal| self.estate.add(&former, principal.to_string()));
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
        self.time.at(self.renewed.end().min(Instant::now() + DEADLINE)) / 1000
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
            self.estate.remove(&node, principal.to_string()).await?;
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
        self.estate.add(node, principal.to_string()).await?;
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
