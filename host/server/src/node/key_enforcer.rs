//! Which keys are valid on this node, and the task that closes connections whose key is not valid any more.
//! It waits only for expirations and for keys that other tasks have read, and never for a file, a plugin or
//! the store.

use super::key_audit;
use crate::{
    audit::Actor,
    config::Config,
    hub::{Connections, Hub},
    key::Keys,
    session::Services,
    tier::Tier,
    token::{IssuerConfig, TokenVerifier},
};
use arc_swap::ArcSwap;
use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{Arc, Weak},
    time::Duration,
};
use switchyard_protocol::unix_ms;
use switchyard_store::key::KeyConfig;
use tokio::sync::mpsc;

/// How often the clock is read: it may have been set, or have advanced while the machine was asleep.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a session may take to leave the rooms that its key does not allow any more. Then its connection is closed, so
/// that it hears nothing from them after a second.
const KEY_CHECK_TIMEOUT: Duration = Duration::from_millis(800);

/// Keys that replace the previous ones of the same source.
pub(super) enum KeyChange {
    /// Those of the configuration, with the tiers.
    Configured(ConfiguredKeys),
    /// Those in the store.
    Stored(Vec<KeyConfig>),
    /// None, but others are banned by now, or other tokens are revoked.
    Denied,
}

/// The keys and tiers of a configuration.
#[derive(Clone, Default, PartialEq)]
pub(super) struct ConfiguredKeys {
    pub keys: Vec<KeyConfig>,
    pub tiers: HashMap<String, Tier>,
    pub issuers: Vec<Arc<IssuerConfig>>,
}

impl ConfiguredKeys {
    pub(super) fn of(config: &Config) -> Self {
        Self { keys: config.keys.clone(), tiers: config.tiers.clone(), issuers: config.issuers.clone() }
    }

    /// Whether the tier of a key is configured. A key in the store whose tier is not is ignored.
    pub(super) fn has_tier_of(&self, key: &KeyConfig) -> bool {
        key.tier.as_ref().is_none_or(|tier| self.tiers.contains_key(tier.get_ref()))
    }
}

/// The keys in the store that are currently enforced.
pub(super) type EnforcedStoredKeys = Arc<ArcSwap<Vec<KeyConfig>>>;

pub(super) struct KeyEnforcer {
    configured: ConfiguredKeys,
    stored: EnforcedStoredKeys,
    keys: Arc<ArcSwap<Keys>>,
    tokens: Arc<TokenVerifier>,
    hub: Arc<Hub>,
    expirations: Expirations,
}

impl KeyEnforcer {
    pub(super) fn new(configured: ConfiguredKeys, stored: Vec<KeyConfig>, services: &Services) -> Self {
        let expirations = Expirations::new(configured.keys.iter().chain(stored.iter()), unix_ms());
        let Services { keys, tokens, hub, .. } = services.clone();
        let stored = Arc::new(ArcSwap::from_pointee(stored));
        Self { configured, stored, keys, tokens, hub, expirations }
    }

    /// The keys in the store that are enforced, for other tasks to read.
    pub(super) fn stored(&self) -> EnforcedStoredKeys {
        self.stored.clone()
    }

    /// Applies changes and expirations, until the sender of changes is dropped.
    pub(super) async fn run(mut self, mut changes: mpsc::UnboundedReceiver<KeyChange>) {
        loop {
            tokio::select! {
                // Expirations first, so that they are not delayed however many changes there are.
                biased;
                () = self.expirations.next(unix_ms) => {}
                () = next_token(&self.hub.connections) => {
                    self.hub.connections.close_expired(unix_ms(), &self.keys);
                    continue;
                }
                change = changes.recv() => match change {
                    Some(change) => self.apply(change),
                    None => return,
                },
            }
            let changed = self.hub.connections.recheck_keys(&self.keys);
            self.hub.connections.close_denied(&self.hub);
            if !changed.is_empty() {
                tokio::spawn(async move {
                    tokio::time::sleep(KEY_CHECK_TIMEOUT).await;
                    let remaining = changed.iter().filter_map(Weak::upgrade);
                    remaining.for_each(|connection| connection.close_unless_checked());
                });
            }
        }
    }

    fn apply(&mut self, change: KeyChange) {
        match change {
            KeyChange::Configured(configured) => {
                let (before, after) = (&self.configured.keys, &configured.keys);
                key_audit::record_changes(&self.hub.audit, &Actor::Config, before, after);
                self.tokens.set_issuers(&configured.issuers);
                self.configured = configured;
            }
            KeyChange::Stored(stored) => {
                let before = self.stored.swap(Arc::new(stored));
                let (by, after) = (Actor::Store(None), self.stored.load());
                key_audit::record_changes(&self.hub.audit, &by, &before, &after);
            }
            KeyChange::Denied => return,
        }
        let (configured, stored) = (&self.configured, self.stored.load());
        // New connections are checked against the new keys from here on; existing ones are checked after
        // that.
        self.keys.store(Arc::new(merge_keys(configured, &stored)));
        self.expirations = Expirations::new(configured.keys.iter().chain(stored.iter()), unix_ms());
        let (keys, stored) = (configured.keys.len(), stored.len());
        tracing::info!(keys, stored, "keys and tiers were read again");
    }
}

