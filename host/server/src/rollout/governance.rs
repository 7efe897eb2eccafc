//! Agrees with the other nodes on which plugin governs which rooms. A change is announced first: every live node
//! closes the rooms concerned and confirms; then it takes effect on each of them. What a record means for the
//! rooms of this node is in `governance/applied.rs`. Does not decide which plugins this node has.

mod applied;
mod connect_hooks;

use super::{NodeReport, Rollout, slot::PluginSlot};
use crate::hub::{SlotId, SlotRooms, unavailable};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use switchyard_plugin::PluginConfig;
use switchyard_process::lock::LockExt;
use switchyard_protocol::{Refusal, unix_ms};
use switchyard_store::{Governance, GovernanceRegistry, NodePlugins, Unavailable};

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
    record: Arc<Governance>,
    /// The record of which this node has done its part.
    confirmed: u64,
    /// The rooms of each slot, as they were handed over last, and the record that said so.
    applied: Vec<SlotRooms>,
    applied_record: Arc<Governance>,
    /// The plugins of this node's configuration.
    configured: Option<NodePlugins>,
    /// Whether the record knows these plugins.
    is_recorded: bool,
    /// The slots of plugins that only other nodes have.
    absent: BTreeMap<String, SlotId>,
}

impl GovernanceState {
    /// `host` is the address of the admin listener.
    pub(super) fn new(host: String) -> Self {
        let node = format!("{:016x}", getrandom::u64().expect("the system provides random bits"));
        Self { node, host, known: Mutex::default(), lock: Default::default() }
    }

    /// The record as this node last read it.
    pub(super) fn record(&self) -> Arc<Governance> {
        self.known().record.clone()
    }

