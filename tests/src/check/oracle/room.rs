//! A room as a client may see it: on one connection, and in its session.

use crate::check::filter::Filter;
use std::{collections::BTreeSet, time::Duration};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seat {
    Out,
    In(Filter),
}

/// On one connection.
#[derive(Clone, Debug, Default)]
pub struct Here {
    /// What rules here: one, unless it was never told which.
    pub seats: BTreeSet<Seat>,
    /// What a later connection may find.
    pub possible: BTreeSet<Seat>,
    /// What was possible before each answer.
    pub changes: Vec<(Duration, BTreeSet<Seat>)>,
    /// Of requests that are not answered.
    pub asked: Vec<Seat>,
    pub epoch: Option<String>,
    /// The last offset that came, or that what comes begins behind.
    pub last: Option<u64>,
    /// Acknowledged, and surely recorded, before this connection came.
    pub sure: u64,
}

/// In a session, over all of its connections.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub epoch: Option<String>,
    /// Everything up to here was delivered or told as lost; `None` where that was never told.
    pub covered: Option<u64>,
    /// The least position that the server may know of.
    pub base: u64,
    pub acks: Vec<Ack>,
    /// Filters that may have ruled up to an offset.
    pub earlier: Vec<(u64, Filter)>,
}

#[derive(Clone, Debug)]
pub struct Ack {
    pub at: Duration,
    pub connection: u32,
    pub offset: u64,
    /// It came on this very connection.
    pub was_sent: bool,
}

impl Here {
    pub fn is_member(&self) -> bool {
        self.seats.iter().any(|seat| matches!(seat, Seat::In(_)))
    }

    /// What a connection finds that came at this time.
    pub fn found(&self, at: Duration) -> BTreeSet<Seat> {
        let mut found = self.possible.clone();
        found.extend(self.changes.iter().filter(|(answered, _)| *answered >= at).flat_map(|(_, was)| was));
        found.extend(&self.asked);
        found
    }

    /// An answer settles what rules, here and in the store.
    pub fn settle(&mut self, at: Duration, seat: Seat) {
        self.changes.push((at, self.found(Duration::MAX)));
        self.seats = [seat].into();
        self.possible = [seat].into();
    }
}

impl View {
    /// A membership that begins behind a position.
    pub fn join(epoch: &str, offset: u64) -> Self {
        Self { epoch: Some(epoch.to_owned()), covered: Some(offset), base: offset, ..Self::default() }
    }

    pub fn cover(&mut self, offset: u64) {
        self.covered = self.covered.map(|covered| covered.max(offset));
    }

    fn filters(&self, here: &Here, offset: u64) -> impl Iterator<Item = Filter> {
        let earlier = self.earlier.iter().filter(move |(last, _)| *last >= offset).map(|(_, filter)| *filter);
        let seats = here.seats.iter().chain(&here.asked);
        let now = seats.filter_map(|seat| match seat {
            Seat::In(filter) => Some(*filter),
            Seat::Out => None,
        });
        now.chain(earlier)
    }

    /// Whether a message must come, whichever filter ruled.
    pub fn must(&self, here: &Here, offset: u64, change: u8) -> bool {
        here.is_member() && self.filters(here, offset).all(|filter| filter.passes(change))
    }

    /// Whether it may come.
    pub fn may(&self, here: &Here, offset: u64, change: u8) -> bool {
        self.filters(here, offset).any(|filter| filter.passes(change))
    }
}
