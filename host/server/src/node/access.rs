//! Which keys are good on this node, and the one task that holds everybody to it. It waits for nothing but its own deadlines and for keys
//! that others have read: not for a file, a plugin or the store.

use crate::{
    config::Config,
    hub::Hub,
    key::{Keys, Tier},
    session::Services,
};
use arc_swap::ArcSwap;
use std::{collections::HashMap, sync::Arc, time::Duration};
use switchyard_protocol::unix_ms;
use switchyard_store::key::KeyConfig;
use tokio::sync::mpsc;

/// How often the clock is looked at, which may have been set, or have gone on while the machine slept.
const LOOK: Duration = Duration::from_secs(1);

/// Keys that were read anew, and take the place of those from the same source.
pub(super) enum Change {
    Configured(Configured),
    Stored(Vec<KeyConfig>),
}

/// What the configuration says of keys.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Configured {
    pub keys: Vec<KeyConfig>,
    pub tiers: HashMap<String, Tier>,
}

impl Configured {
    pub(super) fn of(config: &Config) -> Self {
        Self { keys: config.keys.clone(), tiers: config.tiers.clone() }
    }

    /// Whether a key's tier is configured here, without which a key of the store is not taken.
    pub(super) fn has_tier_of(&self, key: &KeyConfig) -> bool {
        key.tier.as_ref().is_none_or(|tier| self.tiers.contains_key(tier.get_ref()))
    }
}

/// The keys of the store, as this node holds everybody to them.
pub(super) type Stored = Arc<ArcSwap<Vec<KeyConfig>>>;

pub(super) struct Access {
    configured: Configured,
    stored: Stored,
    keys: Arc<ArcSwap<Keys>>,
    hub: Arc<Hub>,
    deadlines: Deadlines,
}

impl Access {
    pub(super) fn new(configured: Configured, stored: Vec<KeyConfig>, services: &Services) -> Self {
        let deadlines = Deadlines::of(configured.keys.iter().chain(stored.iter()), unix_ms());
        let (keys, hub) = (services.keys.clone(), services.hub.clone());
        let stored = Arc::new(ArcSwap::from_pointee(stored));
        Self { configured, stored, keys, hub, deadlines }
    }

    /// For others to read.
    pub(super) fn stored(&self) -> Stored {
        self.stored.clone()
    }

    /// Takes changes and acts on deadlines, until nobody can tell of changes any more.
    pub(super) async fn enforce(mut self, mut changes: mpsc::UnboundedReceiver<Change>) {
        loop {
            tokio::select! {
                // First, so that no number of changes puts it off.
                biased;
                () = self.deadlines.passed(unix_ms) => {}
                change = changes.recv() => match change {
                    Some(change) => self.take(change),
                    None => return,
                },
            }
            self.hub.connections.recheck(&self.keys.load());
        }
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Configured(configured) => self.configured = configured,
            Change::Stored(stored) => self.stored.store(Arc::new(stored)),
        }
        let (configured, stored) = (&self.configured, self.stored.load());
        // Those who connect from now on are let in by the new keys; those who are here are looked through after that.
        self.keys.store(Arc::new(all_keys(configured, &stored)));
        self.deadlines = Deadlines::of(configured.keys.iter().chain(stored.iter()), unix_ms());
        let (keys, stored) = (configured.keys.len(), stored.len());
        tracing::info!(keys, stored, "keys and tiers were read again");
    }
}

/// The keys of the configuration and those of the store, of which a key whose tier is not configured here is not taken.
pub(super) fn all_keys(configured: &Configured, stored: &[KeyConfig]) -> Keys {
    let is_known = |key: &&KeyConfig| {
        let is_known = configured.has_tier_of(key);
        if !is_known {
            let (principal, tier) = (&key.principal.0, key.tier.as_ref().map(|tier| tier.get_ref()));
            tracing::error!(%principal, tier, "a key in the store is of a tier that is not configured here");
        }
        is_known
    };
    let stored = stored.iter().filter(is_known).cloned();
    let all: Vec<_> = configured.keys.iter().cloned().chain(stored).collect();
    Keys::new(&all, &configured.tiers)
}

