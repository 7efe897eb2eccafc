//! What reached whom, against what should have: each message of a governed room goes to the members that one version of the
//! plugin names, whole; each of another room to all members.

use std::time::Instant;

/// A message as one member heard it.
pub struct Heard {
    pub n: u64,
    pub offset: u64,
    pub at: Instant,
}

#[derive(Clone, Copy, Default)]
pub struct Tally {
    /// Messages whose verdict was A's, and B's.
    pub a: u64,
    pub b: u64,
    pub lost: u64,
    pub repeated: u64,
    pub disordered: u64,
    /// Deliveries to members that the version in charge of the message excludes, under a wrong offset, or of what was not
    /// published.
    pub wrong: u64,
    /// Frames that are no messages, and publishes that were not answered well.
    pub strange: u64,
}

impl Tally {
    /// Of `count` messages with numbers from `first`. What each member heard is in the order of members.
    pub fn of(heard: &[Vec<Heard>], first: u64, count: usize, governed: bool) -> Self {
        let mut tally = Self::default();
        let mut got = vec![vec![false; heard.len()]; count];
        for (member, heard) in heard.iter().enumerate() {
            let mut newest = 0;
            for one in heard {
                let place = one.n.checked_sub(first).and_then(|n| got.get_mut(n as usize));
                match place.map(|members| std::mem::replace(&mut members[member], true)) {
                    None => tally.wrong += 1,
                    Some(true) => tally.repeated += 1,
                    // Nothing else was ever published to the room, so that its offsets are the numbers.
                    Some(false) if one.offset != one.n + 1 => tally.wrong += 1,
                    Some(false) if one.offset <= newest => tally.disordered += 1,
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
            // A's stamp is odd, B's even, and a member's group is its number.
            let side = |odd: bool| {
                members
                    .iter()
                    .zip(0..)
                    .filter(move |(_, group)| ((group + n) % 2 == 1) == odd)
                    .map(|(got, _)| *got)
            };
            let heard = |odd| side(odd).filter(|got| *got).count();
            let by_a = heard(true) >= heard(false);
            tally.wrong += heard(!by_a) as u64;
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
        self.disordered += other.disordered;
        self.wrong += other.wrong;
        self.strange += other.strange;
    }

    pub fn faults(&self) -> u64 {
        self.lost + self.repeated + self.disordered + self.wrong + self.strange
    }
}
