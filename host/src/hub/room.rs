//! One room's members on this node, grouped by filter, and what a message does among them. No I/O and no clock.

use super::{Connection, catch_up::CatchUp, command::*, flush::Pace};
use crate::{
    outbox::Put,
    plugin::FilterId,
    protocol::{Position, Publication, reply},
    room::RoomName,
    store::ConnectionId,
};
use std::{collections::HashMap, sync::Arc};

pub struct Room {
    name: RoomName,
    /// The newest message that was routed.
    position: Position,
    /// Unfiltered members first, so that they are not looked for.
    groups: Vec<Group>,
    /// Where the group of a filter is.
    places: HashMap<FilterId, usize>,
    seats: HashMap<ConnectionId, Place>,
    catching_up: HashMap<ConnectionId, CatchUp>,
    next_serial: u64,
    pub pace: Pace,
}

struct Group {
    filter: Option<FilterId>,
    members: Vec<Arc<Connection>>,
}

/// Where a member is: in a group, or catching up (then `index` says nothing).
struct Place {
    serial: u64,
    filter: Option<FilterId>,
    index: usize,
}

/// What the filters of [`Room::filters`], in that order, say of a message. Without bits the plugin failed: the
/// message is lost to the members behind them, who are told.
pub struct Verdicts<'a> {
    pub filters: &'a [FilterId],
    /// Bit n%64 of word n/64 answers for the n-th.
    pub bits: Option<&'a [u64]>,
}

/// How a message fared.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    pub members: u64,
    /// Members that were told of a gap because their filter could not be asked.
    pub gaps: u64,
}

impl Room {
    pub fn new(name: RoomName, position: Position) -> Self {
        let groups = vec![Group { filter: None, members: vec![] }];
        let (places, seats, catching_up) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { name, position, groups, places, seats, catching_up, next_serial: 0, pace: Pace::default() }
    }

    pub fn position(&self) -> &Position {
        &self.position
    }

    pub fn len(&self) -> usize {
        self.seats.len()
    }

    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Seats a member, in the place of an earlier seat of the same connection, whose filter is given back. From
    /// here on every message reaches it or is kept back for it, and what the earlier seat owed it is not forgotten.
    pub fn join(
        &mut self,
        connection: Arc<Connection>,
        filter: Option<FilterId>,
        since: Option<Position>,
        keep_back: bool,
        brought_to: Option<u64>,
    ) -> (SeatId, Recovery, Option<FilterId>) {
        let id = connection.id;
        let (owed, freed) = match self.catching_up.remove(&id) {
            Some(owed) => {
                let freed = self.seats.remove(&id).and_then(|place| place.filter);
                (owed.settle_or_resume(brought_to), freed)
            }
            None => (None, self.remove(id).and_then(|(_, filter)| filter)),
        };
        let owed = owed.map(|offset| Position { epoch: self.position.epoch.clone(), offset });
        let recovery = match since.or(owed) {
            None => Recovery::NotAsked,
            Some(since) if since.epoch != self.position.epoch => Recovery::Impossible,
            Some(since) if since.offset > self.position.offset => Recovery::Impossible,
            Some(since) if since.offset == self.position.offset => Recovery::Complete,
            Some(since) => Recovery::After(since.offset),
        };
        self.next_serial += 1;
        let serial = self.next_serial;
        if keep_back || matches!(recovery, Recovery::After(_)) {
            let from = self.position.offset;
            self.catching_up.insert(id, CatchUp::new(connection, filter, from));
            self.seats.insert(id, Place { serial, filter, index: usize::MAX });
        } else {
            self.go_live(connection, filter, serial);
        }
        (SeatId { connection: id, serial }, recovery, freed)
    }

