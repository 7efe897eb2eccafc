//! What this node would leave behind, and the list of sessions that end: written before what they are about, so that whatever
//! becomes of this node, another finds it.

use crate::{
    ConnectionId, Unavailable,
    redis::{
        answer, context::batcher::Batcher, link::Link, names::Names, scripts::schedules,
        session_id::SessionId,
    },
};
use fred::types::Value;
use futures_util::future::join_all;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
};

pub(crate) struct OwnedEntries {
    /// By node.
    added: Batcher<Arc<String>, String, ()>,
    removed: Batcher<Arc<String>, String, ()>,
    /// With the times at which they end.
    ends: Batcher<(), (String, u64), ()>,
    struck: Batcher<(), (String, u64), ()>,
    /// Entries of nothing that may be there all the same.
    strays: Mutex<HashSet<(Arc<String>, String)>>,
}

/// Strays that are remembered; beyond, some stay until the node stops.
const MOST_STRAYS: usize = 100_000;

impl OwnedEntries {
    pub(crate) fn new(link: &Arc<Link>, names: &Names) -> Self {
        let change = |command: &'static str| {
            let (link, names) = (link.clone(), names.clone());
            Batcher::new(move |node: Arc<String>, entries: Vec<String>| {
                let (link, key) = (link.clone(), names.estate(&node));
                async move {
                    let count = entries.len();
                    let arguments =
                        [Value::from(key)].into_iter().chain(entries.into_iter().map(Value::from));
                    link.command(command, arguments.collect()).await?;
                    Ok(vec![(); count])
                }
            })
        };
        let (to, key) = (link.clone(), names.ends());
        let ends = Batcher::new(move |(), entries: Vec<(String, u64)>| {
            let (link, key) = (to.clone(), key.clone());
            async move {
                let mut arguments = vec![Value::from(key)];
                for (entry, end) in &entries {
                    arguments.extend([answer::integer(*end), Value::from(entry.as_str())]);
                }
                link.command("ZADD", arguments).await?;
                Ok(vec![(); entries.len()])
            }
        });
        let (to, key) = (link.clone(), names.ends());
        let struck = Batcher::new(move |(), entries: Vec<(String, u64)>| {
            let (link, key) = (to.clone(), key.clone());
            async move {
                schedules::remove(&link, key, &entries).await?;
                Ok(vec![(); entries.len()])
            }
        });
        Self { added: change("SADD"), removed: change("SREM"), ends, struck, strays: Mutex::default() }
    }

    /// A principal, or a session with the connection that holds it.
    pub(crate) async fn add(&self, node: &Arc<String>, entry: String) -> Result<(), Unavailable> {
        self.added.submit(node.clone(), entry).await
    }

    pub(crate) async fn remove(&self, node: &Arc<String>, entry: String) -> Result<(), Unavailable> {
        self.removed.submit(node.clone(), entry).await
    }

    /// What came to nothing before Redis was told of it: its entry is removed when Redis answers again.
    pub(crate) fn remove_later(&self, node: &Arc<String>, entry: String) {
        let mut strays = self.strays();
        if strays.len() < MOST_STRAYS {
            strays.insert((node.clone(), entry));
        }
    }

    /// Removes what was to be forgotten. Whatever put it there was given up a while ago.
    pub(crate) async fn remove_strays(&self) {
        let strays = std::mem::take(&mut *self.strays());
        let removals = strays.into_iter().map(async |(node, entry)| {
            let removed = self.remove(&node, entry.clone()).await;
            removed.is_err().then_some((node, entry))
        });
        let left: Vec<_> = join_all(removals).await.into_iter().flatten().collect();
        self.strays().extend(left);
    }

    fn strays(&self) -> MutexGuard<'_, HashSet<(Arc<String>, String)>> {
        self.strays.lock().expect("no code panics while it holds them")
    }

    /// A session ends at a time, unless it is resumed.
    pub(crate) async fn schedule_end(&self, session: String, at: u64) -> Result<(), Unavailable> {
        self.ends.submit((), (session, at)).await
    }

    /// A session that was on the list with this score is seen to.
    pub(crate) async fn unschedule_end(&self, session: String, score: u64) -> Result<(), Unavailable> {
        self.struck.submit((), (session, score)).await
    }
}

/// As the list of those that end has it.
pub(crate) fn session_entry(principal: &str, id: SessionId) -> String {
    format!("{principal} {id}")
}

/// As the estate of a node has it.
pub(crate) fn held_entry(principal: &str, id: SessionId, connection: ConnectionId) -> String {
    format!("{principal} {id} {connection}")
}
