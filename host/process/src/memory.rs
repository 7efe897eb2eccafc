//! The memory account: how many bytes this node keeps for clients, by kind and by principal, and how many it
//! may keep. It only counts. Code that wants to keep something checks first, and charges it.
//!
//! Everything that a client can make grow is charged here. When the node keeps 80 % of its limit, it is under
//! pressure: what can be spared is evicted, and principals that use much get nothing more.

mod available;
mod limit;
mod share;
mod stepped;

pub use limit::{MemoryConfig, MemoryLimit};
pub use share::{MemoryCharge, MemoryShare};
pub use stepped::SteppedCharge;

use crate::lock::LockExt;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What memory is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Messages that the memory store holds for rooms.
    History,
    /// Idempotency keys in the memory store.
    Keys,
    /// Connections and sessions, and their memberships.
    Sessions,
    /// Rooms, without their messages and members.
    Rooms,
    /// What is queued for connections: answers, and messages that are not in the history of this node.
    Outboxes,
    /// Messages that were read from an external store, until they are sent.
    Replays,
    /// Messages that wait for a plugin, or to be stored in an external store.
    Publishes,
    /// Frames of clients that have not arrived completely.
    Frames,
    /// Bodies of HTTP requests.
    Bodies,
    /// What plugins keep in their state. It is charged to no principal: of the budget of each plugin, a
    /// principal may use a part.
    PluginState,
}

impl MemoryKind {
    /// All kinds.
    pub const ALL: [MemoryKind; 10] = [
        MemoryKind::History,
        MemoryKind::Keys,
        MemoryKind::Sessions,
        MemoryKind::Rooms,
        MemoryKind::Outboxes,
        MemoryKind::Replays,
        MemoryKind::Publishes,
        MemoryKind::Frames,
        MemoryKind::Bodies,
        MemoryKind::PluginState,
    ];

    /// The value of the metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            MemoryKind::History => "history",
            MemoryKind::Keys => "keys",
            MemoryKind::Sessions => "sessions",
            MemoryKind::Rooms => "rooms",
            MemoryKind::Outboxes => "outboxes",
            MemoryKind::Replays => "replays",
            MemoryKind::Publishes => "publishes",
            MemoryKind::Frames => "frames",
            MemoryKind::Bodies => "bodies",
            MemoryKind::PluginState => "plugin_state",
        }
    }
}

/// The percentage of the limit from which on the node is under pressure.
const PRESSURE_PERCENT: usize = 80;
/// The percentage of the limit down to which the node then evicts.
const EVICTION_TARGET_PERCENT: usize = 75;
/// Under pressure, a principal may use this many times what is still free. So one principal alone reaches 80
/// % of the limit, two reach 44 % each, and n of them 4 in 4n + 1 parts. However many there are and whatever
/// they do, something is left for a principal that uses little.
const MAX_MULTIPLE_OF_FREE: usize = 4;

/// Whether a node that uses `used` bytes of its `limit` is under pressure.
pub fn is_under_pressure(used: usize, limit: usize) -> bool {
    used >= limit / 100 * PRESSURE_PERCENT
}

/// Whether more may be kept for a principal that accounts for `own` of the `used` bytes.
///
/// Always, unless the node is under pressure: then only if `own` is less than four times what is still free.
pub fn may_grow(own: usize, used: usize, limit: usize) -> bool {
    !is_under_pressure(used, limit) || own < limit.saturating_sub(used).saturating_mul(MAX_MULTIPLE_OF_FREE)
}

/// The memory account of a node.
pub struct MemoryAccount {
    ledger: Arc<Ledger>,
    /// Bytes that are charged to no principal.
    unattributed: Arc<MemoryShare>,
    unauthenticated: Arc<MemoryShare>,
}

/// The counts, which shares also refer to.
struct Ledger {
    limit: usize,
    used: [AtomicUsize; MemoryKind::ALL.len()],
    shares: Mutex<HashMap<Arc<str>, Weak<MemoryShare>>>,
}

impl Ledger {
    fn used(&self, kind: MemoryKind) -> usize {
        self.used[kind as usize].load(Ordering::Relaxed)
    }

    fn total(&self) -> usize {
        MemoryKind::ALL.into_iter().map(|kind| self.used(kind)).sum()
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<Arc<str>, Weak<MemoryShare>>> {
        self.shares.locked()
    }
}

impl MemoryAccount {
    /// An account with a limit in bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        let ledger = Arc::new(Ledger { limit, used: Default::default(), shares: Mutex::default() });
        let share = |name: &str| Arc::new(MemoryShare::new(name.into(), ledger.clone()));
        Arc::new(Self { unattributed: share(""), unauthenticated: share(""), ledger })
    }

    /// An account without a limit.
    pub fn unlimited() -> Arc<Self> {
        Self::new(usize::MAX)
    }

    /// The limit, in bytes.
    pub fn limit(&self) -> usize {
        self.ledger.limit
    }

    /// How many bytes of one kind the node keeps.
    pub fn used(&self, kind: MemoryKind) -> usize {
        self.ledger.used(kind)
    }

    /// How many bytes the node keeps.
    pub fn total(&self) -> usize {
        self.ledger.total()
    }

    /// Whether nothing more may be kept.
    pub fn is_full(&self) -> bool {
        self.total() >= self.limit()
    }

    /// Whether something must be evicted: the node keeps 80 % of its limit or more.
    pub fn is_under_pressure(&self) -> bool {
        is_under_pressure(self.total(), self.limit())
    }