    fn go_live(&mut self, connection: Arc<Connection>, filter: Option<FilterId>, serial: u64) {
        let group = match (self.group(filter), filter) {
            (Some(group), _) => group,
            (None, filter) => {
                self.groups.push(Group { filter, members: vec![] });
                let group = self.groups.len() - 1;
                self.places.extend(filter.map(|filter| (filter, group)));
                group
            }
        };
        let index = self.groups[group].members.len();
        self.seats.insert(connection.id, Place { serial, filter, index });
        self.groups[group].members.push(connection);
    }

    /// Whose seat it was and the filter to be given back; `None`: the seat is not there any more.
    pub fn leave(&mut self, seat: SeatId) -> Option<(Arc<str>, Option<FilterId>)> {
        let (connection, filter) = self.holds(seat).then(|| self.remove(seat.connection)).flatten()?;
        Some((connection.principal.clone(), filter))
    }

    fn remove(&mut self, id: ConnectionId) -> Option<(Arc<Connection>, Option<FilterId>)> {
        let place = self.seats.remove(&id)?;
        if let Some(catch_up) = self.catching_up.remove(&id) {
            return Some((catch_up.connection, place.filter));
        }
        let group = self.group(place.filter)?;
        let members = &mut self.groups[group].members;
        let connection = members.swap_remove(place.index);
        if let Some(moved) = members.get(place.index).map(|moved| moved.id) {
            self.seats.get_mut(&moved).expect("members have seats").index = place.index;
        } else if members.is_empty() && place.filter.is_some() {
            self.groups.swap_remove(group);
            self.places.extend(self.groups.get(group).and_then(|moved| Some((moved.filter?, group))));
            place.filter.map(|filter| self.places.remove(&filter));
        }
        Some((connection, place.filter))
    }

    fn group(&self, filter: Option<FilterId>) -> Option<usize> {
        match filter {
            None => Some(0),
            Some(filter) => self.places.get(&filter).copied(),
        }
    }

    pub fn holds(&self, seat: SeatId) -> bool {
        self.seats.get(&seat.connection).is_some_and(|place| place.serial == seat.serial)
    }

    /// The filter of a seat that is held.
    pub fn filter_of(&self, seat: SeatId) -> Option<Option<FilterId>> {
        self.seats.get(&seat.connection).filter(|place| place.serial == seat.serial).map(|place| place.filter)
    }

    /// The filters that a message is to be asked of, each once: those of the groups, then, in order, those of which all
    /// members are catching up.
    pub fn filters(&self, into: &mut Vec<FilterId>) {
        into.clear();
        into.extend(self.groups.iter().filter_map(|group| group.filter));
        if !self.catching_up.is_empty() {
            let behind = self.catching_up.values().filter_map(|catch_up| catch_up.filter);
            let mut behind: Vec<_> = behind.filter(|filter| !self.places.contains_key(filter)).collect();
            behind.sort_unstable();
            behind.dedup();
            into.append(&mut behind);
        }
    }

    /// Those for whom nothing waited before are put to `wake`, and not woken here.
    pub fn deliver(
        &mut self,
        message: &Arc<Publication>,
        verdicts: &Verdicts,
        wake: &mut Vec<Arc<Connection>>,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        if message.epoch != self.position.epoch || message.offset <= self.position.offset {
            return delivered;
        }
        self.position.offset = message.offset;
        let mut put = |member: &Arc<Connection>, frame| {
            let put = member.outbox.put(frame);
            if put == Put::First {
                wake.push(member.clone());
            }
            u64::from(put != Put::Refused)
        };
        let mut answers = (0..).map(|n| verdicts.nth(n));
        for group in &self.groups {
            match group.filter.map_or(Some(true), |_| answers.next().expect("endless")) {
                Some(true) => {
                    for member in &group.members {
                        delivered.members += put(member, message.frame().clone());
                    }
                }
                Some(false) => {}
                None => {
                    let gap = reply::gap(&self.name, &self.position.epoch, message.offset + 1);
                    for member in &group.members {
                        delivered.gaps += put(member, gap.as_str().into());
                    }
                }
            }
        }
        let grouped = self.groups.len() - 1;
        for catch_up in self.catching_up.values_mut() {
            let of = |filter: FilterId| match self.places.get(&filter) {
                Some(group) => verdicts.nth(group - 1),
                None => verdicts.nth(grouped + verdicts.filters.get(grouped..)?.binary_search(&filter).ok()?),
            };
            catch_up.take(message, catch_up.filter.map_or(Some(true), of));
        }
        delivered
    }

