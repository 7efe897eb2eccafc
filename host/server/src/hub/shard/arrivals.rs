//! What a shard does while other shards hand rooms over to it: commands about a room that has not arrived yet wait.
//! Knows nothing of members.

use super::*;
use crate::hub::router::Owners;
use std::collections::{BTreeMap, VecDeque};

/// How long a shard judges the members that arrive with one handover, from the first ones on. The rest must join
/// again. Calls of the plugin take turns, so a principal with slow calls costs others little of this time.
const JUDGING_TIMEOUT: Duration = Duration::from_secs(2);

/// Rooms that other shards have not handed over yet.
#[derive(Default)]
pub(crate) struct Arrivals {
    awaited: Option<Awaited>,
    /// Deferred commands whose room has arrived.
    released: VecDeque<ShardCommand>,
    has_lost_rooms: bool,
}

struct Awaited {
    previous: Arc<Owners>,
    /// The shards that have not handed their rooms over, with the commands about these rooms. The messages
    /// among them count as waiting for this shard, so their number is limited.
    deferred: BTreeMap<ShardId, VecDeque<ShardCommand>>,
    /// Until when members are judged. Set when the first ones arrive.
    judging_until: Option<Instant>,
    reply: oneshot::Sender<()>,
}

impl Arrivals {
    /// Rooms change their owners, and these shards hand theirs over. Sends `reply` when all have.
    pub(super) fn expect(
        &mut self,
        previous: Arc<Owners>,
        sources: impl Iterator<Item = ShardId>,
        reply: oneshot::Sender<()>,
    ) {
        self.has_lost_rooms = true;
        let deferred: BTreeMap<_, _> = sources.map(|id| (id, VecDeque::new())).collect();
        match deferred.is_empty() {
            true => drop(reply.send(())),
            false => self.awaited = Some(Awaited { previous, deferred, judging_until: None, reply }),
        }
    }

    /// Keeps a command if it is about a room that has not arrived yet, and returns it otherwise.
    pub(super) fn defer(&mut self, command: ShardCommand) -> Option<ShardCommand> {
        let Some(awaited) = &mut self.awaited else { return Some(command) };
        let Some(room) = room_of(&command) else { return Some(command) };
        match awaited.deferred.get_mut(&awaited.previous.owner(room)) {
            Some(deferred) => {
                deferred.push_back(command);
                None
            }
            None => Some(command),
        }
    }

    /// The next deferred command whose room has arrived.
    pub(super) fn next_released(&mut self) -> Option<ShardCommand> {
        self.released.pop_front()
    }

    /// Whether this shard has ever lost rooms. Requests for them may still be waiting.
    pub(super) fn has_lost_rooms(&self) -> bool {
        self.has_lost_rooms
    }

    /// Until when members that arrive now are judged.
    pub(super) fn judging_deadline(&mut self, now: Instant) -> Instant {
        let until = now + JUDGING_TIMEOUT;
        self.awaited.as_mut().map_or(until, |awaited| *awaited.judging_until.get_or_insert(until))
    }

    /// A shard has handed its rooms over.
    pub(super) fn arrived(&mut self, from: ShardId) {
        let Some(awaited) = &mut self.awaited else { return };
        self.released.extend(awaited.deferred.remove(&from).into_iter().flatten());
        if awaited.deferred.is_empty()
            && let Some(awaited) = self.awaited.take()
        {
            awaited.reply.send(()).ok();
        }
    }
}

/// The room that a command is about, if it depends on the room's members.
fn room_of(command: &ShardCommand) -> Option<&str> {
    match command {
        ShardCommand::Request(request) => Some(request.room()),
        ShardCommand::Leave { room, .. }
        | ShardCommand::Acknowledge { room, .. }
        | ShardCommand::FinishCatchUp { room, .. } => Some(room),
        ShardCommand::Store(event) => match event {
            Event::Published(message) => Some(&message.room),
            Event::Subscribed { room, .. } | Event::SubscribeFailed { room } | Event::Lost { room, .. } => {
                Some(room)
            }
            Event::TakenOver(_) | Event::Probe(_) | Event::Reconnected => None,
        },
        // An offer was made by this shard, before it lost the room.
        ShardCommand::Accept { .. }
        | ShardCommand::Decline { .. }
        | ShardCommand::PrepareSwap(_)
        | ShardCommand::Mirror(_)
        | ShardCommand::HandOver { .. }
        | ShardCommand::Adopt { .. }
        | ShardCommand::Survey { .. }
        | ShardCommand::Written => None,
    }
}
