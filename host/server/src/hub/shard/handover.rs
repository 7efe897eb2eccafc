//! How rooms get to another shard when their governor changes: the previous owner hands a room over between two
//! messages, with its members, and the new one judges them before it delivers anything. Commands about a
//! room that has not arrived yet wait. Does not decide which shard owns a room.

use super::*;
use crate::hub::{
    Connection,
    room::MemberToJudge,
    router::{Owners, changing_governor},
};
use std::collections::{BTreeMap, VecDeque};
use switchyard_plugin::Principal;
use switchyard_process::fair_queue::{FairQueue, TurnStep};
use switchyard_protocol::ErrorCode;

/// How long the members that arrive with one handover are judged. Those who are left must join again. Calls of
/// the plugin take turns, so a principal with slow calls costs others little of this time.
const JUDGING_TIMEOUT: Duration = Duration::from_secs(2);
/// The length of a principal's turn.
const JUDGING_TURN: Duration = Duration::from_micros(250);
/// When a member that was not judged in time may join again.
const RETRY_MS: u64 = 500;

/// Rooms that other shards have not handed over yet.
#[derive(Default)]
pub(crate) struct Arrivals {
    awaited: Option<Awaited>,
    /// Deferred commands whose room has arrived.
    released: VecDeque<ShardCommand>,
    /// Whether this shard has ever lost rooms. Requests for them may still be waiting.
    has_lost_rooms: bool,
}

struct Awaited {
    previous: Arc<Owners>,
    /// The shards that have not handed their rooms over, with the commands about these rooms. The messages
    /// among them count as waiting for this shard, so their number is limited.
    deferred: BTreeMap<ShardId, VecDeque<ShardCommand>>,
    reply: oneshot::Sender<()>,
}

impl Arrivals {
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

    fn arrived(&mut self, from: ShardId) {
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
            Event::TakenOver(_) | Event::Probe(_) => None,
        },
        // An offer was made by this shard, before it lost the room.
        ShardCommand::Accept { .. }
        | ShardCommand::Decline { .. }
        | ShardCommand::Swap { .. }
        | ShardCommand::Mirror(_)
        | ShardCommand::HandOver { .. }
        | ShardCommand::Adopt { .. }
        | ShardCommand::Written => None,
    }
}

impl Shard {
    /// Returns a request if this shard owns its room and has it. Otherwise the request waits for the room, or is
    /// passed on to the new owner.
    pub(super) fn keep_own(&mut self, request: PolicyRequest) -> Option<PolicyRequest> {
        let Some(ShardCommand::Request(request)) = self.arrivals.defer(ShardCommand::Request(request)) else {
            return None;
        };
        if !self.arrivals.has_lost_rooms {
            return Some(request);
        }
        let router = self.router.upgrade()?;
        let owner = router.owner(request.room());
        if owner == self.id {
            return Some(request);
        }
        router.send_to(owner, ShardCommand::Request(request));
        None
    }

    /// Hands the rooms over that this shard has lost, and waits for those that it was given.
    pub(super) fn hand_over(&mut self, handover: &Handover, reply: oneshot::Sender<()>) {
        let Some(router) = self.router.upgrade() else { return };
        let is_lost = |room: &RoomName| handover.next.owner(room) != self.id;
        let lost: Vec<_> = self.rooms.keys().filter(|room| is_lost(room)).cloned().collect();
        let mut handed: BTreeMap<ShardId, Vec<HandedRoom>> = BTreeMap::new();
        for name in lost {
            match self.rooms.remove(&name) {
                Some(RoomEntry::Open(room, charge)) => {
                    self.release_members(&room);
                    let owner = handover.next.owner(&name);
                    handed.entry(owner).or_default().push(HandedRoom { name, room, charge });
                }
                Some(RoomEntry::Opening(waiting, _)) => {
                    self.refuse_all(&name, waiting, &changing_governor(&name));
                    self.store.broker.unsubscribe(&name);
                }
                None => {}
            }
        }
        self.free_memory();
        let others = || handover.sources.iter().copied().filter(|id| *id != self.id);
        for id in others() {
            let rooms = handed.remove(&id).unwrap_or_default();
            router.send_to(id, ShardCommand::Adopt { from: self.id, rooms });
        }
        debug_assert!(handed.is_empty(), "rooms go to shards that expect them");
        let deferred: BTreeMap<_, _> = others().map(|id| (id, VecDeque::new())).collect();
        self.arrivals.has_lost_rooms = true;
        if deferred.is_empty() {
            reply.send(()).ok();
            return;
        }
        self.arrivals.awaited = Some(Awaited { previous: handover.previous.clone(), deferred, reply });
    }