    /// Messages up to `position` are lost to every member, who is told; how many were. A member that catches up is told by
    /// its replay, which finds them missing, unless the room's history began anew: then nothing is left to replay.
    pub fn lose(&mut self, position: Position) -> u64 {
        let anew = position.epoch != self.position.epoch;
        if !anew && position.offset <= self.position.offset {
            return 0;
        }
        self.position = position;
        let gap = reply::gap(&self.name, &self.position.epoch, self.position.offset + 1);
        let mut told = 0;
        if anew {
            for (id, catch_up) in std::mem::take(&mut self.catching_up) {
                let serial = self.seats[&id].serial;
                self.go_live(catch_up.connection, catch_up.filter, serial);
            }
        }
        for catch_up in self.catching_up.values_mut() {
            catch_up.overflow();
        }
        for member in self.groups.iter().flat_map(|group| &group.members) {
            told += u64::from(member.outbox.push(gap.as_str().into()));
        }
        told
    }

    /// A member was sent everything up to `upto`, which is at least where it joined or was last told to go.
    pub fn settle(&mut self, seat: SeatId, upto: u64) -> Settled {
        if !self.holds(seat) {
            return Settled::Gone;
        }
        let Some(catch_up) = self.catching_up.get_mut(&seat.connection) else { return Settled::Live };
        if catch_up.overflowed {
            (catch_up.overflowed, catch_up.from) = (false, self.position.offset);
            return Settled::Behind { upto: self.position.offset };
        }
        let catch_up = self.catching_up.remove(&seat.connection).expect("seen above");
        debug_assert_eq!(catch_up.from, upto, "a replay goes as far as it was told");
        catch_up.hand_over();
        self.go_live(catch_up.connection, catch_up.filter, seat.serial);
        Settled::Live
    }
}