/// When keys end, by the clock on the wall: Unix milliseconds.
struct Deadlines {
    ends: Vec<u64>,
    /// Those up to here have been acted on.
    seen: u64,
}

impl Deadlines {
    /// As of now: whoever makes them looks at all keys anyway.
    fn of<'a>(keys: impl Iterator<Item = &'a KeyConfig>, now: u64) -> Self {
        Self { ends: keys.filter_map(|key| key.expires).map(|end| end.0).collect(), seen: now }
    }

    /// Returns once a deadline has passed that was not told before, however long nobody asked.
    async fn passed(&mut self, clock: impl Fn() -> u64) {
        while !self.look(clock()) {
            tokio::time::sleep(self.rest(clock())).await;
        }
    }

    fn look(&mut self, now: u64) -> bool {
        // Where the clock was set back, what was acted on is a deadline again.
        let before = std::mem::replace(&mut self.seen, now);
        self.ends.iter().any(|end| before < *end && *end <= now)
    }

    /// Until the next one, or until the clock is looked at again.
    fn rest(&self, now: u64) -> Duration {
        let next = self.ends.iter().filter(|end| **end > now).map(|end| end - now).min();
        next.map_or(LOOK, |rest| LOOK.min(Duration::from_millis(rest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::time::{Instant, timeout};

    const BEGIN: u64 = 1_000_000;

    /// A clock on the wall, which goes with the paused one and can be set.
    struct Wall(Instant, AtomicU64);

    impl Wall {
        fn new() -> Self {
            Self(Instant::now(), AtomicU64::new(BEGIN))
        }

        fn now(&self) -> u64 {
            self.1.load(Ordering::Relaxed) + self.0.elapsed().as_millis() as u64
        }

        fn set(&self, now: u64) {
            self.1.store(now - self.0.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
    }

    fn deadlines(after: &[u64]) -> Deadlines {
        Deadlines { ends: after.iter().map(|after| BEGIN + after).collect(), seen: BEGIN }
    }

    #[tokio::test(start_paused = true)]
    async fn each_deadline_is_told_once_and_never_early() {
        let (wall, mut deadlines) = (Wall::new(), deadlines(&[5000, 300, 300, 90_000_000]));
        for expected in [300, 5000, 90_000_000] {
            deadlines.passed(|| wall.now()).await;
            assert_eq!(wall.now(), BEGIN + expected);
        }
        let more = timeout(Duration::from_secs(100_000), deadlines.passed(|| wall.now()));
        assert!(more.await.is_err(), "there is no other");
    }

    #[tokio::test(start_paused = true)]
    async fn what_passed_while_nobody_looked_is_told_at_once() {
        let (wall, mut deadlines) = (Wall::new(), deadlines(&[300, 400]));
        assert!(timeout(Duration::from_millis(100), deadlines.passed(|| wall.now())).await.is_err());
        // Something else took the task's time.
        tokio::time::advance(Duration::from_secs(60)).await;
        let began = Instant::now();
        deadlines.passed(|| wall.now()).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_is_followed_within_a_second() {
        let (wall, mut deadlines) = (Wall::new(), deadlines(&[3_600_000]));
        assert!(timeout(Duration::from_secs(5), deadlines.passed(|| wall.now())).await.is_err());
        wall.set(BEGIN + 4_000_000);
        let began = Instant::now();
        deadlines.passed(|| wall.now()).await;
        assert!(began.elapsed() <= LOOK, "{:?}", began.elapsed());
        // Set back: who connected since is to go when the time comes again.
        wall.set(BEGIN + 3_590_000);
        let began = Instant::now();
        deadlines.passed(|| wall.now()).await;
        assert_eq!(began.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_changes_puts_no_deadline_off() {
        let (wall, mut deadlines) = (Wall::new(), deadlines(&[2000]));
        let mut changes = 0;
        loop {
            tokio::select! {
                biased;
                () = deadlines.passed(|| wall.now()) => break,
                () = tokio::time::sleep(Duration::from_millis(100)) => changes += 1,
            }
        }
        assert_eq!((wall.now(), changes), (BEGIN + 2000, 19));
    }
}
