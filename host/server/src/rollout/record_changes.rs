//! Reading and replacing the record of governance for operators: waiting until no change is under way or until one has
//! taken effect, reserving names, and what a change must not do. Makes no plugins.

use super::{NodeReport, Rollout, RoomTable};
use crate::hub::{Ungoverned, conflict, unavailable};
use std::{collections::HashSet, sync::Arc, time::Duration};
use switchyard_plugin::PluginConfig;
use switchyard_protocol::{ErrorCode, Refusal, room::RoomPattern, unix_ms};
use switchyard_store::{Governance, GovernedSlot, SlotConflict, Unavailable};
use tokio::time::Instant;

/// How long a call waits until all nodes have done their part. A silent node is awaited until its report expires.
pub(super) const EFFECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it looks.
pub(super) const EFFECT_POLL_INTERVAL: Duration = Duration::from_millis(100);

impl Rollout {
    /// The rooms of all plugins, now and with these plugins in the configuration of this node.
    pub(super) async fn planned_rooms(
        self: &Arc<Self>,
        configs: &[PluginConfig],
    ) -> Result<(RoomTable, RoomTable), Refusal> {
        let record = self.settled_record_of_store().await?;
        let (live, _) = self.live_nodes().await.map_err(unavailable)?;
        Ok((rooms_of(&record), rooms_of(&record.configure(&self.node_plugins(configs), &live))))
    }

    /// Whether a node reports that it has this plugin.
    pub(super) async fn is_reported(&self, name: &str) -> Result<bool, Unavailable> {
        let reports = self.registry().reports().await?;
        let has_plugin = |(_, report): &(_, String)| {
            let report = serde_json::from_str::<NodeReport>(report);
            report.is_ok_and(|report| report.plugins.contains_key(name))
        };
        Ok(reports.iter().any(has_plugin))
    }

    /// Reserves a name while code is stored or deleted under it. Returns the token of the reservation.
    pub(super) async fn reserve(&self, name: &str, by: &str) -> Result<u64, Refusal> {
        let token = getrandom::u64().expect("the system provides random bits");
        loop {
            let record = self.settled_record_of_store().await?;
            let next = record.reserve(name, by, token, unix_ms()).map_err(slot_conflict)?;
            if self.replace_record(&record, &next).await? {
                return Ok(token);
            }
        }
    }

    /// Deletes the versions of a plugin whose name is reserved with this token, and then ends the reservation.
    pub(super) async fn forget_versions(&self, name: &str, token: u64) -> Result<(), Refusal> {
        let is_reserved = |record: &Governance| {
            record.reserved.get(name).is_some_and(|reservation| reservation.token == token)
        };
        if !is_reserved(&self.settled_record_of_store().await?) {
            return Ok(());
        }
        self.registry().forget(name).await.map_err(unavailable)?;
        loop {
            let record = self.settled_record_of_store().await?;
            let Some(next) = record.release(name, token) else { return Ok(()) };
            if self.replace_record(&record, &next).await? {
                return Ok(());
            }
        }
    }

    /// Replaces the record, and returns whether it was the current one. If the store does not answer, the change
    /// may have been made.
    pub(super) async fn replace_record(
        &self,
        record: &Governance,
        next: &Governance,
    ) -> Result<bool, Refusal> {
        self.replace_governance(record, next).await.map_err(unavailable)
    }

    /// The record as the store has it when no change is under way. Its effects here are applied in the
    /// background.
    pub(super) async fn settled_record_of_store(&self) -> Result<Governance, Refusal> {
        let until = Instant::now() + EFFECT_TIMEOUT;
        let mut known = None;
        loop {
            // The whole record is read only if it has changed.
            if let Some(record) = self.governance_registry().governance(known).await.map_err(unavailable)? {
                if record.is_settled() {
                    return Ok(record);
                }
                known = Some(record.id);
            }
            if Instant::now() >= until {
                return Err(still_changing());
            }
            tokio::time::sleep(EFFECT_POLL_INTERVAL).await;
        }
    }

    /// Follows the record until this revision has taken effect on all nodes, and returns it.
    pub(super) async fn settled_record(self: &Arc<Self>, revision: u64) -> Result<Arc<Governance>, Refusal> {
        self.settled_record_until(revision, Instant::now() + EFFECT_TIMEOUT).await
    }