impl Verdicts<'_> {
    /// Of the n-th filter; `None` where the plugin failed.
    fn nth(&self, n: usize) -> Option<bool> {
        Some(self.bits?[n / 64] >> (n % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hub::catch_up::KEPT_BACK, key::Digest, outbox::Outbox};
    use std::future::poll_fn;

    fn connection() -> Arc<Connection> {
        Arc::new(Connection {
            id: ConnectionId::random(),
            session: Default::default(),
            key: Digest::of("k"),
            principal: "acme".into(),
            remote: ([127, 0, 0, 1], 1).into(),
            since: 0,
            rooms: 0.into(),
            ended: false.into(),
            outbox: Outbox::new(1 << 20),
        })
    }

    fn deliver(room: &mut Room, message: &Arc<Publication>, verdicts: &Verdicts) -> Delivered {
        let mut wake = vec![];
        let delivered = room.deliver(message, verdicts, &mut wake);
        wake.iter().for_each(|connection| connection.outbox.wake());
        delivered
    }

    fn room() -> Room {
        Room::new(RoomName::parse("r").unwrap(), at(10))
    }

    fn at(offset: u64) -> Position {
        Position { epoch: "e".into(), offset }
    }

    fn message(offset: u64) -> Arc<Publication> {
        Arc::new(Publication::new("r".into(), "e".into(), offset, 0, None, "1"))
    }

    /// The offsets that wait for a connection, gaps negative.
    async fn waiting(connection: &Connection) -> Vec<i64> {
        connection.outbox.push("end".into());
        let mut frames = vec![];
        poll_fn(|cx| connection.outbox.poll_take(cx, &mut frames)).await;
        frames.pop();
        let offset = |text: &str| {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            let offset = value["offset"].as_i64().unwrap();
            if value["type"] == "gap" { -offset } else { offset }
        };
        frames.iter().map(|frame| offset(frame)).collect()
    }

    const ALL: Verdicts = Verdicts { filters: &[], bits: Some(&[]) };

    #[tokio::test]
    async fn members_of_a_filter_share_its_answer_and_are_told_when_there_is_none() {
        let mut room = room();
        let members: Vec<_> = (0..4).map(|_| connection()).collect();
        let filters = [None, Some(FilterId::new(5)), Some(FilterId::new(6)), Some(FilterId::new(6))];
        for (member, filter) in members.iter().zip(filters) {
            room.join(member.clone(), filter, None, false, None);
        }
        let mut filters = vec![];
        room.filters(&mut filters);
        assert_eq!(filters, [FilterId::new(5), FilterId::new(6)]);
        let only_the_second = Verdicts { filters: &filters, bits: Some(&[0b10]) };
        assert_eq!(deliver(&mut room, &message(11), &only_the_second), Delivered { members: 3, gaps: 0 });
        let failed = Verdicts { filters: &filters, bits: None };
        assert_eq!(deliver(&mut room, &message(12), &failed), Delivered { members: 1, gaps: 3 });
        let mut seen = vec![];
        for member in &members {
            seen.push(waiting(member).await);
        }
        assert_eq!(seen, [vec![11, 12], vec![-13], vec![11, -13], vec![11, -13]]);
    }

    #[tokio::test]
    async fn who_catches_up_is_asked_about_beside_the_live() {
        let mut room = room();
        let filter = |number| Some(FilterId::new(number));
        for live in [5, 6] {
            room.join(connection(), filter(live), None, false, None);
        }
        let behind: Vec<_> = [9, 6, 7, 9].map(|number| (connection(), filter(number))).into();
        let seats: Vec<_> = behind
            .iter()
            .map(|(member, filter)| room.join(member.clone(), *filter, Some(at(10)), true, None).0)
            .collect();
        let mut filters = vec![];
        room.filters(&mut filters);
        assert_eq!(filters, [5, 6, 7, 9].map(FilterId::new));
        // 6 and 9 pass.
        deliver(&mut room, &message(11), &Verdicts { filters: &filters, bits: Some(&[0b1010]) });
        for seat in seats {
            assert_eq!(room.settle(seat, 10), Settled::Live);
        }
        let mut seen = vec![];
        for (member, _) in &behind {
            seen.push(waiting(member).await.len());
        }
        assert_eq!(seen, [1, 1, 0, 1]);
        // All are live now, in a group for each filter.
        room.filters(&mut filters);
        assert_eq!(filters, [5, 6, 9, 7].map(FilterId::new));
    }

    #[tokio::test]
    async fn live_messages_follow_a_replay_in_order_and_once() {
        let mut room = room();
        let member = connection();
        let (seat, recovery, _) = room.join(member.clone(), None, Some(at(7)), false, None);
        assert_eq!(recovery, Recovery::After(7));
        deliver(&mut room, &message(11), &ALL);
        member.outbox.push(message(8).frame().clone());
        assert_eq!(room.settle(seat, 10), Settled::Live);
        deliver(&mut room, &message(12), &ALL);
        deliver(&mut room, &message(12), &ALL);
        assert_eq!(waiting(&member).await, [8, 11, 12]);
    }

    #[tokio::test]
    async fn a_replay_that_is_overtaken_goes_on_from_history() {
        let mut room = room();
        let member = connection();
        let (seat, ..) = room.join(member.clone(), None, Some(at(9)), false, None);
        let overtaken = 10 + KEPT_BACK as u64 + 1;
        for offset in 11..=overtaken {
            deliver(&mut room, &message(offset), &ALL);
        }
        assert_eq!(room.settle(seat, 10), Settled::Behind { upto: overtaken });
        deliver(&mut room, &message(overtaken + 1), &ALL);
        assert_eq!(room.settle(seat, overtaken), Settled::Live);
        assert_eq!(waiting(&member).await, [overtaken as i64 + 1]);
    }

    #[tokio::test]
    async fn who_joins_anew_while_catching_up_is_not_forgotten_what_is_owed() {
        let mut room = room();
        let member = connection();
        room.join(member.clone(), None, None, true, None);
        deliver(&mut room, &message(11), &ALL);
        let (_, recovery, _) = room.join(member.clone(), None, None, true, Some(10));
        assert_eq!(recovery, Recovery::NotAsked);
        assert_eq!(waiting(&member).await, [11], "all before was sent, so it is handed over");

        let (old, ..) = room.join(member.clone(), Some(FilterId::new(1)), Some(at(5)), false, None);
        deliver(&mut room, &message(12), &ALL);
        let (seat, recovery, freed) = room.join(member.clone(), None, None, true, Some(7));
        assert_eq!((recovery, freed), (Recovery::After(7), Some(FilterId::new(1))));
        assert_eq!(waiting(&member).await, [0i64; 0], "8 to 10 come first");
        assert_eq!((room.settle(old, 10), room.settle(seat, 12)), (Settled::Gone, Settled::Live));
    }

    #[tokio::test]
    async fn what_is_lost_is_told_to_each_member_once_and_a_new_epoch_takes_over() {
        let mut room = room();
        let (live, behind) = (connection(), connection());
        room.join(live.clone(), None, None, false, None);
        let (seat, ..) = room.join(behind.clone(), None, Some(at(9)), false, None);
        assert_eq!(room.lose(at(14)), 1, "who catches up is told by the replay");
        deliver(&mut room, &message(15), &ALL);
        assert_eq!(waiting(&live).await, [-15, 15], "the first that still comes");
        assert_eq!(room.settle(seat, 10), Settled::Behind { upto: 15 });
        assert_eq!(room.lose(at(15)), 0, "what was routed is not lost");

        let anew = Position { epoch: "anew".into(), offset: 2 };
        assert_eq!(room.lose(anew.clone()), 2);
        assert_eq!(room.settle(seat, 15), Settled::Live);
        assert_eq!((waiting(&live).await, waiting(&behind).await), (vec![-3], vec![-3]));
        deliver(&mut room, &message(16), &ALL);
        assert_eq!(room.position(), &anew, "of the old epoch nothing is routed");
    }

    #[tokio::test]
    async fn recovery_is_refused_for_what_cannot_be_known() {
        let mut room = room();
        let foreign = Position { epoch: "other".into(), offset: 3 };
        for (since, expected) in [
            (None, Recovery::NotAsked),
            (Some(at(10)), Recovery::Complete),
            (Some(at(11)), Recovery::Impossible),
            (Some(foreign), Recovery::Impossible),
        ] {
            assert_eq!(room.join(connection(), None, since, false, None).1, expected);
        }
    }

    #[tokio::test]
    async fn a_second_seat_replaces_the_first_and_an_old_one_cannot_leave_for_it() {
        let mut room = room();
        let (first, second) = (connection(), connection());
        let (old, ..) = room.join(first.clone(), Some(FilterId::new(1)), None, false, None);
        room.join(second.clone(), Some(FilterId::new(1)), None, false, None);
        let (_, _, freed) = room.join(first.clone(), None, None, false, None);
        assert_eq!(freed, Some(FilterId::new(1)));
        assert!(room.leave(old).is_none());
        let passes = Verdicts { filters: &[FilterId::new(1)], bits: Some(&[1]) };
        assert_eq!(deliver(&mut room, &message(11), &passes).members, 2);
        assert_eq!(room.len(), 2);
        assert_eq!((waiting(&first).await, waiting(&second).await), (vec![11], vec![11]));
    }
}
