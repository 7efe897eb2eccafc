//! The entries of a range of keys, and the order in which they are evicted. Does not know how many entries
//! there may be.

use super::bucket::{TokenBucket, Withdrawal};
use super::key::{StateKey, StoredKey};
use super::ledger::{HolderId, StateClaim};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes of memory that an entry takes beside its key and its data, at most, as measured.
const ENTRY_BYTES: usize = 400;
/// Bytes that it takes in addition if it expires.
const EXPIRY_BYTES: usize = 160;

/// How many outdated ranks one eviction puts right before it gives up the lock.
const MAX_MOVED_RANKS: usize = 16;

/// The bytes of a value. `None` marks a value that a candidate has deleted for itself.
pub(super) type ValueData = Option<Arc<[u8]>>;

#[derive(Clone, Debug)]
pub(super) struct StateValue {
    pub data: ValueData,
    /// Milliseconds; the highest number means never.
    pub expires_at: u64,
    pub used_at: u64,
}

#[derive(Clone, Debug)]
pub(super) enum EntryContent {
    Bucket(TokenBucket),
    Value(StateValue),
}

struct StateEntry {
    claim: StateClaim,
    content: EntryContent,
    /// The place in the orders of what uses move. They move only forward, so the place may be too early;
    /// that is put right when the entry is about to be evicted, and costs the uses nothing.
    ranked_at: u64,
}

/// Why an entry can be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EvictionOrder {
    /// It carries nothing from this time on: a bucket is full, a value has expired.
    Spent,
    /// It is a value that was last used at this time.
    Unused,
}

/// What became of an attempt to evict the first entry in an order.
pub(super) enum Evicted {
    Entry(StateClaim),
    /// The order was put right, and there may be another first entry now.
    Reordered,
    Nothing,
}

/// The place of an entry in an order: of those of one principal, or of all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    holder: Option<HolderId>,
    order: EvictionOrder,
    at: u64,
    key: StoredKey,
}

#[derive(Default)]
pub(super) struct KeyRange {
    // Trees, because they never have to move all their entries at once, and shrink with them.
    entries: BTreeMap<StoredKey, StateEntry>,
    ranks: BTreeSet<Rank>,
}

impl EntryContent {
    /// How much memory it takes under this key.
    pub(super) fn bytes(&self, key: &StateKey) -> usize {
        let data = match self {
            EntryContent::Value(StateValue { data: Some(data), .. }) => data.len(),
            EntryContent::Value(_) | EntryContent::Bucket(_) => 0,
        };
        let expiry = self.expires_at().map_or(0, |_| EXPIRY_BYTES);
        ENTRY_BYTES + expiry + key.as_bytes().len() + data
    }

    /// The order in which uses move it, and its place there.
    fn moving_rank(&self) -> (EvictionOrder, u64) {
        match self {
            EntryContent::Bucket(bucket) => (EvictionOrder::Spent, bucket.full_at()),
            EntryContent::Value(value) => (EvictionOrder::Unused, value.used_at),
        }
    }

    fn expires_at(&self) -> Option<u64> {
        match self {
            EntryContent::Value(StateValue { expires_at, .. }) if *expires_at < u64::MAX => Some(*expires_at),
            EntryContent::Value(_) | EntryContent::Bucket(_) => None,
        }
    }
}

impl KeyRange {
    /// Takes from the bucket of this key, if there is one.
    pub(super) fn take(&mut self, key: &StateKey, asked: Withdrawal, now: u64) -> Option<Result<(), u64>> {
        match &mut self.entries.get_mut(key.as_bytes())?.content {
            EntryContent::Bucket(bucket) => Some(bucket.take(asked, now)),
            EntryContent::Value(_) => None,
        }
    }

    pub(super) fn bucket(&self, key: &StateKey) -> Option<TokenBucket> {
        match self.entries.get(key.as_bytes())?.content {
            EntryContent::Bucket(bucket) => Some(bucket),
            EntryContent::Value(_) => None,
        }
    }

