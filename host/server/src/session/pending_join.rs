//! One room that is being joined, from the entry of the request to the result for the client. Results have
//! the order of the entries. Decides nothing and does no I/O: `ClientSession` moves it from state to state.

use crate::hub::{self, Joined, Offer, Replay};
use std::sync::Arc;
use switchyard_protocol::{
    Position, Refusal, reply,
    room::{MAX_NAME_BYTES, RoomName},
};
use switchyard_store::{Join, Membership};

/// How a client wants to join a room.
pub(super) struct JoinOptions {
    pub room: RoomName,
    /// A JSON object, as the client wrote it.
    pub filter: Option<Arc<str>>,
    /// The client has everything up to this position. What follows has to be replayed.
    pub since: Option<Position>,
}

/// A room that a client wants to join.
pub(super) struct PendingJoin {
    /// The name that the client used, cut to the longest valid length.
    pub name: String,
    pub state: JoinState,
}

/// The progress of a join.
pub(super) enum JoinState {
    Requested(JoinOptions),
    /// The connection has no room left for it, unless other entries of the request are refused.
    Deferred(JoinOptions),
    /// The room's shard has been asked.
    Asked(JoinOptions, hub::JoinReceiver),
    /// The connection is in the room already. The change is not recorded yet.
    Offered(JoinOptions, Offer),
    /// The connection has a new seat. It is not recorded yet, and the client has not been told.
    Granted(Box<GrantedJoin>),
    /// With the canonical name of the room, if the shard had named it before the join was refused.
    Refused(Refusal, Option<RoomName>),
}

/// A room that was joined. The client has not been told yet.
pub(super) struct GrantedJoin {
    pub options: JoinOptions,
    pub joined: Joined,
    pub replay: Option<Replay>,
    pub position: Position,
    pub recovered: Option<bool>,
}

/// A room, the last epoch that the member knew, and the position after which the room continues for it.
pub(crate) type ReportedGap = (RoomName, Arc<str>, Position);

/// Which answer lists the rooms.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerKind {
    Subscribed,
    /// `connected`, which also says which filter is in effect.
    Resumed,
}

/// A join that was answered. What remains is to tell the client, and to replay what it missed.
pub(super) struct CompletedJoin {
    pub result: reply::RoomResult,
    /// Set if messages before the position are lost to the member.
    pub gap: Option<ReportedGap>,
    pub replay: Option<Replay>,
}

impl GrantedJoin {
    pub(super) fn room(&self) -> &RoomName {
        &self.joined.seat.room
    }

    /// The member keeps its own position until it has been told another one.
    fn membership(&self) -> Membership {
        let position = self.options.since.as_ref().unwrap_or(&self.position).clone();
        Membership { filter: self.options.filter.clone(), position }
    }

    /// Set if messages before the position are lost to the member.
    pub(super) fn gap(&self) -> Option<ReportedGap> {
        let since = self.options.since.as_ref().filter(|_| self.recovered == Some(false))?;
        Some((self.room().clone(), since.epoch.clone(), self.position.clone()))
    }
}

impl CompletedJoin {
    /// The result of a join that was refused. `name` is the name that the client used.
    pub(super) fn refused(name: &str, refusal: Refusal, kind: AnswerKind) -> Self {
        let (status, recovered) = match kind {
            AnswerKind::Subscribed => (Some(reply::RoomStatus::Rejected), None),
            AnswerKind::Resumed => (None, Some(false)),
        };
        let result = reply::RoomResult { recovered, ..reply::RoomResult::refused(name, status, refusal) };
        Self { result, gap: None, replay: None }
    }
}

impl PendingJoin {
    /// `name` is the name that the client used. An entry without options is refused without asking the shard.
    pub(super) fn new(name: &str, options: Result<JoinOptions, Refusal>) -> Self {
        let state = match options {
            Ok(options) => JoinState::Requested(options),
            Err(refusal) => JoinState::Refused(refusal, None),
        };
        Self { name: clip(name).to_owned(), state }
    }

    /// An entry that is requested only if other entries of the request leave room for it.
    pub(super) fn deferred(name: &str, options: JoinOptions) -> Self {
        Self { name: clip(name).to_owned(), state: JoinState::Deferred(options) }
    }

    /// Whether the shard has granted it.
    pub(super) fn is_granted(&self) -> bool {
        matches!(self.state, JoinState::Granted(_) | JoinState::Offered(..))
    }

    /// The canonical name of the room, once the shard has answered. A join that is refused later keeps it.
    pub(super) fn room(&self) -> Option<&RoomName> {
        match &self.state {
            JoinState::Granted(granted) => Some(granted.room()),
            JoinState::Offered(_, offer) => Some(&offer.room),
            JoinState::Refused(_, room) => room.as_ref(),
            _ => None,
        }
    }

    /// What the store must record, if the join was granted.
    pub(super) fn record(&self) -> Option<Join> {
        match &self.state {
            JoinState::Granted(granted) => {
                Some(Join { room: granted.room().clone(), membership: granted.membership(), anew: true })
            }
            JoinState::Offered(options, offer) => {
                // Without a new position the member keeps the recorded one. If the store has none, the member
                // joins at the room's position.
                let anew = options.since.is_some();
                let position = options.since.as_ref().unwrap_or(&offer.position).clone();
                let membership = Membership { filter: options.filter.clone(), position };
                Some(Join { room: offer.room.clone(), membership, anew })
            }
            _ => None,
        }
    }

    /// Leaves the room, because the join could not be recorded. Buffered messages are dropped.
    pub(super) async fn cancel(self, refusal: &Refusal) -> Self {
        let room = self.room().cloned();
        let state = match self.state {
            JoinState::Granted(granted) => {
                granted.joined.seat.leave().await;
                JoinState::Refused(refusal.clone(), room)
            }
            JoinState::Offered(..) => JoinState::Refused(refusal.clone(), room),
            state => state,
        };
        Self { name: self.name, state }
    }

    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match &self.state {
            JoinState::Refused(refusal, _) => Some(refusal),
            _ => None,
        }
    }
}

/// The start of a name, as long as a valid name may be.
pub(super) fn clip(name: &str) -> &str {
    let end = (0..=MAX_NAME_BYTES.min(name.len())).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    &name[..end]
}

/// The refusal of an entry for a room that another entry of the request names: it is not clear which one
/// applies.
pub(super) fn named_twice(room: &RoomName) -> Refusal {
    Refusal::invalid(format!("another entry of this request is for room '{}'; name it once", &**room))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    fn position(epoch: &str, offset: u64) -> Position {
        Position { epoch: epoch.into(), offset }
    }

    /// The store may have lost the membership that the offer is for. A position without an epoch would then
    /// make the next resume report messages as lost that are stored.
    #[test]
    fn an_accepted_offer_is_recorded_at_a_position_of_the_room() {
        let room = RoomName::parse("prices").unwrap();
        let recorded = |since: Option<Position>| {
            let offer = Offer::new(
                room.clone(),
                position("e1", 7),
                (None, None),
                "acme".into(),
                mpsc::unbounded_channel().0,
            );
            let options = JoinOptions { room: room.clone(), filter: None, since };
            let join = PendingJoin { name: room.to_string(), state: JoinState::Offered(options, offer) };
            let Join { membership, anew, .. } = join.record().expect("it was granted");
            (membership.position, anew)
        };
        assert_eq!(recorded(None), (position("e1", 7), false));
        assert_eq!(recorded(Some(position("e1", 3))), (position("e1", 3), true));
    }
}
