//! What this node owns in Redis, and the schedule of sessions that end. Entries are written before what they
//! describe, so that another node can clean up whatever happens to this one.

use crate::{
    Unavailable,
    redis::{
        arguments, context::batcher::Batcher, link::Link, names::Names, owned_entry::OwnedEntry,
        scripts::schedules, session_key::SessionKey,
    },
};
use fred::types::Value;
use futures_util::future::join_all;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
};
use switchyard_process::lock::LockExt;

pub(crate) struct OwnedEntries {
    /// By node.
    additions: Batcher<Arc<String>, String, ()>,
    removals: Batcher<Arc<String>, String, ()>,
    /// With the times when the sessions end.
    scheduled_ends: Batcher<(), (String, u64), ()>,
    unscheduled_ends: Batcher<(), (String, u64), ()>,
    /// Entries for something that was never created, which may be in the set nevertheless.
    strays: Mutex<HashSet<(Arc<String>, String)>>,
}

/// How many strays are remembered. Any more stay in the set until the node stops.
const MAX_STRAYS: usize = 100_000;

impl OwnedEntries {
    pub(crate) fn new(link: &Arc<Link>, names: &Names) -> Self {
        let change = |command: &'static str| {
            let (link, names) = (link.clone(), names.clone());
            Batcher::new(move |node: Arc<String>, entries: Vec<String>| {
                let (link, key) = (link.clone(), names.owned(&node));
                async move {
                    let count = entries.len();
                    let arguments =
                        [Value::from(key)].into_iter().chain(entries.into_iter().map(Value::from));
                    link.command(command, arguments.collect()).await?;
                    Ok(vec![(); count])
                }
            })
        };
        let (ends_link, key) = (link.clone(), names.ends());
        let scheduled_ends = Batcher::new(move |(), entries: Vec<(String, u64)>| {
            let (link, key) = (ends_link.clone(), key.clone());
            async move {
                let mut arguments = vec![Value::from(key)];
                for (entry, end) in &entries {
                    arguments.extend([arguments::integer(*end), Value::from(entry.as_str())]);
                }
                link.command("ZADD", arguments).await?;
                Ok(vec![(); entries.len()])
            }
        });
        let (ends_link, key) = (link.clone(), names.ends());
        let unscheduled_ends = Batcher::new(move |(), entries: Vec<(String, u64)>| {
            let (link, key) = (ends_link.clone(), key.clone());
            async move {
                schedules::remove(&link, key, &entries).await?;
                Ok(vec![(); entries.len()])
            }
        });
        Self {
            additions: change("SADD"),
            removals: change("SREM"),
            scheduled_ends,
            unscheduled_ends,
            strays: Mutex::default(),
        }
    }

    pub(crate) async fn add(&self, node: &Arc<String>, entry: OwnedEntry<'_>) -> Result<(), Unavailable> {
        self.additions.submit(node.clone(), entry.to_string()).await
    }

    pub(crate) async fn remove(&self, node: &Arc<String>, entry: OwnedEntry<'_>) -> Result<(), Unavailable> {
        self.removals.submit(node.clone(), entry.to_string()).await
    }

    /// Removes an entry later, because its session came to nothing. Used where Redis may not be reachable now.
    pub(crate) fn remove_later(&self, node: &Arc<String>, entry: OwnedEntry<'_>) {
        let mut strays = self.strays();
        if strays.len() < MAX_STRAYS {
            strays.insert((node.clone(), entry.to_string()));
        }
    }

    /// Removes the strays. The attempts that added them have been given up long enough ago.
    pub(crate) async fn remove_strays(&self) {
        let strays = std::mem::take(&mut *self.strays());
        let removals = strays.into_iter().map(async |(node, entry)| {
            let removed = self.removals.submit(node.clone(), entry.clone()).await;
            removed.is_err().then_some((node, entry))
        });
        let left: Vec<_> = join_all(removals).await.into_iter().flatten().collect();
        self.strays().extend(left);
    }

    fn strays(&self) -> MutexGuard<'_, HashSet<(Arc<String>, String)>> {
        self.strays.locked()
    }

    /// Schedules the end of a session, at which it is deleted unless it has been resumed.
    pub(crate) async fn schedule_end(&self, session: SessionKey<'_>, at: u64) -> Result<(), Unavailable> {
        self.scheduled_ends.submit((), (session.to_string(), at)).await
    }

    /// Removes an entry from the schedule, unless its score there has changed.
    pub(crate) async fn unschedule_end(&self, entry: String, score: u64) -> Result<(), Unavailable> {
        self.unscheduled_ends.submit((), (entry, score)).await
    }
}