    /// The value of this key, which counts as used. `None` if there is none, or it has expired.
    pub(super) fn value(&mut self, key: &StateKey, now: u64) -> Option<ValueData> {
        match &mut self.entries.get_mut(key.as_bytes())?.content {
            EntryContent::Value(value) if value.expires_at > now => {
                value.used_at = value.used_at.max(now);
                Some(value.data.clone())
            }
            EntryContent::Value(_) | EntryContent::Bucket(_) => None,
        }
    }

    /// The value of this key, whose use is not recorded.
    pub(super) fn peek(&self, key: &StateKey, now: u64) -> Option<&StateValue> {
        match &self.entries.get(key.as_bytes())?.content {
            EntryContent::Value(value) if value.expires_at > now => Some(value),
            EntryContent::Value(_) | EntryContent::Bucket(_) => None,
        }
    }

    pub(super) fn claim(&self, key: &StateKey) -> Option<StateClaim> {
        self.entries.get(key.as_bytes()).map(|entry| entry.claim)
    }

    /// Keeps an entry, in place of the one before.
    pub(super) fn insert(&mut self, key: &StateKey, claim: StateClaim, content: EntryContent) {
        self.remove(key.as_bytes());
        let (_, ranked_at) = content.moving_rank();
        let (key, entry) = (key.to_stored(), StateEntry { claim, content, ranked_at });
        self.ranks.extend(ranks(&key, &entry));
        self.entries.insert(key, entry);
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<StateClaim> {
        let (key, entry) = self.entries.remove_entry(key)?;
        for rank in ranks(&key, &entry) {
            self.ranks.remove(&rank);
        }
        Some(entry.claim)
    }

    /// Removes all entries whose key is to go, and returns what they counted for.
    pub(super) fn remove_all(&mut self, is_to_go: impl Fn(&StoredKey) -> bool) -> Vec<StateClaim> {
        let keys: Vec<_> = self.entries.keys().filter(|key| is_to_go(key)).cloned().collect();
        keys.iter().filter_map(|key| self.remove(key.as_bytes())).collect()
    }

    /// The place of the first entry in the order of this principal, or of all. It may be too early.
    pub(super) fn first(&self, holder: Option<HolderId>, order: EvictionOrder) -> Option<u64> {
        self.first_rank(holder, order).map(|rank| rank.at)
    }

    /// Evicts the first entry in an order, if it is not after `until`.
    pub(super) fn evict(&mut self, holder: Option<HolderId>, order: EvictionOrder, until: u64) -> Evicted {
        for _ in 0..MAX_MOVED_RANKS {
            let Some(rank) = self.first_rank(holder, order).filter(|rank| rank.at <= until) else {
                return Evicted::Nothing;
            };
            let (key, at) = (rank.key.clone(), rank.at);
            let Some(entry) = self.entries.get_mut(&key) else { return Evicted::Nothing };
            let (moving, is_at) = entry.content.moving_rank();
            if moving != order || is_at == at {
                let claim = self.remove(key.as_bytes());
                return claim.map_or(Evicted::Nothing, Evicted::Entry);
            }
            for rank in ranks(&key, entry) {
                self.ranks.remove(&rank);
            }
            entry.ranked_at = is_at;
            self.ranks.extend(ranks(&key, entry));
        }
        Evicted::Reordered
    }

    fn first_rank(&self, holder: Option<HolderId>, order: EvictionOrder) -> Option<&Rank> {
        let start = Rank { holder, order, at: 0, key: StoredKey::first() };
        self.ranks.range(start..).next().filter(|rank| (rank.holder, rank.order) == (holder, order))
    }
}

fn ranks(key: &StoredKey, entry: &StateEntry) -> impl Iterator<Item = Rank> {
    let moving = (entry.content.moving_rank().0, entry.ranked_at);
    let expires = entry.content.expires_at().map(|at| (EvictionOrder::Spent, at));
    [Some(moving), expires].into_iter().flatten().flat_map(move |(order, at)| {
        [None, Some(entry.claim.holder)].map(|holder| Rank { holder, order, at, key: key.clone() })
    })
}
