//! Who may do what in the rooms of one shard: the built-in policy of ungoverned rooms, or a plugin's. Turns a
//! plugin's refusals into the codes of the wire, by the hook that was asked.

use super::{CompiledVersion, command::JoinRequest, conflict, refusals::wire_refusal};
use serde::Deserialize;
use switchyard_plugin::{Counts, FilterId, Governor, Limits, Mirror, PluginFunction, Principal};
use switchyard_protocol::{
    ErrorCode, Refusal,
    room::{RoomKind, RoomName},
};

/// `[rooms] ungoverned`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ungoverned {
    #[default]
    Open,
    Closed,
}

pub(crate) enum Policy {
    Ungoverned(Ungoverned),
    Governed(Box<Governor>),
    /// Its plugin is not loaded: the rooms are closed until a version is.
    Failed {
        plugin: String,
    },
}

/// A room that may be joined, by the name that the plugin gave it.
pub(crate) struct Admission {
    pub room: RoomName,
    /// A reference that the member holds.
    pub filter: Option<FilterId>,
    pub limits: Limits,
}

/// A room without a plugin where those are closed.
pub(super) fn closed(room: &RoomName) -> Refusal {
    let message = format!("room '{}' has no plugin, and rooms without one are closed here", &**room);
    Refusal::new(ErrorCode::RoomRejected, message)
}

impl Policy {
    /// `governs`: whether a canonical name still belongs to this shard's plugin.
    pub(crate) fn admit(
        &mut self,
        request: &JoinRequest,
        counts: impl FnOnce(&RoomName) -> Counts,
        governs: impl FnOnce(&RoomName) -> bool,
    ) -> Result<Admission, Refusal> {
        if request.room.kind() != RoomKind::Ordinary {
            return Ok(Admission { room: request.room.clone(), filter: None, limits: Limits::default() });
        }
        let room = self.resolve(&request.who.id, &request.room, governs)?;
        let Policy::Governed(governor) = self else {
            if request.filter.is_some() {
                let message = format!("no plugin governs room '{}', so it takes no filter", &*room);
                return Err(Refusal::new(ErrorCode::FilterInvalid, message));
            }
            return Ok(Admission { room, filter: None, limits: Limits::default() });
        };
        let counts = counts(&room);
        let (who, filter) = (&request.who, request.filter.as_deref());
        let grant = governor.authorize(who, &room, filter, counts);
        let grant = grant.map_err(|refusal| wire_refusal(PluginFunction::Subscribe, refusal))?;
        if let Some(most) = grant.limits.rooms
            && counts.of_connection >= most
        {
            self.release(grant.filter, &who.id);
            let message =
                format!("room '{}': its plugin allows {most} of its rooms a connection; leave one", &*room);
            return Err(Refusal::new(ErrorCode::RoomLimit, message));
        }
        Ok(Admission { room, filter: grant.filter, limits: grant.limits })
    }

    /// The canonical name of a room that exists for this policy.
    pub(super) fn resolve(
        &mut self,
        who: &str,
        room: &RoomName,
        governs: impl FnOnce(&RoomName) -> bool,
    ) -> Result<RoomName, Refusal> {
        let governor = match self {
            Policy::Governed(governor) => governor,
            Policy::Ungoverned(Ungoverned::Open) => return Ok(room.clone()),
            Policy::Ungoverned(Ungoverned::Closed) => return Err(closed(room)),
            Policy::Failed { plugin } => {
                let message =
                    format!("room '{}' is closed: its plugin '{plugin}' could not be loaded", &**room);
                return Err(Refusal::new(ErrorCode::PluginFailed, message));
            }
        };
        // Whatever hooks it has: without it, nothing of this room may happen.
        governor.open_rooms().map_err(|refusal| wire_refusal(PluginFunction::Room, refusal))?;
        let canonical = governor.validate(who, room);
        let canonical = canonical.map_err(|refusal| wire_refusal(PluginFunction::Room, refusal))?;
        let Some(canonical) = canonical else { return Ok(room.clone()) };
        match RoomName::parse(&canonical) {
            Ok(name) if name == *room || (name.kind() == RoomKind::Ordinary && governs(&name)) => Ok(name),
            _ => {
                let plugin = governor.name();
                let message =
                    format!("plugin '{plugin}' named room '{}' as a room that it does not govern", &**room);
                Err(Refusal::new(ErrorCode::PluginFailed, message))
            }
        }
    }

    /// Gives up what `who` holds.
    pub(crate) fn release(&mut self, filter: Option<FilterId>, who: &str) {
        if let (Policy::Governed(governor), Some(filter)) = (self, filter) {
            governor.release(filter, who);
        }
    }

    /// Activates a version of the plugin. After an error the version before is active.
    pub(crate) fn swap(&mut self, version: CompiledVersion) -> Result<(), Refusal> {
        let CompiledVersion { plugin, on_failure } = version;
        match self {
            Policy::Governed(governor) => {
                governor.swap(plugin, on_failure).map_err(|error| conflict(error.to_string()))?
            }
            Policy::Failed { .. } => *self = Policy::Governed(Box::new(Governor::new(plugin, on_failure))),
            Policy::Ungoverned(_) => return Err(conflict("these rooms have no plugin".to_owned())),
        }
        Ok(())
    }

    /// Whether a message may only be published after it was asked here: its plugin has a hook for that, or no version is active, or
    /// it is quarantined.
    pub(super) fn wants_publishes(&self) -> bool {
        match self {
            Policy::Ungoverned(_) => false,
            Policy::Failed { .. } => true,
            Policy::Governed(governor) => governor.wants_publishes(),
        }
    }

    pub(crate) fn mirror(&mut self, mirror: Option<Mirror>) {
        if let Policy::Governed(governor) = self {
            governor.set_mirror(mirror);
        }
    }

    /// Who a plugin is told is asking.
    pub(crate) fn principal(id: &str, tier: &str) -> Principal {
        Principal { id: id.to_owned(), tier: tier.to_owned(), tags: vec![] }
    }
}
