//! One room: its members on this node, grouped by filter, and the delivery of messages to them. Has no I/O
//! and no clock.

mod epoch;
mod handover;

pub(crate) use handover::MemberToJudge;

use super::{
    Connection,
    catch_up::{CatchUp, Progress},
    command::*,
    flush::MessagePace,
};
use crate::outbox::PutOutcome;
use std::{collections::HashMap, sync::Arc};
use switchyard_plugin::{FilterId, FilterResults};
use switchyard_protocol::{Position, Publication, reply, room::RoomName};
use switchyard_store::ConnectionId;

/// A room on this node.
pub(crate) struct Room {
    name: RoomName,
    /// The position of the newest message that was delivered.
    position: Position,
    /// The live members. The first group has no filter; it is always there.
    groups: Vec<FilterGroup>,
    /// The index of each other group.
    group_of: HashMap<FilterId, usize>,
    seats: HashMap<ConnectionId, SeatEntry>,
    catching_up: HashMap<ConnectionId, CatchUp>,
    /// The filters of members as the clients wrote them, so that another governor can judge them.
    filter_texts: HashMap<ConnectionId, Arc<str>>,
    next_serial: u64,
    pub pace: MessagePace,
}

/// Live members with the same filter.
struct FilterGroup {
    filter: Option<FilterId>,
    members: Vec<Arc<Connection>>,
}

/// The seat of a member.
struct SeatEntry {
    serial: u64,
    filter: Option<FilterId>,
    /// Its index in the group of its filter. Meaningless while it catches up.
    index: usize,
}

/// The results of a message's filters.
pub(crate) struct Verdicts<'a> {
    /// As [`Room::filters`] returned them.
    pub filters: &'a [FilterId],
    /// In the order of `filters`. If a result is lost, or all are (`None`), the members with that filter are
    /// told of a gap.
    pub results: Option<&'a FilterResults>,
}

/// The result of joining a room.
pub(crate) struct NewSeat {
    pub seat: SeatId,
    pub recovery: Recovery,
    /// How far the member has got, if it has to catch up.
    pub progress: Option<Progress>,
    /// The filter of the connection's earlier seat. The caller has to release it.
    pub released_filter: Option<FilterId>,
}

/// The outcome of delivering a message to the live members.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// Members that were sent the message.
    pub members: u64,
    /// Members that were told of a gap because their filter failed.
    pub gaps: u64,
}

impl Room {
    pub(crate) fn new(name: RoomName, position: Position) -> Self {
        Self {
            name,
            position,
            groups: vec![FilterGroup { filter: None, members: vec![] }],
            group_of: HashMap::new(),
            seats: HashMap::new(),
            catching_up: HashMap::new(),
            filter_texts: HashMap::new(),
            next_serial: 0,
            pace: MessagePace::default(),
        }
    }

    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Gives a connection a seat, which replaces an earlier seat of the same connection. From here on, every
    /// message is sent to it or buffered for it. Messages that the earlier seat still had to send are sent as
    /// well, unless `since` says where the client is. With `buffer`, or if it missed messages, the member
    /// starts by catching up.
    pub(crate) fn join(
        &mut self,
        connection: Arc<Connection>,
        filter: Option<FilterId>,
        since: Option<Position>,
        buffer: bool,
    ) -> NewSeat {
        let id = connection.id;
        if since.is_some() || !self.seats.contains_key(&id) {
            // The answer to this request tells it the epoch.
            connection.pings.forget(&self.name);
        }
        let (replay_after, released_filter) = match self.catching_up.remove(&id) {
            Some(earlier) => {
                earlier.progress.stop();
                let filter = self.seats.remove(&id).and_then(|entry| entry.filter);
                let replay_after = since.is_none().then(|| earlier.send_or_resume(&self.position));
                (replay_after.flatten(), filter)
            }
            None => (None, self.remove(id).and_then(|(_, filter)| filter)),
        };
        let recovery = match since.or(replay_after) {
            None => Recovery::NotAsked,
            Some(since) if since == self.position => Recovery::Complete,
            Some(since) => Recovery::After(since),
        };
        self.next_serial += 1;
        let serial = self.next_serial;
        let progress = match &recovery {
            Recovery::After(since) => Some(Progress::new(since.clone())),
            _ => buffer.then(|| Progress::new(self.position.clone())),
        };
        match &progress {
            Some(progress) => {
                let catch_up = CatchUp::new(connection, filter, self.position.offset, progress.clone());
                self.catching_up.insert(id, catch_up);
                self.seats.insert(id, SeatEntry { serial, filter, index: usize::MAX });
            }
            None => self.go_live(connection, filter, serial),
        }
        NewSeat { seat: SeatId { connection: id, serial }, recovery, progress, released_filter }
    }

    fn go_live(&mut self, connection: Arc<Connection>, filter: Option<FilterId>, serial: u64) {
        let group = match (self.group(filter), filter) {
            (Some(group), _) => group,
            (None, filter) => {
                self.groups.push(FilterGroup { filter, members: vec![] });
                let group = self.groups.len() - 1;
                self.group_of.extend(filter.map(|filter| (filter, group)));
                group
            }
        };
        let index = self.groups[group].members.len();
        self.seats.insert(connection.id, SeatEntry { serial, filter, index });
        self.groups[group].members.push(connection);
    }

