//! Refused keys, by the address that presented them: counted, logged, and answered more slowly the more of
//! them there are. Does not know the keys.

use super::{
    AddressRange, Rate, TokenBucket,
    address_table::{AddressTable, Forgettable},
    refusal_log::LOG_INTERVAL,
};
use crate::metrics::{ListenerKind, Metrics};
use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use switchyard_process::lock::LockExt;
use switchyard_protocol::ErrorCode;
use tokio::time::Instant;

/// The time without a failure after which an address starts from zero.
const RESET_AFTER: Duration = Duration::from_secs(60);
/// How many failures are answered without a delay, because people make typing errors.
const UNDELAYED_FAILURES: u32 = 5;
/// How much each further failure delays its answer.
const DELAY_STEP: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(1);

/// The refused keys of one listener.
pub(crate) struct KeyFailures {
    /// Beyond it, upgrades are refused.
    rate: Option<Rate>,
    listener: ListenerKind,
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    addresses: AddressTable<AddressFailures>,
    /// All addresses together for which there was no room in `addresses`. They have no bucket, because
    /// refusing upgrades by a common one would refuse every client that has never presented a wrong key.
    /// Their answers are delayed together, so each of their connections can try about one key per second.
    others: Option<AddressFailures>,
}

struct AddressFailures {
    /// Present if there is a rate and the address has an entry of its own.
    bucket: Option<TokenBucket>,
    /// Failures since the last reset.
    count: u32,
    last: Instant,
    logged: Instant,
    /// Failures since the last log line.
    unlogged: u64,
}

/// How to react to a failure.
struct FailureResponse {
    /// How long the answer waits.
    delay: Duration,
    /// How many failures to log now. `None`: log nothing.
    to_log: Option<u64>,
}

impl KeyFailures {
    pub(crate) fn new(rate: Option<Rate>, listener: ListenerKind, metrics: Metrics) -> Self {
        Self { rate, listener, metrics, state: Mutex::default() }
    }

    /// Counts a refused key, and returns when the answer may be sent.
    pub(crate) async fn refused(&self, address: IpAddr, is_trusted: bool, code: ErrorCode) {
        self.metrics.count_refused_key(self.listener);
        let group = AddressRange::of(address);
        let FailureResponse { delay, to_log } = self.count(group, Instant::now());
        if let Some(failures) = to_log {
            let (listener, code) = (self.listener.as_str(), code.as_str());
            tracing::warn!(address = %group, listener, code, failures, "keys were refused");
        }
        // One client must not slow down the others behind the same proxy.
        tokio::time::sleep(if is_trusted { delay.min(DELAY_STEP) } else { delay }).await;
    }

    fn count(&self, group: AddressRange, now: Instant) -> FailureResponse {
        let fresh = |rate: Option<Rate>| AddressFailures {
            bucket: rate.map(|rate| TokenBucket::full(rate, now.into_std())),
            count: 0,
            last: now,
            logged: now,
            unlogged: 0,
        };
        let mut state = self.state();
        let state = &mut *state;
        let failures = match state.addresses.entry(group, now, || fresh(self.rate)) {
            Some(failures) => failures,
            None => state.others.get_or_insert_with(|| fresh(None)),
        };
        if now - failures.last >= RESET_AFTER {
            failures.count = 0;
        }
        let is_first = failures.count == 0 && failures.unlogged == 0;
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
        failures.unlogged += 1;
        if let Some(bucket) = &mut failures.bucket {
            bucket.drain_one(now.into_std());
        }
        let to_log = (is_first || now - failures.logged >= LOG_INTERVAL).then(|| {
            failures.logged = now;
            std::mem::take(&mut failures.unlogged)
        });
        let delayed = failures.count.saturating_sub(UNDELAYED_FAILURES);
        FailureResponse { delay: DELAY_STEP.saturating_mul(delayed).min(MAX_DELAY), to_log }
    }

