//! What this node keeps in memory for others, and how much it may: a sum for each kind and one for each principal, which whoever keeps
//! something adds to and takes from. It only counts; whoever would keep more asks whether there is room.

mod limit;
mod machine;
mod share;
mod steps;

pub use limit::{Limit, MemoryConfig};
pub use share::{Charge, Share};
pub use steps::Steps;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Messages that the memory store holds for rooms.
    History,
    /// Idempotency keys of the memory store.
    Keys,
    /// Connections, and what they and the sessions without one are in.
    Sessions,
    /// Rooms, without what is in them.
    Rooms,
    /// What waits for connections: answers, and messages that no history of this node holds.
    Outboxes,
    /// What was read from a store that is elsewhere, until it is sent.
    Replays,
    /// Messages that wait for a plugin's consent, or to be stored elsewhere.
    Publishes,
    /// Frames of clients of which the end has not come yet.
    Frames,
    /// Bodies of requests over HTTP.
    Bodies,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::History,
        Kind::Keys,
        Kind::Sessions,
        Kind::Rooms,
        Kind::Outboxes,
        Kind::Replays,
        Kind::Publishes,
        Kind::Frames,
        Kind::Bodies,
    ];

    /// As metrics call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::History => "history",
            Kind::Keys => "keys",
            Kind::Sessions => "sessions",
            Kind::Rooms => "rooms",
            Kind::Outboxes => "outboxes",
            Kind::Replays => "replays",
            Kind::Publishes => "publishes",
            Kind::Frames => "frames",
            Kind::Bodies => "bodies",
        }
    }
}

/// From this part of the limit on, in percent, what can be missed is let go,
const TIGHT: usize = 80;
/// until so much is kept.
const RELIEVED: usize = 75;

pub struct Account {
    books: Arc<Books>,
    /// Of what no principal answers for.
    nobody: Arc<Share>,
    strangers: Arc<Share>,
}

struct Books {
    limit: usize,
    used: [AtomicUsize; Kind::ALL.len()],
    shares: Mutex<HashMap<Arc<str>, Weak<Share>>>,
}

/// Whether of a limit so little is left that what can be missed is let go.
pub fn is_tight(used: usize, limit: usize) -> bool {
    used >= limit / 100 * TIGHT
}

/// A principal may keep so many times what is left. So one alone comes to 80 % of the limit, two to 44 % each and n of them to
/// 4 in 4n + 1 parts: however many there are and whatever they do, something is left for who keeps little.
const REACH: usize = 4;

/// Whether something more may be kept for a principal that has `own` of what is used.
pub fn may_grow(own: usize, used: usize, limit: usize) -> bool {
    !is_tight(used, limit) || own < limit.saturating_sub(used).saturating_mul(REACH)
}

impl Books {
    fn used(&self, kind: Kind) -> usize {
        self.used[kind as usize].load(Ordering::Relaxed)
    }

    fn total(&self) -> usize {
        Kind::ALL.into_iter().map(|kind| self.used(kind)).sum()
    }

    fn is_tight(&self) -> bool {
        is_tight(self.total(), self.limit)
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<Arc<str>, Weak<Share>>> {
        self.shares.lock().expect("no code panics while it holds the shares")
    }
}

impl Account {
    pub fn new(limit: usize) -> Arc<Self> {
        let books = Arc::new(Books { limit, used: Default::default(), shares: Mutex::default() });
        let share = |name: &str| Arc::new(Share::new(name.into(), books.clone()));
        Arc::new(Self { nobody: share(""), strangers: share(""), books })
    }

    /// One that is never full.
    pub fn boundless() -> Arc<Self> {
        Self::new(usize::MAX)
    }

    pub fn limit(&self) -> usize {
        self.books.limit
    }

    pub fn used(&self, kind: Kind) -> usize {
        self.books.used(kind)
    }

    pub fn total(&self) -> usize {
        self.books.total()
    }