    /// Forgets what this shard knows about the members of a room that it hands over.
    fn release_members(&mut self, room: &Room) {
        for (connection, principal, filter) in room.filters_of_members() {
            self.policy.release(filter, principal);
            self.room_usage.remove(room.name(), connection, principal);
        }
        for text in room.filter_texts() {
            self.filter_texts.release(Some(text.clone()));
        }
    }

    /// Takes rooms over: judges their members, and then handles what has happened meanwhile.
    pub(super) fn adopt(&mut self, from: ShardId, rooms: Vec<HandedRoom>) {
        let mut to_judge = FairQueue::default();
        for HandedRoom { name, mut room, charge } in rooms {
            for member in room.begin_judging() {
                let text = self.filter_texts.share(member.filter_text.clone());
                room.set_filter_text(member.seat.connection, text);
                to_judge.push(member.connection.principal.clone(), (name.clone(), member));
            }
            self.rooms.insert(name, RoomEntry::Open(room, charge));
        }
        let (until, mut admitted) = (Instant::now() + JUDGING_TIMEOUT, HashMap::new());
        while !to_judge.is_empty() {
            let began = Instant::now();
            to_judge.serve_next(|(name, member)| {
                let judged = match Instant::now() < until {
                    true => self.judge(&name, &member, &mut admitted),
                    false => Err(judged_too_late(&name)),
                };
                if let Err(reason) = judged {
                    self.remove_member(&name, &member, reason);
                }
                match began.elapsed() < JUDGING_TURN {
                    true => TurnStep::Continue,
                    false => TurnStep::End,
                }
            });
        }
        self.update_publishers();
        self.arrivals.arrived(from);
    }

    /// Decides whether a member may stay, and with which filter. `admitted` counts the members that may.
    fn judge(
        &mut self,
        name: &RoomName,
        member: &MemberToJudge,
        admitted: &mut HashMap<RoomName, u32>,
    ) -> Result<(), Refusal> {
        let connection = &member.connection;
        let (usage, in_room) = (&self.room_usage, admitted.get(name).copied().unwrap_or_default());
        let counts = |room: &RoomName| {
            let (of_connection, of_principal) = usage.other_rooms(room, connection.id, &connection.principal);
            Counts { of_connection, of_principal, in_room }
        };
        let Connection { principal, key_id, tier, .. } = &**connection;
        let principal = Principal::new(principal.clone(), key_id.clone(), tier.clone());
        let filter = member.filter_text.as_deref();
        let admission = self.policy.admit(name, &principal, filter, counts, |_| true)?;
        if admission.room != *name {
            self.policy.release(admission.filter, &connection.principal);
            let message =
                format!("room '{}' is now called '{}'; subscribe to that", &**name, &*admission.room);
            return Err(Refusal::new(ErrorCode::RoomRejected, message));
        }
        if matches!(self.policy, Policy::Governed(_)) {
            self.quotas.set_member_limits(&connection.principal, name, &admission.limits, Instant::now());
            self.room_usage.add(name, connection.id, &connection.principal);
        }
        if let (Some(room), Some(filter)) = (self.open_room(name), admission.filter) {
            room.set_filter(member.seat, filter);
        }
        *admitted.entry(name.clone()).or_default() += 1;
        Ok(())
    }

    /// Makes a member leave, and tells its session.
    fn remove_member(&mut self, name: &RoomName, member: &MemberToJudge, reason: Refusal) {
        self.leave(name, member.seat);
        member.connection.remove_seat(RemovedSeat { room: name.clone(), seat: member.seat, reason });
    }
}

fn judged_too_late(room: &RoomName) -> Refusal {
    let message = format!(
        "the plugin that governs room '{}' now did not admit all of its members in time; subscribe again",
        &**room
    );
    Refusal::retry(ErrorCode::PluginFailed, message, RETRY_MS)
}
