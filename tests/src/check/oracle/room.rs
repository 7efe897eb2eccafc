//! The possible states of a room, on a connection and in a session.

use crate::check::filter::Filter;
use std::{collections::BTreeSet, time::Duration};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seat {
    Out,
    In(Filter),
}

/// A room on one connection.
#[derive(Clone, Debug, Default)]
pub struct ConnectionRoom {
    /// The possible states here: one, unless the client was never told which.
    pub seats: BTreeSet<Seat>,
    /// The states that a later connection may find.
    pub possible: BTreeSet<Seat>,
    /// The possible states before each answer.
    pub changes: Vec<(Duration, BTreeSet<Seat>)>,
    /// The changes of unanswered requests.
    pub pending: Vec<Seat>,
    pub epoch: Option<String>,
    /// The last offset that was received, or after which messages begin.
    pub last: Option<u64>,
    /// The offset that was acknowledged, and certainly recorded, before this connection.
    pub recorded_ack: u64,
}

/// A room in a session, over all its connections.
#[derive(Clone, Debug, Default)]
pub struct SessionRoom {
    pub epoch: Option<String>,
    /// Everything up to here was delivered or reported as lost; `None` if this is unknown.
    pub covered: Option<u64>,
    /// The lowest position that the server may have recorded.
    pub base: u64,
    pub acks: Vec<Ack>,
    /// The filters that may have applied up to an offset.
    pub earlier: Vec<(u64, Filter)>,
}

#[derive(Clone, Debug)]
pub struct Ack {
    pub at: Duration,
    pub connection: u32,
    pub offset: u64,
    /// The state was received on this connection.
    pub was_sent: bool,
}

impl ConnectionRoom {
    pub fn is_member(&self) -> bool {
        self.seats.iter().any(|seat| matches!(seat, Seat::In(_)))
    }

    /// The states that a connection from this time may find.
    pub fn found(&self, at: Duration) -> BTreeSet<Seat> {
        let mut found = self.possible.clone();
        found.extend(self.changes.iter().filter(|(answered, _)| *answered >= at).flat_map(|(_, was)| was));
        found.extend(&self.pending);
        found
    }

    /// An answer determines the state, here and in the store.
    pub fn set_seat(&mut self, at: Duration, seat: Seat) {
        self.changes.push((at, self.found(Duration::MAX)));
        self.seats = [seat].into();
        self.possible = [seat].into();
    }
}

impl SessionRoom {
    /// A membership that begins after a position.
    pub fn join(epoch: &str, offset: u64) -> Self {
        Self { epoch: Some(epoch.to_owned()), covered: Some(offset), base: offset, ..Self::default() }
    }

    pub fn cover(&mut self, offset: u64) {
        self.covered = self.covered.map(|covered| covered.max(offset));
    }

    fn filters(&self, here: &ConnectionRoom, offset: u64) -> impl Iterator<Item = Filter> {
        let earlier = self.earlier.iter().filter(move |(last, _)| *last >= offset).map(|(_, filter)| *filter);
        let seats = here.seats.iter().chain(&here.pending);
        let now = seats.filter_map(|seat| match seat {
            Seat::In(filter) => Some(*filter),
            Seat::Out => None,
        });
        now.chain(earlier)
    }

    /// Whether a message must be delivered, whichever of the filters applied.
    pub fn must_deliver(&self, here: &ConnectionRoom, offset: u64, change: u8) -> bool {
        here.is_member() && self.filters(here, offset).all(|filter| filter.passes(change))
    }

    /// Whether it may be delivered.
    pub fn may_deliver(&self, here: &ConnectionRoom, offset: u64, change: u8) -> bool {
        self.filters(here, offset).any(|filter| filter.passes(change))
    }
}