    /// Nothing more may be kept.
    pub fn is_full(&self) -> bool {
        self.total() >= self.limit()
    }

    /// What can be missed is to be let go.
    pub fn is_tight(&self) -> bool {
        self.books.is_tight()
    }

    /// How much is to be let go.
    pub fn excess(&self) -> usize {
        self.total().saturating_sub(self.limit() / 100 * RELIEVED)
    }

    /// What a principal answers for.
    pub fn share(&self, principal: &Arc<str>) -> Arc<Share> {
        let mut shares = self.books.shares();
        if let Some(share) = shares.get(principal).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(Share::new(principal.clone(), self.books.clone()));
        shares.insert(principal.clone(), Arc::downgrade(&share));
        share
    }

    /// What all answer for together who have not shown a key.
    pub fn strangers(&self) -> &Arc<Share> {
        &self.strangers
    }

    /// What is let go is let go of those who keep more than this: what they have beyond it is the excess.
    pub fn level(&self) -> usize {
        let shares: Vec<_> = self.books.shares().values().filter_map(Weak::upgrade).collect();
        let used = shares.iter().map(|share| share.used());
        let mut levels: Vec<_> = used.chain([self.strangers.used(), 0]).collect();
        levels.sort_unstable_by(|a, b| b.cmp(a));
        let mut excess = self.excess();
        // The largest come down to the next, all together, until that is enough.
        for (largest, pair) in levels.windows(2).enumerate().map(|(n, pair)| (n + 1, pair)) {
            let all = (pair[0] - pair[1]) * largest;
            if excess <= all {
                return pair[0] - excess.div_ceil(largest);
            }
            excess -= all;
        }
        0
    }

    /// Counts what no principal answers for.
    pub fn charge(&self, kind: Kind, bytes: usize) -> Charge {
        self.nobody.charge(kind, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_counted_no_more() {
        let account = Account::new(1000);
        let mut charge = account.charge(Kind::Rooms, 500);
        let keys = account.charge(Kind::Keys, 300);
        assert!(account.is_tight() && !account.is_full());
        charge.grow(200);
        assert!(account.is_full());
        assert_eq!((account.total(), account.excess()), (1000, 250));
        charge.shrink(100);
        drop(charge);
        assert_eq!((account.used(Kind::Rooms), account.total(), account.excess()), (0, 300, 0));
        drop(keys);
        assert_eq!(account.total(), 0);
    }

    /// One principal that filled the limit kept everybody else from connecting and publishing.
    #[test]
    fn who_keeps_most_is_refused_first_and_nobody_can_take_what_is_left() {
        let account = Account::new(1_000_000);
        let names = ["greedy", "greedier", "small"].map(Arc::from);
        let [greedy, greedier, small] = names.map(|name| account.share(&name));
        let mut held = vec![];
        let mut fill = |share: &Arc<Share>| {
            while share.may_grow() {
                held.push(share.charge(Kind::Rooms, 1000));
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
    fn what_is_let_go_is_of_those_who_keep_most() {
        let account = Account::new(1000);
        let hold = |name: &str, bytes| account.share(&name.into()).charge(Kind::History, bytes);
        let _a = hold("a", 500);
        assert_eq!(account.level(), 500, "there is nothing to let go");
        let (_b, _c) = (hold("b", 340), hold("c", 100));
        // 190 are too many: a gives 160 to be like b, then both 15.
        assert_eq!((account.excess(), account.level()), (190, 325));
        let _nobody = account.charge(Kind::Outboxes, 800);
        assert_eq!(account.level(), 0, "what nobody answers for cannot be had");
    }

    #[test]
    fn a_share_is_forgotten_with_the_last_of_it() {
        let account = Account::new(1000);
        let name: Arc<str> = "acme".into();
        let charge = account.share(&name).charge(Kind::Keys, 10);
        assert_eq!(account.share(&name).used(), 10);
        drop(charge);
        assert!(account.books.shares().is_empty());
        assert_eq!(account.share(&name).used(), 0);
    }
}