    /// How long an address has to wait before it may try a key. `None`: not at all, because it has failed less
    /// often than its rate allows, or has no entry of its own.
    pub(crate) fn wait(&self, address: IpAddr) -> Option<Duration> {
        let mut state = self.state();
        state.addresses.get_mut(AddressRange::of(address))?.bucket.as_mut()?.wait(Instant::now().into_std())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }
}

impl Forgettable for AddressFailures {
    /// Its bucket is full, or, without a rate, it would be logged again at once.
    fn is_forgettable(&mut self, now: Instant) -> bool {
        match &mut self.bucket {
            Some(bucket) => bucket.is_full(now.into_std()),
            None => now - self.last >= LOG_INTERVAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::address_table::MAX_ADDRESSES, *};
    use std::net::Ipv4Addr;

    fn failures(rate: Option<&str>) -> KeyFailures {
        let rate = rate.map(|rate| Rate::try_from(rate.to_owned()).unwrap());
        KeyFailures::new(rate, ListenerKind::Clients, Metrics::default())
    }

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(n).into()
    }

    #[tokio::test(start_paused = true)]
    async fn answers_slow_down_with_each_failure_and_only_some_failures_are_logged() {
        let failures = failures(None);
        let group = AddressRange::of(address(1));
        let (mut logged, mut waited) = (vec![], Duration::ZERO);
        for _ in 0..40 {
            let FailureResponse { delay, to_log } = failures.count(group, Instant::now());
            logged.extend(to_log);
            waited += delay;
            tokio::time::sleep(delay).await;
        }
        assert_eq!(logged[0], 1, "the first failure is logged at once");
        assert!((2..5).contains(&logged.len()), "{logged:?}");
        assert!(waited > Duration::from_secs(25), "{waited:?}");
        let other = failures.count(AddressRange::of(address(2)), Instant::now());
        assert_eq!(other.delay, Duration::ZERO, "another address");
        tokio::time::sleep(RESET_AFTER).await;
        assert_eq!(failures.count(group, Instant::now()).delay, Duration::ZERO, "it starts from zero");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_beyond_its_rate_waits() {
        let failures = failures(Some("3/m"));
        for _ in 0..3 {
            assert_eq!(failures.wait(address(1)), None);
            failures.count(AddressRange::of(address(1)), Instant::now());
        }
        assert_eq!(failures.wait(address(1)), Some(Duration::from_secs(20)));
        assert_eq!(failures.wait(address(2)), None, "another address has its own limit");
        tokio::time::sleep(Duration::from_millis(20_001)).await;
        assert_eq!(failures.wait(address(1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_million_addresses_fit_into_a_bounded_table() {
        let failures = failures(Some("1/m"));
        for n in 0..1_000_000 {
            failures.count(AddressRange::of(address(n)), Instant::now());
            if n % 1000 == 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        assert!(failures.state().addresses.len() <= MAX_ADDRESSES);
        let last = AddressRange::of(address(999_999));
        assert!(failures.state().addresses.get_mut(last).is_none(), "there was no room for it");
        assert_eq!(failures.count(last, Instant::now()).delay, MAX_DELAY, "it is delayed with all others");
        for n in [999_999, 8_000_000] {
            assert_eq!(failures.wait(address(n)), None, "a valid key is accepted: {n}");
        }
        {
            let state = failures.state();
            assert!(
                state.others.as_ref().is_some_and(|others| others.bucket.is_none()),
                "they share no bucket"
            );
        }
        tokio::time::sleep(Duration::from_secs(61)).await;
        failures.count(AddressRange::of(address(7_000_000)), Instant::now());
        assert!(failures.wait(address(7_000_000)).is_some(), "there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_of_a_hundred_thousand_addresses_is_small() {
        let failures = failures(Some("20/m"));
        for n in 0..100_000 {
            failures.count(AddressRange::of(address(n)), Instant::now());
        }
        let state = failures.state();
        let (entries, bytes) = (state.addresses.len(), state.addresses.bytes());
        assert_eq!(entries, MAX_ADDRESSES);
        assert!(bytes <= 2 << 20, "{bytes} bytes");
    }
}
