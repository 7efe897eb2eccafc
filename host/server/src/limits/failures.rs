//! Keys that were refused, by the address that presented them: counted, told in the log, and answered more slowly the more of them
//! there are.

use super::{Group, Rate, TokenBucket};
use crate::metrics::{Listener, Metrics};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use switchyard_protocol::ErrorCode;
use tokio::time::Instant;

/// Between two lines of the log about one address.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// After which an address begins anew.
const FORGET: Duration = Duration::from_secs(60);
/// Answered at once: people mistype.
const FREE: u32 = 5;
/// What each one more delays the answer by.
const STEP: Duration = Duration::from_millis(100);
/// The most that an answer is delayed.
const LONGEST: Duration = Duration::from_secs(1);
/// Addresses that are remembered.
const MOST_ADDRESSES: usize = 10_000;
/// Between two attempts to make room among them.
const SWEEP: Duration = Duration::from_secs(1);

pub(crate) struct Failures {
    /// Beyond it connects are refused.
    rate: Option<Rate>,
    listener: Listener,
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    addresses: HashMap<Group, Failed>,
    /// All that found no room there.
    others: Option<Failed>,
    swept: Option<Instant>,
}

struct Failed {
    /// Where there is a rate.
    bucket: Option<TokenBucket>,
    /// Since it began anew.
    count: u32,
    last: Instant,
    logged: Instant,
    /// Since the log was told.
    unlogged: u64,
}

/// What becomes of a failure.
struct Outcome {
    delay: Duration,
    /// Failures that the log is to be told of.
    told: Option<u64>,
}

impl Failures {
    pub(crate) fn new(rate: Option<Rate>, listener: Listener, metrics: Metrics) -> Self {
        Self { rate, listener, metrics, state: Mutex::default() }
    }

    /// Counts one, and returns when it may be answered.
    pub(crate) async fn refused(&self, address: IpAddr, is_trusted: bool, code: ErrorCode) {
        self.metrics.key_refused(self.listener);
        let group = Group::of(address);
        let Outcome { delay, told } = self.count(group, Instant::now());
        if let Some(failures) = told {
            let (listener, code) = (self.listener.as_str(), code.as_str());
            tracing::warn!(address = %group, listener, code, failures, "keys were refused");
        }
        // Clients behind a proxy do not wait for one another.
        tokio::time::sleep(if is_trusted { delay.min(STEP) } else { delay }).await;
    }

    fn count(&self, group: Group, now: Instant) -> Outcome {
        let fresh = Failed {
            bucket: self.rate.map(|rate| TokenBucket::full(rate, now.into_std())),
            count: 0,
            last: now,
            logged: now,
            unlogged: 0,
        };
        let mut state = self.state();
        let state = &mut *state;
        let has_room = state.addresses.contains_key(&group) || state.make_room(now);
        let failed = match has_room {
            true => state.addresses.entry(group).or_insert(fresh),
            false => state.others.get_or_insert(fresh),
        };
        if now - failed.last >= FORGET {
            failed.count = 0;
        }
        let is_first = failed.count == 0 && failed.unlogged == 0;
        failed.count = failed.count.saturating_add(1);
        failed.last = now;
        failed.unlogged += 1;
        if let Some(bucket) = &mut failed.bucket {
            bucket.drain_one(now.into_std());
        }
        let told = (is_first || now - failed.logged >= LOG_INTERVAL).then(|| {
            failed.logged = now;
            std::mem::take(&mut failed.unlogged)
        });
        let delay = STEP.saturating_mul(failed.count.saturating_sub(FREE)).min(LONGEST);
        Outcome { delay, told }
    }

    /// How long until an address may try again; `None`: it may.
    pub(crate) fn wait(&self, address: IpAddr) -> Option<Duration> {
        let mut state = self.state();
        state.addresses.get_mut(&Group::of(address))?.bucket.as_mut()?.wait(Instant::now().into_std())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it counts failures")
    }
}

impl State {
    /// Whether there is room for one more: those that matter least any more go.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.addresses.len() < MOST_ADDRESSES {
            return true;
        }
        if self.swept.is_some_and(|swept| now - swept < SWEEP) {
            return false;
        }
        self.swept = Some(now);
        self.addresses.retain(|_, failed| {
            let is_full = match &mut failed.bucket {
                Some(bucket) => bucket.is_full(now.into_std()),
                None => now - failed.last >= LOG_INTERVAL,
            };
            !is_full
        });
        self.addresses.len() < MOST_ADDRESSES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn failures(rate: Option<&str>) -> Failures {
        let rate = rate.map(|rate| Rate::try_from(rate.to_owned()).unwrap());
        Failures::new(rate, Listener::Clients, Metrics::default())
    }

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(n).into()
    }

    #[tokio::test(start_paused = true)]
    async fn the_more_keys_fail_the_longer_each_takes_and_the_log_hears_of_it_now_and_then() {
        let failures = failures(None);
        let group = Group::of(address(1));
        let (mut told, mut waited) = (vec![], Duration::ZERO);
        for _ in 0..40 {
            let outcome = failures.count(group, Instant::now());
            told.extend(outcome.told);
            waited += outcome.delay;
            tokio::time::sleep(outcome.delay).await;
        }
        assert_eq!(told[0], 1, "the first one is told at once");
        assert!((2..5).contains(&told.len()), "{told:?}");
        assert!(waited > Duration::from_secs(25), "{waited:?}");
        assert_eq!(failures.count(Group::of(address(2)), Instant::now()).delay, Duration::ZERO, "another");
        tokio::time::sleep(FORGET).await;
        assert_eq!(failures.count(group, Instant::now()).delay, Duration::ZERO, "it began anew");
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_its_rate_an_address_waits() {
        let failures = failures(Some("3/m"));
        for _ in 0..3 {
            assert_eq!(failures.wait(address(1)), None);
            failures.count(Group::of(address(1)), Instant::now());
        }
        assert_eq!(failures.wait(address(1)), Some(Duration::from_secs(20)));
        assert_eq!(failures.wait(address(2)), None, "another is not concerned");
        tokio::time::sleep(Duration::from_millis(20_001)).await;
        assert_eq!(failures.wait(address(1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_million_addresses_take_the_room_of_ten_thousand_and_the_guilty_stay() {
        let failures = failures(Some("1/m"));
        for n in 0..1_000_000 {
            failures.count(Group::of(address(n)), Instant::now());
            if n % 1000 == 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        assert!(failures.state().addresses.len() <= MOST_ADDRESSES);
        tokio::time::sleep(Duration::from_secs(61)).await;
        failures.count(Group::of(address(7_000_000)), Instant::now());
        assert!(failures.wait(address(7_000_000)).is_some(), "there is room again");
    }
}