    /// Removes a seat. Returns its connection, and the filter that the caller has to release. `None`: the
    /// seat was already gone.
    pub(crate) fn leave(&mut self, seat: SeatId) -> Option<(Arc<Connection>, Option<FilterId>)> {
        let (connection, filter) = self.is_current(seat).then(|| self.remove(seat.connection)).flatten()?;
        connection.pings.forget(&self.name);
        Some((connection, filter))
    }

    fn remove(&mut self, id: ConnectionId) -> Option<(Arc<Connection>, Option<FilterId>)> {
        let SeatEntry { filter, index, .. } = self.seats.remove(&id)?;
        if let Some(catch_up) = self.catching_up.remove(&id) {
            catch_up.progress.stop();
            return Some((catch_up.connection.clone(), filter));
        }
        let group = self.group(filter)?;
        let members = &mut self.groups[group].members;
        let connection = members.swap_remove(index);
        if let Some(moved) = members.get(index).map(|moved| moved.id) {
            self.seats.get_mut(&moved).expect("members have seats").index = index;
        } else if members.is_empty() && filter.is_some() {
            self.groups.swap_remove(group);
            self.group_of.extend(self.groups.get(group).and_then(|moved| Some((moved.filter?, group))));
            filter.map(|filter| self.group_of.remove(&filter));
        }
        Some((connection, filter))
    }

    fn group(&self, filter: Option<FilterId>) -> Option<usize> {
        match filter {
            None => Some(0),
            Some(filter) => self.group_of.get(&filter).copied(),
        }
    }

    /// Whether a connection is a member.
    pub(crate) fn has_member(&self, connection: ConnectionId) -> bool {
        self.seats.contains_key(&connection)
    }

    /// Whether a seat still exists, and was not replaced by a later one of the same connection.
    fn is_current(&self, seat: SeatId) -> bool {
        self.seat_entry(seat).is_some()
    }

    fn seat_entry(&self, seat: SeatId) -> Option<&SeatEntry> {
        self.seats.get(&seat.connection).filter(|entry| entry.serial == seat.serial)
    }

    /// The filter and the principal of a seat. `None`: the seat is gone.
    pub(crate) fn filter_of(&self, seat: SeatId) -> Option<(Option<FilterId>, Arc<str>)> {
        let entry = self.seat_entry(seat)?;
        let catching_up = self.catching_up.get(&seat.connection).map(|catch_up| &catch_up.connection);
        let live = || self.groups[self.group(entry.filter)?].members.get(entry.index);
        let connection = catching_up.or_else(live)?;
        Some((entry.filter, connection.principal.clone()))
    }

    /// Whether a plugin has to evaluate filters for a message.
    pub(crate) fn has_filters(&self) -> bool {
        let live = self.groups.iter().any(|group| group.filter.is_some());
        live || self.catching_up.values().any(|catch_up| catch_up.filter.is_some())
    }

    /// The distinct filters to evaluate for a message: first those of the live groups, then, sorted, those
    /// that are used only by members that are catching up.
    pub(crate) fn filters(&self, into: &mut Vec<FilterId>) {
        into.clear();
        into.extend(self.groups.iter().filter_map(|group| group.filter));
        if !self.catching_up.is_empty() {
            let behind = self.catching_up.values().filter_map(|catch_up| catch_up.filter);
            let mut behind: Vec<_> = behind.filter(|filter| !self.group_of.contains_key(filter)).collect();
            behind.sort_unstable();
            behind.dedup();
            into.append(&mut behind);
        }
    }

    /// Puts a message into the outboxes of live members, and buffers it for those that are catching up.
    /// Nothing is written here: members whose outbox was empty are added to `flush`.
    pub(crate) fn deliver(
        &mut self,
        message: &Arc<Publication>,
        verdicts: &Verdicts,
        flush: &mut Vec<Arc<Connection>>,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        if message.epoch != self.position.epoch || message.offset <= self.position.offset {
            return delivered;
        }
        self.position.offset = message.offset;
        let mut put = |member: &Arc<Connection>, frame| {
            let outcome = member.outbox.put(frame);
            if outcome == PutOutcome::First {
                flush.push(member.clone());
            }
            u64::from(outcome != PutOutcome::Rejected)
        };
        let mut group_verdicts = (0..).map(|n| verdicts.nth(n));
        for group in &self.groups {
            match group.filter.map_or(Some(true), |_| group_verdicts.next().expect("endless")) {
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
        let group_filters = self.groups.len() - 1;
        for catch_up in self.catching_up.values_mut() {
            let verdict = |filter: FilterId| match self.group_of.get(&filter) {
                Some(group) => verdicts.nth(group - 1),
                None => {
                    let others = verdicts.filters.get(group_filters..)?;
                    verdicts.nth(group_filters + others.binary_search(&filter).ok()?)
                }
            };
            catch_up.buffer(message, catch_up.filter.map_or(Some(true), verdict));
        }
        if !self.catching_up.is_empty() {
            self.answer_waiting_replays();
        }
        delivered
    }
}

impl Verdicts<'_> {
    /// Whether the message passes the n-th filter. `None`: the plugin failed.
    fn nth(&self, n: usize) -> Option<bool> {
        let results = self.results?;
        (!results.is_lost(n)).then(|| results.passes(n))
    }
}

#[cfg(test)]
pub(crate) mod tests;
