//! How rooms get to another shard when their governor changes: the previous owner hands a room over between two
//! messages, with its members, and the new one judges them before it delivers anything. Does not decide which shard owns
//! a room.

use super::*;
use crate::hub::{
    refusals::{changing_governor, renamed},
    room::MemberToJudge,
    router::SlotId,
};
use std::collections::BTreeMap;
use switchyard_process::{
    fair_queue::{FairQueue, TurnStep},
    lock::LockExt,
};
use switchyard_protocol::ErrorCode;

/// The length of a principal's turn.
const JUDGING_TURN: Duration = Duration::from_micros(250);
/// When a member that was not judged in time may join again.
const RETRY_MS: u64 = 500;

impl Shard {
    /// Hands the rooms over that this shard has lost, and waits for those that it was given.
    pub(super) fn hand_over(&mut self, handover: &Handover, reply: oneshot::Sender<()>) {
        let Some(router) = self.router.upgrade() else { return };
        let is_lost = |room: &RoomName| handover.next.owner(room) != self.id;
        let lost: Vec<_> = self.rooms.keys().filter(|room| is_lost(room)).cloned().collect();
        let mut handed: BTreeMap<ShardId, Vec<HandedRoom>> = BTreeMap::new();
        for name in lost {
            let stays_governed = self.slot().is_some_and(|slot| handover.next.slot(&name) == Some(slot));
            match self.rooms.remove(&name) {
                Some(RoomEntry::Open(room, charge)) => {
                    let owner = handover.next.owner(&name);
                    self.release_members(&room, stays_governed);
                    handed.entry(owner).or_default().push(HandedRoom { name, room, charge });
                }
                Some(RoomEntry::Opening(waiting, _)) => {
                    let refusal =
                        if stays_governed { changing_shard(&name) } else { changing_governor(&name) };
                    self.refuse_all(&name, waiting, &refusal);
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
        self.arrivals.expect(handover.previous.clone(), others(), reply);
    }

    /// Forgets what this shard knows about the members of a room that it hands over. Their places remain if another
    /// shard of the same plugin gets the room.
    fn release_members(&mut self, room: &Room, stays_governed: bool) {
        for (connection, principal, filter) in room.filters_of_members() {
            self.policy.release(filter, principal);
            if !stays_governed {
                self.forget_place(room.name(), connection, principal);
            }
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
        let (until, mut admitted) = (self.arrivals.judging_deadline(Instant::now()), HashMap::new());
        while !to_judge.is_empty() {
            let began = Instant::now();
            to_judge.serve_next(|(name, member)| {
                let judged = match Instant::now() < until {
                    true => self.judge(&name, &member, &mut admitted, until),
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
        self.arrivals.arrived(from);
    }

    /// Decides whether a member may stay, and with which filter. `admitted` counts the members that may.
    fn judge(
        &mut self,
        name: &RoomName,
        member: &MemberToJudge,
        admitted: &mut HashMap<RoomName, u32>,
        until: Instant,
    ) -> Result<(), Refusal> {
        let connection = &member.connection;
        let (principal, key) = (&connection.principal, connection.key.load_full());
        let _question = match &self.governed {
            Some(governed) if self.policy.counts_places() => {
                let question = governed.begin_urgent_question(principal, until);
                Some(question.ok_or_else(|| judged_too_late(name))?)
            }
            _ => None,
        };
        let in_room = admitted.get(name).copied().unwrap_or_default();
        let counts = match &self.governed {
            Some(governed) => governed.places.counts(name, connection.id, principal, in_room),
            None => Counts::default(),
        };
        let canonical = self.policy.resolve(principal, name, |_| true)?;
        if canonical != *name {
            return Err(renamed(name, &canonical));
        }
        let filter = member.filter_text.as_deref();
        let admission = self.policy.admit(canonical, &key.seen_by_plugins, filter, counts)?;
        if let (Policy::Governed(_), Some(governed)) = (&self.policy, &self.governed) {
            let now = Instant::now();
            governed.quotas.locked().set_member_limits(principal, name, &admission.limits, now);
            governed.places.add(name, connection.id, principal);
        }
        if let (Some(room), Some(filter)) = (self.open_room(name), admission.filter) {
            room.set_filter(member.seat, filter);
        }
        *admitted.entry(name.clone()).or_default() += 1;
        Ok(())
    }

    /// The slot of its plugin.
    fn slot(&self) -> Option<SlotId> {
        self.governed.as_ref().map(|governed| governed.slot)
    }

    /// Makes a member leave, and tells its session.
    fn remove_member(&mut self, name: &RoomName, member: &MemberToJudge, reason: Refusal) {
        self.leave(name, member.seat);
        member.connection.remove_seat(RemovedSeat { room: name.clone(), seat: member.seat, reason });
    }
}

/// The refusal of a join to a room that is just being opened while the number of shards of its plugin changes.
fn changing_shard(room: &RoomName) -> Refusal {
    let message =
        format!("room '{}' is being handed over to another thread of its plugin; try again", &**room);
    Refusal::retry(ErrorCode::PluginFailed, message, RETRY_MS)
}

fn judged_too_late(room: &RoomName) -> Refusal {
    let message = format!(
        "the plugin that governs room '{}' now did not admit all of its members in time; subscribe again",
        &**room
    );
    Refusal::retry(ErrorCode::PluginFailed, message, RETRY_MS)
}
