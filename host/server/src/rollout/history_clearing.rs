//! Clears the history of rooms that change their plugin, if an operator wants that: it may hold what the new plugin
//! would not have let through. Does not decide which rooms change.

use super::Rollout;
use crate::audit::{Actor, AuditAction, AuditEvent};
use futures_util::future::try_join_all;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use switchyard_process::lock::LockExt;
use switchyard_protocol::room::RoomName;
use switchyard_store::{Governance, Unavailable, governing_slot};
use tokio_util::task::AbortOnDropHandle;

/// How many rooms are read from the directory at a time.
const PAGE_ROOMS: usize = 1000;
/// When clearing is tried again after a failure of the store.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How many rooms are cleared at a time.
const CONCURRENT_ROOMS: usize = 64;

/// The history that an announced change clears.
pub(super) struct HistoryClearing {
    /// The record that announces it.
    announced_by: u64,
    is_done: Arc<AtomicBool>,
    task: AbortOnDropHandle<()>,
}

impl Rollout {
    /// Whether the announced change may take effect as far as its history is concerned. If it is this node's turn to
    /// clear it, this starts that in the background: call this again. All nodes have closed the rooms by now, so
    /// nothing is added to them meanwhile.
    pub(super) fn is_history_cleared(
        self: &Arc<Self>,
        record: &Arc<Governance>,
        live: &BTreeSet<String>,
    ) -> bool {
        let Some(clearer) = &record.history_cleared_by else { return true };
        let node = self.governance.node();
        let is_successor = || !live.contains(clearer) && live.first().is_some_and(|first| first == node);
        if clearer != node && !is_successor() {
            return false;
        }
        let mut clearing = self.clearing.locked();
        if let Some(known) = clearing.as_ref().filter(|known| known.announced_by == record.id) {
            if known.is_done.load(Ordering::Acquire) {
                return true;
            }
            if !known.task.is_finished() {
                return false;
            }
        }
        let (rollout, record, is_done) = (self.clone(), record.clone(), Arc::new(AtomicBool::new(false)));
        let (announced_by, done) = (record.id, is_done.clone());
        let clear = async move {
            match rollout.clear_history(&record).await {
                Ok(Some(rooms)) => {
                    let event = AuditEvent::new(Actor::Node, AuditAction::HistoryClear, "rooms");
                    rollout.hub.audit.record(&event.detail("rooms", rooms));
                    done.store(true, Ordering::Release);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "the history of rooms cannot be cleared yet; trying again");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        };
        *clearing = Some(HistoryClearing {
            announced_by,
            is_done,
            task: AbortOnDropHandle::new(tokio::spawn(clear)),
        });
        false
    }

    /// Returns how many rooms had messages. `None` if the record has changed meanwhile: usually, another node has cleared
    /// the rest and completed the change.
    async fn clear_history(&self, record: &Governance) -> Result<Option<usize>, Unavailable> {
        let next = record.announced.as_ref().unwrap_or(&record.slots);
        let store = &self.hub.store;
        let (mut after, mut cleared) = (String::new(), 0);
        loop {
            // Another node may have taken this over meanwhile, and the rooms may be open again.
            if self.governance_registry().governance(Some(record.id)).await?.is_some() {
                return Ok(None);
            }
            let page = store.rooms.list(&after, PAGE_ROOMS).await?;
            let Some(last) = page.last() else { return Ok(Some(cleared)) };
            after = last.room.to_string();
            let with_history = page.iter().filter(|room| room.messages > 0);
            let rooms =
                with_history.filter_map(|room| Some((RoomName::parse(&room.room).ok()?, &room.epoch)));
            let changes = |(room, _): &(RoomName, _)| {
                let governor = |slots| governing_slot(slots, room).map(|slot| &slot.name);
                governor(&record.slots) != governor(next)
            };
            let rooms: Vec<_> = rooms.filter(changes).collect();
            for rooms in rooms.chunks(CONCURRENT_ROOMS) {
                try_join_all(rooms.iter().map(|(room, epoch)| store.broker.clear_history(room, epoch)))
                    .await?;
            }
            cleared += rooms.len();
        }
    }
}
