//! Who may do what in the rooms of one shard: the built-in policy of ungoverned rooms, or that of a plugin.
//! Does not know members.

use super::{CompiledVersion, conflict, refusals::wire_refusal};
use serde::Deserialize;
use std::sync::Arc;
use switchyard_plugin::{
    Counts, FilterId, Governor, GovernorGroup, Limits, Mirror, PluginFunction, PreparedSwap, Principal,
};
use switchyard_protocol::{
    ErrorCode, Refusal,
    room::{RoomKind, RoomName},
};

/// `rooms.ungoverned`: who may use rooms without a plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ungoverned {
    /// Every client, as far as its key allows it.
    #[default]
    Open,
    /// Nobody.
    Closed,
}

/// Who may do what in the rooms of a shard.
pub(crate) enum Policy {
    /// The rooms have no plugin.
    Ungoverned(Ungoverned),
    /// A plugin decides.
    Governed(Box<Governor>),
    /// No version of the plugin is active, so the rooms are closed.
    Closed { plugin: Arc<str>, reason: ClosedReason },
}

/// A version of a plugin that is ready to be activated in one shard.
pub(crate) enum PreparedVersion {
    /// The first one, or the first that the shard will need.
    First(CompiledVersion),
    /// One that has compiled all filters in use.
    Next(Box<PreparedSwap>),
}

/// Why no version of a plugin is active.
#[derive(Clone, Copy)]
pub(crate) enum ClosedReason {
    /// It could not be loaded, or is being loaded.
    NotLoaded,
    /// Only other nodes have it.
    Absent,
    /// The system cannot start a thread for it.
    NoThread,
}

impl ClosedReason {
    pub(super) fn refusal(self, plugin: &str, room: &RoomName) -> Refusal {
        let message = format!("room '{}' is closed: {}", &**room, self.explain(plugin));
        Refusal::new(ErrorCode::PluginFailed, message)
    }

    fn explain(self, plugin: &str) -> String {
        match self {
            Self::NotLoaded => format!("its plugin '{plugin}' could not be loaded"),
            Self::Absent => {
                format!("it is governed elsewhere, by plugin '{plugin}', which this node does not have")
            }
            Self::NoThread => format!("no thread can be started for its plugin '{plugin}'"),
        }
    }
}

/// Permission to join a room.
pub(crate) struct Admission {
    /// The canonical name of the room.
    pub room: RoomName,
    /// The filter of the member. Whoever holds it has to release it.
    pub filter: Option<FilterId>,
    pub limits: Limits,
}

fn check_quarantine(governor: &Governor) -> Result<(), Refusal> {
    governor.open_rooms().map_err(|refusal| wire_refusal(PluginFunction::Room, refusal))
}

/// The refusal for a room without a plugin if such rooms are closed.
pub(super) fn ungoverned_closed(room: &RoomName) -> Refusal {
    let message =
        format!("room '{}' has no plugin, and rooms without a plugin are closed on this node", &**room);
    Refusal::new(ErrorCode::RoomRejected, message)
}

impl Policy {
    /// Decides whether a connection may join a room. `room` is a name that [`resolve`](Self::resolve) returned, and
    /// `filter` is what the client wrote.
    pub(crate) fn admit(
        &mut self,
        room: RoomName,
        principal: &Principal,
        filter: Option<&str>,
        counts: Counts,
    ) -> Result<Admission, Refusal> {
        if room.kind() != RoomKind::Ordinary {
            return Ok(Admission { room, filter: None, limits: Limits::default() });
        }
        let governor = match self {
            Policy::Governed(governor) => governor,
            Policy::Closed { plugin, reason } => return Err(reason.refusal(plugin, &room)),
            Policy::Ungoverned(_) if filter.is_some() => {
                let message = format!("room '{}' has no plugin, so it supports no filters", &*room);
                return Err(Refusal::new(ErrorCode::FilterInvalid, message));
            }
            Policy::Ungoverned(_) => return Ok(Admission { room, filter: None, limits: Limits::default() }),
        };
        let grant = governor.authorize(principal, &room, filter, counts);
        let grant = grant.map_err(|refusal| wire_refusal(PluginFunction::Subscribe, refusal))?;
        if let Some(max) = grant.limits.rooms
            && counts.of_connection >= max
        {
            self.release(grant.filter, &principal.id);
            let message = format!(
                "room '{}': its plugin allows {max} of its rooms per connection; leave one first",
                &*room
            );
            return Err(Refusal::new(ErrorCode::RoomLimit, message));
        }
        Ok(Admission { room, filter: grant.filter, limits: grant.limits })
    }

