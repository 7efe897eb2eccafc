//! Compares what members received with what they should have: each message of a governed room reaches exactly
//! the members that one version of the plugin selects, and each message of another room reaches all members.

use std::time::Instant;

/// A message as one member received it.
pub struct Delivery {
    pub n: u64,
    pub offset: u64,
    pub at: Instant,
}

#[derive(Clone, Copy, Default)]
pub struct Tally {
    /// The number of messages with the verdict of version A, and of version B.
    pub a: u64,
    pub b: u64,
    pub lost: u64,
    pub repeated: u64,
    pub out_of_order: u64,
    /// Deliveries to members that the message's version excludes, with a wrong offset, or of something that
    /// was not published.
    pub wrong: u64,
    /// Frames that are not messages, and publishes that failed.
    pub unexpected: u64,
}

impl Tally {
    /// Tallies `count` messages with numbers from `first`. `received` has an entry for each member, in order.
    pub fn of(received: &[Vec<Delivery>], first: u64, count: usize, governed: bool) -> Self {
        let mut tally = Self::default();
        let mut got = vec![vec![false; received.len()]; count];
        for (member, received) in received.iter().enumerate() {
            let mut newest = 0;
            for one in received {
                let place = one.n.checked_sub(first).and_then(|n| got.get_mut(n as usize));
                match place.map(|members| std::mem::replace(&mut members[member], true)) {
                    None => tally.wrong += 1,
                    Some(true) => tally.repeated += 1,
                    // Nothing else is published to the room, so its offsets are the numbers of the messages.
                    Some(false) if one.offset != one.n + 1 => tally.wrong += 1,
                    Some(false) if one.offset <= newest => tally.out_of_order += 1,
                    Some(false) => {}
                }
                newest = newest.max(one.offset);
            }
        }
        for (n, members) in (first..).zip(&got) {
            if !governed {
                tally.lost += members.iter().filter(|got| !**got).count() as u64;
                continue;
            }
            // The stamp of A is odd, that of B even, and the group of a member is its number.
            let side = |odd: bool| {
                members
                    .iter()
                    .zip(0..)
                    .filter(move |(_, group)| ((group + n) % 2 == 1) == odd)
                    .map(|(got, _)| *got)
            };
            let received = |odd| side(odd).filter(|got| *got).count();
            let by_a = received(true) >= received(false);
            tally.wrong += received(!by_a) as u64;
            tally.lost += side(by_a).filter(|got| !got).count() as u64;
            *(if by_a { &mut tally.a } else { &mut tally.b }) += 1;
        }
        tally
    }

    pub fn add(&mut self, other: Self) {
        self.a += other.a;
        self.b += other.b;
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.out_of_order += other.out_of_order;
        self.wrong += other.wrong;
        self.unexpected += other.unexpected;
    }

    pub fn faults(&self) -> u64 {
        self.lost + self.repeated + self.out_of_order + self.wrong + self.unexpected
    }
}
