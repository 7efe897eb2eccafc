//! How much is published to each room whose policy limits it: messages and bytes of all publishers on this node.
//! Knows no policies and refuses nothing itself.

use crate::limits::{ByteRate, Rate, TokenBucket};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use switchyard_process::lock::LockExt;
use switchyard_protocol::room::RoomName;

/// Maximum number of rooms whose buckets are not full. They take about 3 MB. A room whose buckets are full needs no
/// entry: a new one would be the same.
const MAX_ROOMS: usize = 8192;
/// How often a full table is searched for entries that are not needed any more.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// How many rooms the largest principal loses at most when the table is full. To find the oldest ones, all are looked at,
/// so several go at once: a full table then costs a new room a look at about a hundred others.
const EVICTED_AT_ONCE: usize = 64;
/// How long a publisher waits that finds no place in the table: most buckets are full again then.
const RETRY_WITHOUT_PLACE: Duration = Duration::from_secs(1);

/// What may be published to a room.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoomRate {
    pub publishes: Option<Rate>,
    pub bytes: Option<ByteRate>,
}

/// Why a message may not be published now, and how long until it may.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Exceeded {
    Publishes(Duration),
    Bytes(Duration),
    /// The table is full, and this principal has brought most of its rooms in.
    Rooms(Duration),
}

#[derive(Default)]
pub(super) struct RoomRates(Mutex<RateTable>);

#[derive(Default)]
struct RateTable {
    rooms: HashMap<RoomName, RoomBuckets>,
    /// How many of these rooms each principal has brought in.
    counts: HashMap<Arc<str>, usize>,
    swept: Option<Instant>,
}

struct RoomBuckets {
    publishes: Option<TokenBucket>,
    bytes: Option<TokenBucket>,
    /// The principal whose message brought the room in.
    principal: Arc<str>,
    used: Instant,
}

impl RoomBuckets {
    fn set(&mut self, rate: RoomRate, now: Instant) {
        // A bucket keeps what was taken out of it if its rate changes.
        let set = |bucket: &mut Option<TokenBucket>, rate: Option<Rate>| match rate {
            Some(rate) => bucket.get_or_insert_with(|| TokenBucket::full(rate, now)).set_rate(rate),
            None => *bucket = None,
        };
        set(&mut self.publishes, rate.publishes);
        set(&mut self.bytes, rate.bytes.map(|ByteRate(rate)| rate));
        self.used = now;
    }

    fn check(&mut self, bytes: usize, now: Instant) -> Result<(), Exceeded> {
        if let Some(wait) = self.publishes.as_mut().and_then(|bucket| bucket.wait(now)) {
            return Err(Exceeded::Publishes(wait));
        }
        match self.bytes.as_mut().and_then(|bucket| bucket.wait_for(bytes, now)) {
            Some(wait) => Err(Exceeded::Bytes(wait)),
            None => Ok(()),
        }
    }

    fn charge(&mut self, bytes: usize, now: Instant) {
        for (bucket, tokens) in [(&mut self.publishes, 1), (&mut self.bytes, bytes)] {
            if let Some(bucket) = bucket {
                bucket.charge(tokens, now);
            }
        }
    }

    fn is_full(&mut self, now: Instant) -> bool {
        [&mut self.publishes, &mut self.bytes].into_iter().flatten().all(|bucket| bucket.is_full(now))
    }
}

impl RoomRates {
    /// Whether a message of this many bytes could be published now. Takes nothing.
    pub(super) fn check(
        &self,
        room: &RoomName,
        rate: RoomRate,
        bytes: usize,
        now: Instant,
    ) -> Result<(), Exceeded> {
        let mut table = self.0.locked();
        // The buckets of other rooms are full.
        let Some(buckets) = table.rooms.get_mut(room) else { return Ok(()) };
        buckets.set(rate, now);
        buckets.check(bytes, now)
    }

    /// Takes what a message of this many bytes needs, or nothing.
    pub(super) fn take(
        &self,
        room: &RoomName,
        rate: RoomRate,
        principal: &Arc<str>,
        bytes: usize,
        now: Instant,
    ) -> Result<(), Exceeded> {
        let mut table = self.0.locked();
        if !table.rooms.contains_key(room) {
            if !table.make_place(principal, now) {
                return Err(Exceeded::Rooms(RETRY_WITHOUT_PLACE));
            }
            let buckets =
                RoomBuckets { publishes: None, bytes: None, principal: principal.clone(), used: now };
            table.rooms.insert(room.clone(), buckets);
            *table.counts.entry(principal.clone()).or_default() += 1;
        }
        let buckets = table.rooms.get_mut(room).expect("inserted if it was not there");
        buckets.set(rate, now);
        buckets.check(bytes, now)?;
        buckets.charge(bytes, now);
        Ok(())
    }
}

impl RateTable {
    /// Whether there is a place for another room. If the table is full, the principal that has brought most rooms
    /// in loses its oldest ones to other principals, an eighth of them at most, and gets no place itself. So nobody can
    /// have the buckets of another's room forgotten, and filled, by publishing to many rooms.
    fn make_place(&mut self, principal: &Arc<str>, now: Instant) -> bool {
        if self.rooms.len() < MAX_ROOMS {
            return true;
        }
        if self.swept.is_none_or(|at| now.duration_since(at) >= SWEEP_INTERVAL) {
            self.sweep(now);
            if self.rooms.len() < MAX_ROOMS {
                return true;
            }
        }
        let largest = self.counts.iter().max_by_key(|(_, count)| **count);
        let Some((largest, count)) = largest.map(|(name, count)| (name.clone(), *count)) else { return true };
        if largest == *principal {
            return false;
        }
        self.evict(&largest, (count / 8).clamp(1, EVICTED_AT_ONCE));
        true
    }

