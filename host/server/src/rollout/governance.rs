//! Agrees with the other nodes on which plugin governs which rooms. A change is announced first: every live node
//! closes the rooms concerned and confirms; then it takes effect on each of them. Rooms that a plugin governs
//! which this node does not have are closed here. Does not decide which plugins this node has.

use super::{NodeReport, Rollout, slot::PluginSlot};
use crate::hub::{SlotId, SlotRooms, unavailable};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use switchyard_plugin::PluginConfig;
use switchyard_process::lock::LockExt;
use switchyard_protocol::Refusal;
use switchyard_store::{Governance, GovernanceRegistry, GovernedSlot, NodePlugins, Unavailable};

/// How often a node that makes a change asks whether all nodes have confirmed it.
const CONFIRMATION_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What this node knows about the governance of all nodes.
pub(super) struct GovernanceState {
    /// Identifies this process in the record.
    node: String,
    /// The address of the admin listener.
    host: String,
    known: Mutex<KnownGovernance>,
    /// Held while the record is changed or followed.
    lock: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct KnownGovernance {
    /// The record that this node follows.
    record: Governance,
    /// The revision up to which this node has done its part.
    confirmed: u64,
    /// The plugins of this node, as they were recorded last.
    configured: Option<NodePlugins>,
    /// The slots of plugins that only other nodes have.
    absent: BTreeMap<String, SlotId>,
}

impl GovernanceState {
    /// `host` is the address of the admin listener.
    pub(super) fn new(host: String) -> Self {
        let node = format!("{:016x}", getrandom::u64().expect("the system provides random bits"));
        Self { node, host, known: Mutex::default(), lock: Default::default() }
    }

    fn known(&self) -> MutexGuard<'_, KnownGovernance> {
        self.known.locked()
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The revision up to which this node has done its part.
    pub(super) fn confirmed(&self) -> u64 {
        self.known().confirmed
    }
}

impl Rollout {
    /// Makes these slots the plugins of this node, records them, and returns when all nodes govern their rooms
    /// accordingly. Waits for the store as long as it takes; `show_status` is called with what is being waited
    /// for.
    pub(super) async fn govern(
        &self,
        slots: Vec<Arc<PluginSlot>>,
        configs: &[PluginConfig],
        show_status: impl Fn(&str),
    ) {
        let _following = self.governance.lock.lock().await;
        self.slots.store(Arc::new(slots));
        let plugins = configs.iter().map(|config| (config.name().to_owned(), config.rooms.clone()));
        let GovernanceState { node, host, .. } = &self.governance;
        let mine = NodePlugins { node: node.clone(), host: host.clone(), plugins: plugins.collect() };
        let (mut is_recorded, mut is_reported) = (false, false);
        loop {
            match self.try_govern(&mine, &mut is_recorded).await {
                Ok(true) => {
                    self.governance.known().configured = Some(mine);
                    return;
                }
                Ok(false) => {
                    show_status("waiting for the other nodes to close rooms that get another plugin")
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_reported, true) {
                        tracing::warn!(%error, "waiting for the store to record which plugin governs which rooms");
                    }
                    show_status("waiting for the store: which plugin governs which rooms");
                }
            }
            tokio::time::sleep(CONFIRMATION_POLL_INTERVAL).await;
        }
    }

    /// Returns whether the plugins are recorded and no change is under way. The caller holds the lock.
    async fn try_govern(&self, mine: &NodePlugins, is_recorded: &mut bool) -> Result<bool, Unavailable> {
        // So that nobody changes anything without this node's confirmation, from before the record is read.
        self.send_report().await?;
        let mut record = self.follow_governance(*is_recorded).await?;
        while record.announced.is_none() && !*is_recorded {
            let (live, _) = self.live_nodes().await?;
            let next = record.configure(mine, &live);
            let is_same = next.announced.is_none() && next.slots == record.slots;
            *is_recorded =
                is_same || self.governance_registry().replace_governance(record.revision, &next).await?;
            record = self.follow_governance(*is_recorded).await?;
        }
        Ok(*is_recorded && record.announced.is_none())
    }

    /// Follows the record once.
    pub(crate) async fn poll_governance(&self) -> Result<(), Refusal> {
        let _following = self.governance.lock.lock().await;
        let record = self.follow_governance(true).await.map_err(unavailable)?;
        self.replace_former_claims(&record).await.map_err(unavailable)
    }

    /// Gives up the claims of a process that was killed and had the address of this one, as soon as it does not
    /// count as live any more.
    async fn replace_former_claims(&self, record: &Governance) -> Result<(), Unavailable> {
        let Some(mine) = self.governance.known().configured.clone() else { return Ok(()) };
        let is_former = |(node, host): (&String, &String)| *node != mine.node && *host == mine.host;
        if record.announced.is_some() || !record.slots.iter().any(|slot| slot.claimed.iter().any(is_former)) {
            return Ok(());
        }
        let (live, _) = self.live_nodes().await?;
        let next = record.configure(&mine, &live);
        if next.announced.is_some() || next.slots != record.slots {
            self.governance_registry().replace_governance(record.revision, &next).await?;
        }
        Ok(())
    }

    /// Gives up the claims of this node, because it stops.
    pub(crate) async fn leave_governance(&self) -> Result<(), Refusal> {
        let _following = self.governance.lock.lock().await;
        let registry = self.governance_registry();
        let record = registry.governance().await.map_err(unavailable)?;
        if record.announced.is_some()
            || !record.slots.iter().any(|slot| slot.claimed.contains_key(self.node()))
        {
            return Ok(());
        }
        let (live, _) = self.live_nodes().await.map_err(unavailable)?;
        registry
            .replace_governance(record.revision, &record.leave(self.node(), &live))
            .await
            .map_err(unavailable)?;
        Ok(())
    }