    async fn settled_record_until(
        self: &Arc<Self>,
        revision: u64,
        until: Instant,
    ) -> Result<Arc<Governance>, Refusal> {
        loop {
            let record = self.poll_governance().await?;
            if record.is_settled() && record.revision >= revision {
                return Ok(record);
            }
            if Instant::now() >= until {
                return Err(still_changing());
            }
            tokio::time::sleep(EFFECT_POLL_INTERVAL).await;
        }
    }

    /// Follows the record until all live nodes have applied this revision, and this node runs the plugins of the store
    /// with the settings in it.
    pub(super) async fn applied_record(self: &Arc<Self>, revision: u64) -> Result<Arc<Governance>, Refusal> {
        let until = Instant::now() + EFFECT_TIMEOUT;
        loop {
            let record = self.settled_record_until(revision, until).await?;
            let (_, is_confirmed) = self.live_nodes().await.map_err(unavailable)?;
            // All nodes have to know this record, in which the rooms are open again.
            if is_confirmed(record.id) && self.prepare_stored_plugins(&record.slots) {
                return Ok(record);
            }
            if Instant::now() >= until {
                return Err(still_changing());
            }
            tokio::time::sleep(EFFECT_POLL_INTERVAL).await;
        }
    }

    /// Whether rooms without a plugin are open on any node.
    async fn is_any_node_open(&self) -> Result<bool, Refusal> {
        let reports = self.registry().reports().await.map_err(unavailable)?;
        let is_open = |(_, report): &(_, String)| {
            serde_json::from_str::<NodeReport>(report).is_ok_and(|report| report.opens_ungoverned)
        };
        Ok(self.ungoverned == Ungoverned::Open || reports.iter().any(is_open))
    }

    /// Refuses a change that leaves rooms without a plugin if such rooms are open, unless the operator wants that.
    pub(super) async fn check_opened_rooms(
        &self,
        before: &Governance,
        after: &Governance,
        opens_rooms: bool,
    ) -> Result<(), Refusal> {
        let after = after.announced.as_ref().unwrap_or(&after.slots);
        let opened = opened_rooms(&before.slots, after);
        if opens_rooms || opened.is_empty() || !self.is_any_node_open().await? {
            return Ok(());
        }
        let opened: Vec<_> = opened.iter().map(|pattern| format!("'{pattern}'")).collect();
        Err(conflict(format!(
            "this would open {} to everybody, because rooms.ungoverned is open on a node and no plugin would govern them; if this is \
             intended, repeat it with --open (open=true)",
            opened.join(" and ")
        )))
    }
}

/// The rooms of all plugins after the announced change.
pub(super) fn rooms_of(record: &Governance) -> RoomTable {
    let slots = record.announced.as_ref().unwrap_or(&record.slots);
    slots.iter().map(|slot| (slot.name.clone(), slot.rooms.clone())).collect()
}

/// The patterns of rooms that have a plugin before, and none after.
fn opened_rooms(before: &[GovernedSlot], after: &[GovernedSlot]) -> Vec<RoomPattern> {
    let governing = || after.iter().flat_map(|slot| &slot.rooms);
    // Nearly all of them stay, and all others are compared with each.
    let kept: HashSet<_> = governing().collect();
    let patterns = before.iter().flat_map(|slot| &slot.rooms).filter(|pattern| !kept.contains(pattern));
    patterns.filter(|pattern| !governing().any(|other| other.covers(pattern))).cloned().collect()
}

pub(super) fn slot_conflict(error: SlotConflict) -> Refusal {
    match error {
        SlotConflict::Unknown(_) => Refusal::new(ErrorCode::NotFound, error.to_string()),
        SlotConflict::UnknownNext(_) => Refusal::invalid(error.to_string()),
        SlotConflict::Configured { .. }
        | SlotConflict::Changed { .. }
        | SlotConflict::Full
        | SlotConflict::TooManyPatterns
        | SlotConflict::TooLarge => conflict(error.to_string()),
    }
}

pub(super) fn still_changing() -> Refusal {
    let message = "the plugins of all nodes are still being changed: a node has not confirmed yet; it is awaited until its \
                   report expires; see switchyard plugin list";
    Refusal::retry(ErrorCode::Overloaded, message, 1000)
}
