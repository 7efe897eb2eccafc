//! Candidates of plugins that have not been added yet: they run on this node's traffic without effect, so that operators see
//! what a plugin would refuse before they add it. They end with the node.

use super::{
    Rollout, audit,
    slot::{Candidate, PluginSlot},
    stored_changes::SlotChange,
    view::CandidateView,
};
use crate::{
    audit::{Actor, AuditAction},
    hub::{Observer, cannot_start_thread, conflict},
};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};
use switchyard_plugin::{PluginSeries, Shadow};
use switchyard_process::lock::LockExt;
use switchyard_protocol::{Refusal, room::RoomPattern, unix_ms};

/// Maximum size of the code of all such candidates of a node, in bytes.
const MAX_CODE_BYTES: usize = 64 << 20;

/// A candidate, and the plugin that it would be.
pub(super) struct NewCandidate {
    change: SlotChange,
    candidate: Candidate,
}

/// By name of the plugin.
pub(super) type NewCandidates = BTreeMap<String, NewCandidate>;

/// A candidate of a plugin that has not been added yet, for operators.
#[derive(Serialize)]
pub(crate) struct NewCandidateView {
    name: String,
    state: &'static str,
    /// The rooms that it would govern.
    rooms: Vec<RoomPattern>,
    pub shadow: CandidateView,
}

impl Rollout {
    /// Starts the staged code of a plugin as a candidate with these rooms and settings, instead of one of the same name.
    pub(crate) async fn start_new_candidate(&self, change: SlotChange) -> Result<NewCandidateView, Refusal> {
        self.require_shared_store()?;
        let name = &change.name;
        if self.slot(name).is_ok() {
            return Err(conflict(format!(
                "plugin '{name}' already exists; start its candidate with PUT /v1/plugins/{name}/shadow (plugin load \
                 --shadow)"
            )));
        }
        let config = Arc::new(self.parse_change(&change)?);
        let staged = self.staged_code(name)?;
        let (code, signature) = (staged.code, staged.signature);
        let series = PluginSeries::default();
        let plugin = self.compiler.compile_candidate(&config, &code, signature.as_deref(), &series).await?;
        let shadow = Shadow::start(plugin.clone(), self.copy_budget.clone())
            .map_err(|error| cannot_start_thread("of a candidate", error))?;
        let mut candidates = self.new_candidates.locked();
        let others = candidates.iter().filter(|(other, _)| *other != name);
        let others: usize = others.map(|(_, other)| other.candidate.code.len()).sum();
        if others + code.len() > MAX_CODE_BYTES {
            return Err(conflict(format!(
                "candidates of new plugins already use {others} of {MAX_CODE_BYTES} bytes of code on this node; drop one \
                 first"
            )));
        }
        self.hub.add_observer(Observer {
            name: name.clone(),
            patterns: change.rooms.as_slice().into(),
            headers: plugin.headers().to_vec(),
            mirror: shadow.mirror(),
        })?;
        audit::log_candidate(&self.hub.audit, AuditAction::CandidateStart, &plugin, &change.by);
        let candidate = Candidate { shadow, code, signature, since: unix_ms() };
        let started = NewCandidate { change: change.clone(), candidate };
        let view = started.view();
        candidates.insert(name.clone(), started);
        Ok(view)
    }

    /// All candidates of plugins that have not been added yet.
    pub(crate) fn new_candidates(&self) -> Vec<NewCandidateView> {
        self.new_candidates.locked().values().map(NewCandidate::view).collect()
    }

    /// The candidate of a plugin that has not been added yet.
    pub(crate) fn new_candidate(&self, name: &str) -> Option<NewCandidateView> {
        self.new_candidates.locked().get(name).map(NewCandidate::view)
    }

    /// Ends the candidate of a plugin that has not been added yet, if there is one. `by` asks for it.
    pub(crate) fn drop_new_candidate(&self, name: &str, by: &Actor) -> Option<NewCandidateView> {
        let mut candidates = self.new_candidates.locked();
        let dropped = candidates.remove(name)?;
        self.hub.remove_observer(name);
        let plugin = dropped.candidate.shadow.plugin();
        audit::log_candidate(&self.hub.audit, AuditAction::CandidateDrop, plugin, by);
        // The candidate could only read it.
        if self.slot(name).is_err() {
            self.remove_state(name);
        }
        Some(dropped.view())
    }

    /// Ends the candidates of plugins that are there now.
    pub(super) fn end_added_candidates(&self) {
        let names: Vec<_> = self.new_candidates.locked().keys().cloned().collect();
        for name in names.iter().filter(|name| self.slot(name).is_ok()) {
            self.drop_new_candidate(name, &Actor::Node);
        }
    }

    /// Adds the plugin of a candidate for all nodes, with the rooms and settings of the candidate. `None` if there is no
    /// such candidate.
    pub(super) async fn add_new_candidate(
        self: &Arc<Self>,
        name: &str,
        by: &Actor,
    ) -> Option<Result<Arc<PluginSlot>, Refusal>> {
        let (change, code, signature) = {
            let candidates = self.new_candidates.locked();
            let NewCandidate { change, candidate } = candidates.get(name)?;
            let change = SlotChange { by: by.clone(), ..change.clone() };
            (change, candidate.code.clone(), candidate.signature.clone())
        };
        let added = async {
            self.stage(name, code, signature)?;
            let slot = self.change_slot(change).await?;
            self.end_added_candidates();
            Ok(slot)
        };
        Some(added.await)
    }
}

impl NewCandidate {
    fn view(&self) -> NewCandidateView {
        let Self { change, candidate } = self;
        let (name, rooms) = (change.name.clone(), change.rooms.clone());
        NewCandidateView { name, state: "candidate", rooms, shadow: candidate.view() }
    }
}