    /// Reads the record, does what it asks of this node, and completes a change that all nodes have confirmed.
    /// `is_recorded` if the record knows which plugins this node has. Otherwise plugins that were just removed
    /// would count as absent.
    async fn follow_governance(&self, is_recorded: bool) -> Result<Governance, Unavailable> {
        loop {
            let record = self.read_governance().await?;
            if let Some(announced) = &record.announced {
                if self.governance.confirmed() != record.revision {
                    self.hub.close_changing_rooms(self.routes(announced)).await;
                    self.governance.known().confirmed = record.revision;
                    self.send_report().await?;
                }
                let (_, is_confirmed) = self.live_nodes().await?;
                if is_confirmed(record.revision)
                    && self
                        .governance_registry()
                        .replace_governance(record.revision, &record.complete())
                        .await?
                {
                    continue;
                }
                return Ok(record);
            }
            if is_recorded || self.governance.confirmed() != record.revision {
                self.apply(&record).await;
            }
            return Ok(record);
        }
    }

    /// Hands rooms over, unless they have the right governors already.
    async fn apply(&self, record: &Governance) {
        if self.governance.confirmed() == record.revision && !self.has_other_slots(record) {
            return;
        }
        self.hub.close_changing_rooms(self.routes(&record.slots)).await;
        self.hub.hand_rooms_over().await;
        let unused: Vec<_> = {
            let mut known = self.governance.known();
            known.confirmed = record.revision;
            let is_unused = |name: &String| {
                self.slot(name).is_ok() || !record.slots.iter().any(|slot| slot.name == *name)
            };
            let unused: Vec<_> = known.absent.keys().filter(|name| is_unused(name)).cloned().collect();
            unused.into_iter().filter_map(|name| known.absent.remove(&name)).collect()
        };
        for slot in unused {
            self.hub.remove_slot(slot).await;
        }
    }

    /// Reads the record. Writes it again if the store has lost it.
    async fn read_governance(&self) -> Result<Governance, Unavailable> {
        let registry = self.governance_registry();
        loop {
            let record = registry.governance().await?;
            let known = self.governance.known().record.clone();
            if record.revision >= known.revision {
                self.governance.known().record = record.clone();
                return Ok(record);
            }
            tracing::warn!(
                "the store has lost the record of which plugin governs which rooms; writing it again"
            );
            let restored = Governance { revision: known.revision + 1, ..known };
            registry.replace_governance(record.revision, &restored).await?;
        }
    }

    /// The slots that govern these rooms on this node, those of absent plugins included.
    fn routes(&self, slots: &[GovernedSlot]) -> Vec<SlotRooms> {
        let mut known = self.governance.known();
        let route = |slot: &GovernedSlot| {
            let id = match self.slot(&slot.name) {
                Ok(own) => own.id,
                Err(_) => *known
                    .absent
                    .entry(slot.name.clone())
                    .or_insert_with(|| self.hub.add_absent_slot(&slot.name)),
            };
            SlotRooms { slot: id, patterns: slot.rooms.as_slice().into() }
        };
        slots.iter().map(route).collect()
    }

    /// Whether a plugin was added to this node or removed from it since the record was applied.
    fn has_other_slots(&self, record: &Governance) -> bool {
        let known = self.governance.known();
        record.slots.iter().any(|slot| self.slot(&slot.name).is_ok() == known.absent.contains_key(&slot.name))
    }

    /// The nodes that report, and whether all of them have confirmed a revision.
    async fn live_nodes(&self) -> Result<(BTreeSet<String>, impl Fn(u64) -> bool + use<>), Unavailable> {
        let reports = self.registry().reports().await?;
        let parse = |(_, report): &(_, String)| serde_json::from_str::<NodeReport>(report).ok();
        let reports: Vec<_> = reports.iter().filter_map(parse).collect();
        let mut live: BTreeSet<_> = reports.iter().map(|report| report.instance.clone()).collect();
        live.insert(self.node().to_owned());
        let confirmed: Vec<_> = reports
            .iter()
            .filter(|report| report.instance != self.node())
            .map(|report| report.governance)
            .chain([self.governance.confirmed()])
            .collect();
        Ok((live, move |revision| confirmed.iter().all(|confirmed| *confirmed >= revision)))
    }

    fn node(&self) -> &str {
        self.governance.node()
    }

    fn governance_registry(&self) -> &dyn GovernanceRegistry {
        &*self.hub.store.governance
    }

    /// Reports the plugins of this node to all nodes.
    pub(crate) async fn send_report(&self) -> Result<(), Unavailable> {
        let report = serde_json::to_string(&self.report()).expect("plain data");
        self.registry().report(&report).await
    }

    /// How the plugins of this node differ from the record, one sentence each.
    pub(crate) fn governance_drift(&self) -> Vec<String> {
        let known = self.governance.known();
        let differs = |slot: &GovernedSlot| match self.slot(&slot.name) {
            Err(_) => Some(format!(
                "plugin '{}' governs rooms on other nodes and is not configured here; its rooms are closed here",
                slot.name
            )),
            Ok(own) if own.config().rooms != slot.rooms => Some(format!(
                "plugin '{}' governs other rooms than those in the configuration of this node",
                slot.name
            )),
            Ok(_) => None,
        };
        known.record.slots.iter().filter_map(differs).collect()
    }
}