    /// How many bytes to evict under pressure: those beyond 75 % of the limit.
    pub fn excess(&self) -> usize {
        self.total().saturating_sub(self.limit() / 100 * EVICTION_TARGET_PERCENT)
    }

    /// The share of a principal. While anybody refers to it, all calls return the same one.
    pub fn share(&self, principal: &Arc<str>) -> Arc<MemoryShare> {
        let mut shares = self.ledger.shares();
        if let Some(share) = shares.get(principal).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(MemoryShare::new(principal.clone(), self.ledger.clone()));
        shares.insert(principal.clone(), Arc::downgrade(&share));
        share
    }

    /// The share of all connections together that have not presented a key.
    pub fn unauthenticated(&self) -> &Arc<MemoryShare> {
        &self.unauthenticated
    }

    /// The number of bytes that eviction leaves to each principal: what principals use beyond it adds up to the
    /// [`excess`](Self::excess).
    pub fn eviction_level(&self) -> usize {
        let shares: Vec<_> = self.ledger.shares().values().filter_map(Weak::upgrade).collect();
        let used = shares.iter().map(|share| share.used());
        let mut levels: Vec<_> = used.chain([self.unauthenticated.used(), 0]).collect();
        levels.sort_unstable_by(|a, b| b.cmp(a));
        let mut excess = self.excess();
        // Lowers the largest to the level of the next, all of them together, until that is enough.
        for (largest, pair) in levels.windows(2).enumerate().map(|(n, pair)| (n + 1, pair)) {
            let all = (pair[0] - pair[1]) * largest;
            if excess <= all {
                return pair[0] - excess.div_ceil(largest);
            }
            excess -= all;
        }
        0
    }

    /// Charges bytes that belong to no principal.
    pub fn charge(&self, kind: MemoryKind, bytes: usize) -> MemoryCharge {
        self.unattributed.charge(kind, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_charge_is_no_longer_counted() {
        let account = MemoryAccount::new(1000);
        let mut charge = account.charge(MemoryKind::Rooms, 500);
        let keys = account.charge(MemoryKind::Keys, 300);
        assert!(account.is_under_pressure() && !account.is_full());
        charge.grow(200);
        assert!(account.is_full());
        assert_eq!((account.total(), account.excess()), (1000, 250));
        charge.shrink(100);
        drop(charge);
        assert_eq!((account.used(MemoryKind::Rooms), account.total(), account.excess()), (0, 300, 0));
        drop(keys);
        assert_eq!(account.total(), 0);
    }

    /// Once, one principal could fill the limit and keep everybody else from connecting and publishing.
    #[test]
    fn a_principal_that_uses_much_leaves_memory_to_others() {
        let account = MemoryAccount::new(1_000_000);
        let names = ["greedy", "greedier", "small"].map(Arc::from);
        let [greedy, greedier, small] = names.map(|name| account.share(&name));
        let mut held = vec![];
        let mut fill = |share: &Arc<MemoryShare>| {
            while share.may_grow() {
                held.push(share.charge(MemoryKind::Rooms, 1000));
            }
        };
        fill(&greedy);
        assert_eq!(account.total(), 800_000);
        assert!(small.may_grow() && greedier.may_grow());
        fill(&greedier);
        assert!(account.total() < 970_000, "{}", account.total());
        assert!(!greedy.may_grow() && small.may_grow() && !account.is_full());
        fill(&small);
        assert!(!account.is_full(), "{}", account.total());
        held.clear();
        assert_eq!((account.total(), greedy.used()), (0, 0));
    }

    #[test]
    fn a_principal_may_have_a_limit_of_its_own() {
        let account = MemoryAccount::new(1000);
        let [bounded, other] = ["bounded", "other"].map(|name| account.share(&name.into()));
        bounded.set_limit(Some(100));
        let mut charge = bounded.charge(MemoryKind::Rooms, 99);
        assert!(!bounded.is_at_limit());
        charge.grow(1);
        let queue = SteppedCharge::new(bounded.charge(MemoryKind::Outboxes, 0));
        assert!(bounded.is_at_limit() && bounded.may_grow() && !queue.may_grow());
        assert!(!other.is_at_limit());
        bounded.set_limit(None);
        assert!(!bounded.is_at_limit() && queue.may_grow());
    }

    #[test]
    fn eviction_starts_with_the_largest_users() {
        let account = MemoryAccount::new(1000);
        let hold = |name: &str, bytes| account.share(&name.into()).charge(MemoryKind::History, bytes);
        let _a = hold("a", 500);
        assert_eq!(account.eviction_level(), 500, "there is nothing to evict");
        let (_b, _c) = (hold("b", 340), hold("c", 100));
        // 190 are too many: a gives up 160 to be level with b, then both give up 15.
        assert_eq!((account.excess(), account.eviction_level()), (190, 325));
        let _unattributed = account.charge(MemoryKind::Outboxes, 800);
        assert_eq!(account.eviction_level(), 0, "what no principal is charged for cannot be evicted");
    }

    #[test]
    fn an_unused_share_is_forgotten() {
        let account = MemoryAccount::new(1000);
        let name: Arc<str> = "acme".into();
        let charge = account.share(&name).charge(MemoryKind::Keys, 10);
        assert_eq!(account.share(&name).used(), 10);
        drop(charge);
        assert!(account.ledger.shares().is_empty());
        assert_eq!(account.share(&name).used(), 0);
    }
}
