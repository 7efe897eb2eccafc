//! Who may do what in the rooms of one shard: the built-in policy of ungoverned rooms, or that of a plugin.
//! Does not know members.

use super::{CompiledVersion, conflict, refusals::wire_refusal};
use crate::key::Key;
use serde::Deserialize;
use switchyard_plugin::{Counts, FilterId, Governor, Limits, Mirror, PluginFunction, Principal};
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
    Closed { plugin: String, reason: ClosedReason },
}

/// Why no version of a plugin is active.
#[derive(Clone, Copy)]
pub(crate) enum ClosedReason {
    /// It could not be loaded, or is being loaded.
    NotLoaded,
    /// Only other nodes have it.
    Absent,
}

impl ClosedReason {
    fn explain(self, plugin: &str) -> String {
        match self {
            Self::NotLoaded => format!("its plugin '{plugin}' could not be loaded"),
            Self::Absent => {
                format!("it is governed elsewhere, by plugin '{plugin}', which this node does not have")
            }
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

/// The refusal for a room without a plugin if such rooms are closed.
pub(super) fn ungoverned_closed(room: &RoomName) -> Refusal {
    let message =
        format!("room '{}' has no plugin, and rooms without a plugin are closed on this node", &**room);
    Refusal::new(ErrorCode::RoomRejected, message)
}

impl Policy {
    /// Decides whether a connection may join a room. `filter` is what the client wrote. `governs` says whether
    /// this shard's plugin governs a canonical name.
    pub(crate) fn admit(
        &mut self,
        room: &RoomName,
        principal: &Principal,
        filter: Option<&str>,
        counts: impl FnOnce(&RoomName) -> Counts,
        governs: impl FnOnce(&RoomName) -> bool,
    ) -> Result<Admission, Refusal> {
        if room.kind() != RoomKind::Ordinary {
            return Ok(Admission { room: room.clone(), filter: None, limits: Limits::default() });
        }
        let room = self.resolve(&principal.id, room, governs)?;
        let Policy::Governed(governor) = self else {
            if filter.is_some() {
                let message = format!("room '{}' has no plugin, so it supports no filters", &*room);
                return Err(Refusal::new(ErrorCode::FilterInvalid, message));
            }
            return Ok(Admission { room, filter: None, limits: Limits::default() });
        };
        let counts = counts(&room);
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
            Policy::Closed { plugin, reason } => {
                let message = format!("room '{}' is closed: {}", &**room, reason.explain(plugin));
                return Err(Refusal::new(ErrorCode::PluginFailed, message));
            }
        };
        // Even for a plugin without hooks: if it is quarantined, its rooms may be closed.
        governor.open_rooms().map_err(|refusal| wire_refusal(PluginFunction::Room, refusal))?;
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

    /// Releases a filter that a principal holds.
    pub(crate) fn release(&mut self, filter: Option<FilterId>, principal: &str) {
        if let (Policy::Governed(governor), Some(filter)) = (self, filter) {
            governor.release(filter, principal);
        }
    }

    /// Activates a version of the plugin. After an error, the previous version is still active.
    pub(crate) fn swap(&mut self, version: CompiledVersion) -> Result<(), Refusal> {
        let CompiledVersion { plugin, on_failure } = version;
        match self {
            Policy::Governed(governor) => {
                governor.swap(plugin, on_failure).map_err(|error| conflict(error.to_string()))?
            }
            Policy::Closed { .. } => *self = Policy::Governed(Box::new(Governor::new(plugin, on_failure))),
            Policy::Ungoverned(_) => return Err(conflict("these rooms have no plugin".to_owned())),
        }
        Ok(())
    }

    /// Whether messages must be checked before they are stored: the plugin has a publish hook, no version is
    /// active, or the plugin is quarantined.
    pub(super) fn wants_publishes(&self) -> bool {
        match self {
            Policy::Ungoverned(_) => false,
            Policy::Closed { .. } => true,
            Policy::Governed(governor) => governor.wants_publishes(),
        }
    }

    pub(crate) fn set_mirror(&mut self, mirror: Option<Mirror>) {
        if let Policy::Governed(governor) = self {
            governor.set_mirror(mirror);
        }
    }

    /// The principal of a key as plugins see it.
    pub(crate) fn principal(key: &Key) -> Principal {
        Principal::new(key.principal.clone(), key.id.clone(), key.tier.clone())
    }
}