    fn known(&self) -> MutexGuard<'_, KnownGovernance> {
        self.known.locked()
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// Whether a report is this node's.
    pub(super) fn is_own(&self, report: &NodeReport) -> bool {
        report.instance == self.node
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The record of which this node has done its part.
    pub(super) fn confirmed(&self) -> u64 {
        self.known().confirmed
    }
}

impl Rollout {
    /// Makes these slots the plugins of this node, records them, and returns when all nodes govern their rooms
    /// accordingly. With `clears_history`, rooms that change their plugin lose their history. Waits for the store as
    /// long as it takes; `show_status` is called with what is being waited for.
    pub(super) async fn govern(
        self: &Arc<Self>,
        slots: Vec<Arc<PluginSlot>>,
        configs: &[PluginConfig],
        clears_history: bool,
        show_status: impl Fn(&str),
    ) {
        let mine = self.node_plugins(configs);
        {
            let _following = self.governance.lock.lock().await;
            self.configured.store(Arc::new(slots));
            let mut known = self.governance.known();
            (known.configured, known.is_recorded) = (Some(mine.clone()), false);
        }
        let mut is_reported = false;
        loop {
            let governed = {
                let _following = self.governance.lock.lock().await;
                self.try_govern(&mine, clears_history).await
            };
            match governed {
                Ok(true) => return,
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

    /// These plugins as those of this node.
    pub(super) fn node_plugins(&self, configs: &[PluginConfig]) -> NodePlugins {
        let plugins = configs.iter().map(|config| (config.name().to_owned(), config.rooms.clone()));
        let GovernanceState { node, host, .. } = &self.governance;
        NodePlugins { node: node.clone(), host: host.clone(), plugins: plugins.collect() }
    }

    /// Returns whether the plugins are recorded and no change is under way. The caller holds the lock.
    async fn try_govern(
        self: &Arc<Self>,
        mine: &NodePlugins,
        clears_history: bool,
    ) -> Result<bool, Unavailable> {
        let began = Instant::now();
        // So that nobody changes anything without this node's confirmation, from before the record is read.
        if let Err(error) = self.send_report().await {
            if !self.may_be_cut_off() {
                self.hub.renew_governance(began);
            }
            return Err(error);
        }
        let mut record = self.follow_governance().await?;
        while record.is_settled() && !self.governance.known().is_recorded {
            let (live, _) = self.live_nodes().await?;
            let mut next = record.configure(mine, &live);
            if clears_history {
                next = next.clearing_history(self.node());
            }
            let is_same = next.is_settled() && next.slots == record.slots;
            let is_recorded = is_same || self.replace_governance(&record, &next).await?;
            self.governance.known().is_recorded = is_recorded;
            record = self.follow_governance().await?;
        }
        Ok(self.governance.known().is_recorded && record.is_settled())
    }

    /// Follows the record once.
    pub(crate) async fn poll_governance(self: &Arc<Self>) -> Result<Arc<Governance>, Refusal> {
        let _following = self.governance.lock.lock().await;
        let record = self.follow_governance().await.map_err(unavailable)?;
        self.apply_connect_hooks();
        self.end_added_candidates();
        self.renew_claims(&record).await.map_err(unavailable)?;
        self.record_connect_hooks(&record).await.map_err(unavailable)?;
        Ok(record)
    }

    /// Gives up the claims of a process that was killed and had the address of this one, as soon as it does not
    /// count as live any more, and makes those of this node again that the record has lost.
    async fn renew_claims(&self, record: &Governance) -> Result<(), Unavailable> {
        let mine = {
            let known = self.governance.known();
            known.configured.clone().filter(|_| known.is_recorded && record.is_settled())
        };
        let Some(mine) = mine else { return Ok(()) };
        let is_claimed = |(name, _): &(String, _)| {
            let slot = record.slots.iter().find(|slot| slot.name == *name);
            slot.is_some_and(|slot| slot.stored.is_some() || slot.claimed.contains_key(&mine.node))
        };
        let is_former = |(node, host): (&String, &String)| *node != mine.node && *host == mine.host;
        let has_former = record.slots.iter().any(|slot| slot.claimed.iter().any(is_former));
        if has_former || !mine.plugins.iter().all(is_claimed) {
            let (live, _) = self.live_nodes().await?;
            if let Some(next) = record.claim(&mine, &live) {
                self.replace_governance(record, &next).await?;
            }
        }
        Ok(())
    }

    /// Gives up the claims of this node, because it stops. Waits until no change is under way, and does this node's part
    /// of it meanwhile.
    pub(crate) async fn leave_governance(self: &Arc<Self>) -> Result<(), Refusal> {
        let _following = self.governance.lock.lock().await;
        loop {
            let record = self.follow_governance().await.map_err(unavailable)?;
            if record.is_settled() {
                if !record.slots.iter().any(|slot| slot.claimed.contains_key(self.node())) {
                    return Ok(());
                }
                let (live, _) = self.live_nodes().await.map_err(unavailable)?;
                let next = record.leave(self.node(), &live);
                let replaced = self.replace_governance(&record, &next).await;
                if replaced.map_err(unavailable)? {
                    return Ok(());
                }
            }
            tokio::time::sleep(CONFIRMATION_POLL_INTERVAL).await;
        }
    }

    /// Follows the record once. Until it has, messages may wait: see [`Hub`](crate::hub::Hub).
    async fn follow_governance(self: &Arc<Self>) -> Result<Arc<Governance>, Unavailable> {
        let began = Instant::now();
        let followed = self.try_follow_governance().await;
        if followed.is_ok() || !self.may_be_cut_off() {
            self.hub.renew_governance(began);
        }
        followed
    }

    /// Whether a failure to read the record may mean that only this node cannot, and others change it. If the store has
    /// several servers, the last record rules instead: all rooms would be closed while that of the record is away.
    fn may_be_cut_off(&self) -> bool {
        self.hub.store.remote.as_ref().is_some_and(|remote| remote.has_one_server())
    }

    /// Reads the record, does what it asks of this node, and completes a change that all nodes have confirmed.
    async fn try_follow_governance(self: &Arc<Self>) -> Result<Arc<Governance>, Unavailable> {
        loop {
            let record = self.read_governance().await?;
            // While a change is announced, or the record does not know this node's plugins yet, those that were just
            // removed here would count as absent. But a change that this node has not seen comes before anything
            // that builds on it.
            let is_settled = record.is_settled() && self.governance.known().is_recorded;
            if is_settled || record.changed_from.is_some() || self.is_behind(&record) {
                // First what is gone: a plugin may have been added under its name.
                self.apply(&record).await;
                self.prepare_stored_plugins(&record.slots);
            }
            if let Some(announced) = &record.announced {
                if self.governance.confirmed() != record.id {
                    // Before its rooms are closed, which they are for a shorter time then.
                    if !self.prepare_stored_plugins(announced) {
                        return Ok(record);
                    }
                    self.hub.close_changing_rooms(self.routes(announced, false)).await;
                    if record.history_cleared_by.is_some() {
                        self.hub.store.rooms.flush().await?;
                    }
                    self.confirm(&record).await?;
                }
                let (live, is_confirmed) = self.live_nodes().await?;
                if is_confirmed(record.id)
                    && self.is_history_cleared(&record, &live)
                    && self.replace_governance(&record, &record.complete()).await?
                {
                    continue;
                }
                return Ok(record);
            }
            if record.changed_from.is_some() {
                // Its rooms have been handed over above.
                self.confirm(&record).await?;
                let (_, is_confirmed) = self.live_nodes().await?;
                if is_confirmed(record.id) && self.replace_governance(&record, &record.settle()).await? {
                    continue;
                }
                return Ok(record);
            }
            // So that whoever has made the change knows when all nodes have applied it.
            self.confirm(&record).await?;
            return Ok(record);
        }
    }

    /// Tells the other nodes that this node has done its part of a record.
    async fn confirm(&self, record: &Governance) -> Result<(), Unavailable> {
        if self.governance.confirmed() == record.id {
            return Ok(());
        }
        self.governance.known().confirmed = record.id;
        self.send_report().await
    }

    /// Replaces the record, if it is the current one.
    pub(super) async fn replace_governance(
        &self,
        record: &Governance,
        next: &Governance,
    ) -> Result<bool, Unavailable> {
        let registry = self.governance_registry();
        match record.revision {
            0 => registry.replace_governance(record, &next.clone().begun_at(unix_ms())).await,
            _ => registry.replace_governance(record, next).await,
        }
    }

    /// Reads the record. Writes it again if the store has lost it.
    async fn read_governance(&self) -> Result<Arc<Governance>, Unavailable> {
        let registry = self.governance_registry();
        loop {
            let known = self.governance.record();
            let Some(record) = registry.governance(Some(known.id)).await? else { return Ok(known) };
            let Some(restored) = record.restore(&known) else {
                let record = Arc::new(record);
                self.governance.known().record = record.clone();
                return Ok(record);
            };
            tracing::warn!(
                "the store has lost the record of which plugin governs which rooms; writing it again"
            );
            registry.replace_governance(&record, &restored).await?;
        }
    }

    /// The nodes that report, and whether all of them have confirmed a record.
    pub(super) async fn live_nodes(
        &self,
    ) -> Result<(BTreeSet<String>, impl Fn(u64) -> bool + use<>), Unavailable> {
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
        Ok((live, move |record| confirmed.iter().all(|confirmed| *confirmed == record)))
    }

    fn node(&self) -> &str {
        self.governance.node()
    }

    pub(super) fn governance_registry(&self) -> &dyn GovernanceRegistry {
        &*self.hub.store.governance
    }

    /// Reports the plugins of this node to all nodes.
    pub(crate) async fn send_report(&self) -> Result<(), Unavailable> {
        let report = serde_json::to_string(&self.report()).expect("plain data");
        self.registry().report(&report).await
    }
}
