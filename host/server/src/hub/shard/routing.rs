//! How requests get to the shard of their room: the plugin gives the canonical name of a room, which may belong to
//! another shard of the plugin, or may have changed its owner meanwhile. Does not answer requests.

use super::*;
use crate::hub::places::Question;
use switchyard_protocol::room::RoomKind;

impl Shard {
    /// Returns a request if this shard owns its room and has it. Otherwise the request waits for the room, or is
    /// passed on to the owner.
    pub(super) fn keep_own(&mut self, mut request: PolicyRequest) -> Option<PolicyRequest> {
        let (governed, mut may_be_foreign) = (&self.governed, self.arrivals.has_lost_rooms());
        if let Some(canonical) = request.canonical()
            && let Some(name) = canonical
        {
            may_be_foreign = true;
            let is_current = governed.as_ref().is_some_and(|governed| {
                name.slot == governed.slot && name.generation == governed.governors.generation()
            });
            if !is_current {
                // Another version, or another plugin, has to be asked.
                *canonical = None;
            }
        }
        let Some(ShardCommand::Request(request)) = self.arrivals.defer(ShardCommand::Request(request)) else {
            return None;
        };
        if !may_be_foreign {
            return Some(request);
        }
        let router = self.router.upgrade()?;
        let owner = router.owner(request.room());
        if owner == self.id {
            return Some(request);
        }
        router.forward(request);
        None
    }

    /// Returns a request if its room is open and this is the shard of the room's canonical name. Otherwise it is
    /// refused, or passed on together with that name.
    pub(super) fn resolve_room(&mut self, mut request: PolicyRequest) -> Option<PolicyRequest> {
        let (principal, room) = match &request {
            PolicyRequest::Join { request, .. } => (&request.connection.principal, &request.room),
            PolicyRequest::Check { message, .. } => (&message.key.principal, &message.room),
            PolicyRequest::FilterHistory(_) => return Some(request),
        };
        if room.kind() != RoomKind::Ordinary {
            return Some(request);
        }
        let (principal, room) = (principal.clone(), room.clone());
        if request.canonical().is_some_and(|canonical| canonical.is_some()) {
            return match self.policy.check_open(&room) {
                Ok(()) => Some(request),
                Err(refusal) => {
                    request.refuse(refusal);
                    None
                }
            };
        }
        let (router, slot) = (self.router.clone(), self.governed.as_ref().map(|governed| governed.slot));
        let governs = |room: &RoomName| router.upgrade().is_some_and(|router| router.slot(room) == slot);
        let name = match self.policy.resolve(&principal, &room, governs) {
            Ok(name) => name,
            Err(refusal) => {
                request.refuse(refusal);
                return None;
            }
        };
        let (Some(governed), true) = (&self.governed, name != room) else { return Some(request) };
        let (slot, generation) = (governed.slot, governed.governors.generation());
        if let Some(canonical) = request.canonical() {
            *canonical = Some(CanonicalRoom { name, slot, generation });
        }
        self.keep_own(request)
    }

    /// Begins to ask the plugin, if it is told how many places the principal has. Otherwise nothing has to wait.
    /// `None` if the request waits for other questions about the principal.
    pub(super) fn begin_question(&self, request: PolicyRequest) -> Option<(PolicyRequest, Option<Question>)> {
        let PolicyRequest::Join { request: join, .. } = &request else { return Some((request, None)) };
        let principal = join.connection.principal.clone();
        match (&self.governed, self.policy.counts_places() && join.room.kind() == RoomKind::Ordinary) {
            (Some(governed), true) => {
                let (request, question) = governed.begin_question(request, &principal)?;
                Some((request, Some(question)))
            }
            _ => Some((request, None)),
        }
    }
}
