//! One room's members on this node, grouped by filter, and what a message does among them. No I/O and no clock.

mod epoch;

use super::{
    Connection,
    catch_up::{CatchUp, Progress},
    command::*,
    flush::Pace,
};
use crate::outbox::Put;
use std::{collections::HashMap, sync::Arc};
use switchyard_plugin::{FilterId, FilterResults};
use switchyard_protocol::{Position, Publication, reply, room::RoomName};
use switchyard_store::ConnectionId;

pub(crate) struct Room {
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

/// What the filters of [`Room::filters`], in that order, say of a message. Where it is lost to the members behind one, or to
/// all because there are no bits, they are told.
pub(crate) struct Verdicts<'a> {
    pub filters: &'a [FilterId],
    pub bits: Option<&'a FilterResults>,
}

/// A seat that was taken.
pub(crate) struct Taken {
    pub seat: SeatId,
    pub recovery: Recovery,
    /// How far the member was brought, where it has to catch up.
    pub behind: Option<Progress>,
    /// The filter of an earlier seat, to be given back.
    pub freed: Option<FilterId>,
}

/// How a message fared.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub members: u64,
    /// Members that were told of a gap because their filter could not be asked.
    pub gaps: u64,
}

impl Room {
    pub(crate) fn new(name: RoomName, position: Position) -> Self {
        let groups = vec![Group { filter: None, members: vec![] }];
        let (places, seats, catching_up) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { name, position, groups, places, seats, catching_up, next_serial: 0, pace: Pace::default() }
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

    /// Seats a member, in the place of an earlier seat of the same connection. From
    /// here on every message reaches it or is kept back for it. What the earlier seat owed it is not forgotten, unless it
    /// says itself where it is.
    pub(crate) fn join(
        &mut self,
        connection: Arc<Connection>,
        filter: Option<FilterId>,
        since: Option<Position>,
        keep_back: bool,
    ) -> Taken {
        let id = connection.id;
        if since.is_some() || !self.seats.contains_key(&id) {
            // What it is told now is the answer to this.
            connection.pings.forget(&self.name);
        }
        let (owed, freed) = match self.catching_up.remove(&id) {
            Some(earlier) => {
                earlier.progress.end();
                let freed = self.seats.remove(&id).and_then(|place| place.filter);
                let owed = since.is_none().then(|| earlier.hand_over_or_resume(&self.position));
                (owed.flatten(), freed)
            }
            None => (None, self.remove(id).and_then(|(_, filter)| filter)),
        };
        let recovery = match since.or(owed) {
            None => Recovery::NotAsked,
            Some(since) if since == self.position => Recovery::Complete,
            Some(since) => Recovery::After(since),
        };
        self.next_serial += 1;
        let serial = self.next_serial;
        let behind = match &recovery {
            Recovery::After(since) => Some(Progress::new(since.clone())),
            _ => keep_back.then(|| Progress::new(self.position.clone())),
        };
        match &behind {
            Some(progress) => {
                let catch_up = CatchUp::new(connection, filter, self.position.offset, progress.clone());
                self.catching_up.insert(id, catch_up);
                self.seats.insert(id, Place { serial, filter, index: usize::MAX });
            }
            None => self.go_live(connection, filter, serial),
        }
        Taken { seat: SeatId { connection: id, serial }, recovery, behind, freed }
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
    pub(crate) fn leave(&mut self, seat: SeatId) -> Option<(Arc<Connection>, Option<FilterId>)> {
        let (connection, filter) = self.holds(seat).then(|| self.remove(seat.connection)).flatten()?;
        connection.pings.forget(&self.name);
        Some((connection, filter))
    }

    fn remove(&mut self, id: ConnectionId) -> Option<(Arc<Connection>, Option<FilterId>)> {
        let place = self.seats.remove(&id)?;
        if let Some(catch_up) = self.catching_up.remove(&id) {
            catch_up.progress.end();
            return Some((catch_up.connection.clone(), place.filter));
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

    /// Whether a connection is a member.
    pub(crate) fn has(&self, connection: ConnectionId) -> bool {
        self.seats.contains_key(&connection)
    }

    pub(crate) fn holds(&self, seat: SeatId) -> bool {
        self.seats.get(&seat.connection).is_some_and(|place| place.serial == seat.serial)
    }

    /// The filter of a seat that is held, and whose seat it is.
    pub(crate) fn filter_of(&self, seat: SeatId) -> Option<(Option<FilterId>, Arc<str>)> {
        let place = self.seats.get(&seat.connection).filter(|place| place.serial == seat.serial)?;
        let catching_up = self.catching_up.get(&seat.connection).map(|catch_up| &catch_up.connection);
        let live = || self.groups[self.group(place.filter)?].members.get(place.index);
        let connection = catching_up.or_else(live)?;
        Some((place.filter, connection.principal.clone()))
    }

    /// The filters that a message is to be asked of, each once: those of the groups, then, in order, those of which all
    /// members are catching up.
    pub(crate) fn filters(&self, into: &mut Vec<FilterId>) {
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

    /// Those for whom nothing waited before are put to `flush`, and not written for here.
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
            let put = member.outbox.put(frame);
            if put == Put::First {
                flush.push(member.clone());
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
        if !self.catching_up.is_empty() {
            self.settle_waiting();
        }
        delivered
    }
}

impl Verdicts<'_> {
    /// Of the n-th filter; `None` where the plugin failed.
    fn nth(&self, n: usize) -> Option<bool> {
        let bits = self.bits?;
        (!bits.is_lost(n)).then(|| bits.passes(n))
    }
}

#[cfg(test)]
pub(crate) mod tests;