    /// The canonical name of a room, or a refusal if the room does not exist or is closed.
    pub(super) fn resolve(
        &mut self,
        principal: &str,
        room: &RoomName,
        governs: impl FnOnce(&RoomName) -> bool,
    ) -> Result<RoomName, Refusal> {
        let governor = match self {
            Policy::Governed(governor) => governor,
            Policy::Ungoverned(Ungoverned::Open) => return Ok(room.clone()),
            Policy::Ungoverned(Ungoverned::Closed) => return Err(ungoverned_closed(room)),
            Policy::Closed { plugin, reason } => return Err(reason.refusal(plugin, room)),
        };
        // Even for a plugin without hooks: if it is quarantined, its rooms may be closed.
        check_quarantine(governor)?;
        let canonical = governor.validate(principal, room);
        let canonical = canonical.map_err(|refusal| wire_refusal(PluginFunction::Room, refusal))?;
        let Some(canonical) = canonical else { return Ok(room.clone()) };
        match RoomName::parse(&canonical) {
            Ok(name) if name == *room || (name.kind() == RoomKind::Ordinary && governs(&name)) => Ok(name),
            _ => {
                let plugin = governor.name();
                let message = format!(
                    "plugin '{plugin}' gave room '{}' the name of a room that it does not govern",
                    &**room
                );
                Err(Refusal::new(ErrorCode::PluginFailed, message))
            }
        }
    }

    /// Refuses everything in a room whose plugin is quarantined or has no active version.
    pub(super) fn check_open(&self, room: &RoomName) -> Result<(), Refusal> {
        match self {
            Policy::Governed(governor) => check_quarantine(governor),
            Policy::Ungoverned(_) => Ok(()),
            Policy::Closed { plugin, reason } => Err(reason.refusal(plugin, room)),
        }
    }

    /// Whether a plugin is told how many places a principal has.
    pub(super) fn counts_places(&self) -> bool {
        matches!(self, Policy::Governed(governor) if governor.plugin().info().hooks.subscribe)
    }

    /// How many different filters of its plugin a principal holds, on all shards.
    pub(super) fn filters_held_by(&self, principal: &str) -> usize {
        match self {
            Policy::Governed(governor) => governor.filters_held_by(principal),
            Policy::Ungoverned(_) | Policy::Closed { .. } => 0,
        }
    }

    /// Releases a filter that a principal holds.
    pub(crate) fn release(&mut self, filter: Option<FilterId>, principal: &str) {
        if let (Policy::Governed(governor), Some(filter)) = (self, filter) {
            governor.release(filter, principal);
        }
    }

    /// Prepares a version of the plugin. Nothing changes until it is committed. `has_thread` says whether the plugin
    /// may be called here; if not, it never was, so there are no filters to compile.
    pub(super) fn prepare(
        &self,
        version: CompiledVersion,
        has_thread: bool,
    ) -> Result<PreparedVersion, Refusal> {
        match self {
            Policy::Governed(governor) if has_thread => {
                let prepared = governor.prepare(version.plugin, version.on_failure);
                let prepared = prepared.map_err(|error| conflict(error.to_string()))?;
                Ok(PreparedVersion::Next(Box::new(prepared)))
            }
            Policy::Governed(_) | Policy::Closed { .. } => Ok(PreparedVersion::First(version)),
            Policy::Ungoverned(_) => Err(conflict("these rooms have no plugin".to_owned())),
        }
    }

    /// Continues with a version that was prepared. All shards of the plugin do so together.
    pub(super) fn commit(&mut self, version: PreparedVersion, group: &Arc<GovernorGroup>) {
        match (&mut *self, version) {
            (Policy::Governed(governor), PreparedVersion::Next(prepared)) => governor.commit(*prepared),
            (_, PreparedVersion::First(CompiledVersion { plugin, on_failure })) => {
                *self = Policy::Governed(Box::new(Governor::in_group(plugin, on_failure, group.clone())));
            }
            (_, PreparedVersion::Next(_)) => unreachable!("the shard waited since it was prepared"),
        }
    }

    pub(crate) fn set_mirror(&mut self, mirror: Option<Mirror>) {
        if let Policy::Governed(governor) = self {
            governor.set_mirror(mirror);
        }
    }
}