    /// Forgets this many rooms that the principal has brought in, those first that were not used for longest.
    fn evict(&mut self, principal: &Arc<str>, count: usize) {
        let of_principal = self.rooms.iter().filter(|(_, buckets)| buckets.principal == *principal);
        let mut rooms: Vec<_> = of_principal.map(|(room, buckets)| (buckets.used, room.clone())).collect();
        if count < rooms.len() {
            rooms.select_nth_unstable_by_key(count, |(used, _)| *used);
            rooms.truncate(count);
        }
        for (_, room) in &rooms {
            self.rooms.remove(room);
        }
        self.counts.entry(principal.clone()).and_modify(|all| *all -= rooms.len());
    }

    /// Forgets the rooms whose buckets are full.
    fn sweep(&mut self, now: Instant) {
        self.swept = Some(now);
        self.rooms.retain(|_, buckets| !buckets.is_full(now));
        self.counts.clear();
        for buckets in self.rooms.values() {
            *self.counts.entry(buckets.principal.clone()).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn rate(publishes: u32, bytes: u32) -> RoomRate {
        RoomRate {
            publishes: Some(Rate::per_second(publishes)),
            bytes: Some(ByteRate(Rate::per_second(bytes))),
        }
    }

    #[test]
    fn all_publishers_of_a_room_share_its_rate() {
        let (rates, start) = (RoomRates::default(), Instant::now());
        let take = |name: &str, who: &str, bytes, now| {
            rates.take(&room(name), rate(2, 100), &who.into(), bytes, now)
        };
        assert_eq!([take("a", "ann", 10, start), take("a", "bob", 10, start)], [Ok(()), Ok(())]);
        assert_eq!(take("a", "cyd", 10, start), Err(Exceeded::Publishes(SECOND / 2)));
        assert_eq!(rates.check(&room("a"), rate(2, 100), 10, start), Err(Exceeded::Publishes(SECOND / 2)));
        assert_eq!(take("b", "ann", 10, start), Ok(()), "another room has its own");
        assert_eq!(take("a", "cyd", 10, start + SECOND / 2), Ok(()));
    }

    #[test]
    fn a_message_takes_of_both_rates_or_of_none() {
        let (rates, start) = (RoomRates::default(), Instant::now());
        let take = |bytes, now| rates.take(&room("a"), rate(2, 100), &"ann".into(), bytes, now);
        assert_eq!(take(60, start), Ok(()));
        assert_eq!(take(60, start), Err(Exceeded::Bytes(SECOND / 5)));
        assert_eq!(take(40, start), Ok(()), "the refused one has not counted");
        // A message that is larger than the rate passes when nothing was published for a second.
        let later = start + SECOND;
        assert_eq!(take(150, later), Ok(()));
        assert_eq!(take(1, later), Err(Exceeded::Bytes(SECOND * 51 / 100)));
    }

    #[test]
    fn a_rate_that_changes_gives_nothing_back() {
        let (rates, start) = (RoomRates::default(), Instant::now());
        let take = |publishes| rates.take(&room("a"), rate(publishes, 1000), &"ann".into(), 1, start);
        assert_eq!([take(2), take(2)], [Ok(()), Ok(())]);
        assert_eq!(take(4), Err(Exceeded::Publishes(SECOND / 4)));
    }

    /// Whoever publishes to many rooms must neither keep others from publishing, nor have the buckets of a room
    /// filled by pushing the room out of the table.
    #[test]
    fn a_full_table_costs_the_principal_that_has_filled_it() {
        let (rates, start) = (RoomRates::default(), Instant::now());
        let take = |name: &str, who: &str, now| rates.take(&room(name), rate(1, 1000), &who.into(), 1, now);
        assert_eq!(take("victim", "ann", start), Ok(()));
        for n in 1..MAX_ROOMS {
            assert_eq!(take(&format!("m{n}"), "mallory", start), Ok(()));
        }
        assert_eq!(take("more", "mallory", start), Err(Exceeded::Rooms(RETRY_WITHOUT_PLACE)));
        assert!(matches!(take("m1", "mallory", start), Err(Exceeded::Publishes(_))));
        assert_eq!(take("other", "bob", start), Ok(()));
        let full = |table: &RateTable| (table.rooms.len(), table.counts["mallory"]);
        let evicted = (MAX_ROOMS - EVICTED_AT_ONCE + 1, MAX_ROOMS - 1 - EVICTED_AT_ONCE);
        assert_eq!(full(&rates.0.locked()), evicted, "several are forgotten at once");
        for n in 1..EVICTED_AT_ONCE {
            assert_eq!(take(&format!("b{n}"), "bob", start), Ok(()));
        }
        assert!(matches!(take("victim", "bob", start), Err(Exceeded::Publishes(_))), "it was not forgotten");
        assert_eq!(full(&rates.0.locked()), (MAX_ROOMS, MAX_ROOMS - 1 - EVICTED_AT_ONCE));
        // All buckets are full again.
        assert_eq!(take("more", "mallory", start + SECOND), Ok(()));
        assert_eq!(rates.0.locked().rooms.len(), 1);
    }
}