/// The keys of the configuration, and those in the store whose tier is configured.
pub(super) fn merge_keys(configured: &ConfiguredKeys, stored: &[KeyConfig]) -> Keys {
    let is_known = |key: &&KeyConfig| {
        let is_known = configured.has_tier_of(key);
        if !is_known {
            let (principal, tier) = (&key.principal.0, key.tier.as_ref().map(|tier| tier.get_ref()));
            tracing::error!(%principal, tier, "a key in the store is ignored: its tier is not configured on this node");
        }
        is_known
    };
    let by_id: HashMap<_, _> = configured.keys.iter().map(|key| (key.id(), key)).collect();
    for key in stored {
        if let Some(other) = by_id.get(&key.id()).filter(|other| other.digest != key.digest) {
            let (id, principal, other) = (key.id(), &key.principal.0, &other.principal.0);
            tracing::warn!(%id, %principal, %other, "a key in the store has the id of a key in the configuration");
        }
    }
    let accepted = stored.iter().filter(is_known).cloned();
    let all: Vec<_> = configured.keys.iter().cloned().chain(accepted).collect();
    let mut keys = Keys::new(&all, &configured.tiers).with_issuers(&configured.issuers);
    // Other nodes may accept these keys.
    stored.iter().for_each(|key| keys.reserve(key.principal.0.clone()));
    keys
}

/// Returns when a token of a connection has expired.
async fn next_token(connections: &Connections) {
    loop {
        let now = unix_ms();
        let ControlFlow::Continue(next) = connections.next_expiration(now) else { return };
        // The clock may be set, and a connection with an earlier time may come.
        let wait = next.map_or(CLOCK_CHECK_INTERVAL, |next| Duration::from_millis(next - now));
        tokio::time::sleep(wait.min(CLOCK_CHECK_INTERVAL)).await;
    }
}

/// When keys expire, in Unix milliseconds.
struct Expirations {
    times: Vec<u64>,
    /// Expirations up to this time were reported.
    reported_until: u64,
}

impl Expirations {
    /// Reports nothing that expired before `now`: the caller checks all keys anyway.
    fn new<'a>(keys: impl Iterator<Item = &'a KeyConfig>, now: u64) -> Self {
        Self { times: keys.filter_map(|key| key.expires).map(|time| time.0).collect(), reported_until: now }
    }

    /// Returns when a key has expired that was not reported before, at once if it did so some time ago.
    async fn next(&mut self, clock: impl Fn() -> u64) {
        while !self.check(clock()) {
            tokio::time::sleep(self.sleep_time(clock())).await;
        }
    }

    fn check(&mut self, now: u64) -> bool {
        // If the clock was set back, the same expirations will be reported again.
        let before = std::mem::replace(&mut self.reported_until, now);
        self.times.iter().any(|time| before < *time && *time <= now)
    }

    /// The time until the next expiration, or until the clock has to be read again.
    fn sleep_time(&self, now: u64) -> Duration {
        let next = self.times.iter().filter(|time| **time > now).map(|time| time - now).min();
        next.map_or(CLOCK_CHECK_INTERVAL, |left| CLOCK_CHECK_INTERVAL.min(Duration::from_millis(left)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::time::{Instant, timeout};

    const START: u64 = 1_000_000;

    /// A system clock that advances with Tokio's paused clock, and can be set.
    struct TestClock(Instant, AtomicU64);

    impl TestClock {
        fn new() -> Self {
            Self(Instant::now(), AtomicU64::new(START))
        }

        fn now(&self) -> u64 {
            self.1.load(Ordering::Relaxed) + self.0.elapsed().as_millis() as u64
        }

        fn set(&self, now: u64) {
            self.1.store(now - self.0.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
    }

    fn expirations(after: &[u64]) -> Expirations {
        Expirations { times: after.iter().map(|after| START + after).collect(), reported_until: START }
    }

    #[tokio::test(start_paused = true)]
    async fn each_expiration_is_reported_once_and_never_early() {
        let (clock, mut expirations) = (TestClock::new(), expirations(&[5000, 300, 300, 90_000_000]));
        for expected in [300, 5000, 90_000_000] {
            expirations.next(|| clock.now()).await;
            assert_eq!(clock.now(), START + expected);
        }
        let more = timeout(Duration::from_secs(100_000), expirations.next(|| clock.now()));
        assert!(more.await.is_err(), "there is no other");
    }

    #[tokio::test(start_paused = true)]
    async fn expirations_of_the_past_are_reported_at_once() {
        let (clock, mut expirations) = (TestClock::new(), expirations(&[300, 400]));
        assert!(timeout(Duration::from_millis(100), expirations.next(|| clock.now())).await.is_err());
        // The task was busy with something else.
        tokio::time::advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        expirations.next(|| clock.now()).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_clock_is_noticed_within_a_second() {
        let (clock, mut expirations) = (TestClock::new(), expirations(&[3_600_000]));
        assert!(timeout(Duration::from_secs(5), expirations.next(|| clock.now())).await.is_err());
        clock.set(START + 4_000_000);
        let start = Instant::now();
        expirations.next(|| clock.now()).await;
        assert!(start.elapsed() <= CLOCK_CHECK_INTERVAL, "{:?}", start.elapsed());
        // Set back: clients that connect now must be disconnected when the same time comes again.
        clock.set(START + 3_590_000);
        let start = Instant::now();
        expirations.next(|| clock.now()).await;
        assert_eq!(start.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_changes_does_not_delay_an_expiration() {
        let (clock, mut expirations) = (TestClock::new(), expirations(&[2000]));
        let mut changes = 0;
        loop {
            tokio::select! {
                biased;
                () = expirations.next(|| clock.now()) => break,
                () = tokio::time::sleep(Duration::from_millis(100)) => changes += 1,
            }
        }
        assert_eq!((clock.now(), changes), (START + 2000, 19));
    }
}
