use super::*;
use crate::{key::Key, limits::Budgets, rate::ByteRate, tier::Tier};
use switchyard_process::memory::{MemoryAccount, MemoryKind};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn rate(text: &str) -> Option<Rate> {
    Some(Rate::try_from(text.to_owned()).unwrap())
}

fn bytes(text: &str) -> Option<ByteRate> {
    Some(ByteRate::try_from(text.to_owned()).unwrap())
}

fn key(limit: impl FnOnce(&mut Tier)) -> Arc<Key> {
    let mut limits = Tier::default();
    limit(&mut limits);
    Key::detached_with("acme", limits)
}

/// A budget with its mode, and what it counts.
fn budget(mode: LimitMode) -> (Arc<Budget>, Metrics) {
    let metrics = Metrics::default();
    (Budgets::new(mode, metrics.clone()).of(&"acme".into()), metrics)
}

fn count(metrics: &Metrics, limit: &str, mode: &str) -> String {
    let name = format!("switchyard_limited_total{{limit=\"{limit}\",mode=\"{mode}\"}} ");
    let text = metrics.encode();
    text.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or("none").to_owned()
}

/// The milliseconds to wait. `None`: it was taken.
fn wait(taken: Result<(), Refusal>) -> Option<u64> {
    taken.err().map(|refusal| {
        assert_eq!(refusal.code, ErrorCode::RateLimited);
        refusal.retry_after.expect("it says how long to wait")
    })
}

#[test]
fn without_rates_everything_is_allowed_and_nothing_is_counted() {
    let ((budget, metrics), key, now) = (budget(LimitMode::Enforce), key(|_| ()), Instant::now());
    for _ in 0..1000 {
        budget.take(&key, [(TierRate::Requests, 1)]).unwrap();
        budget.take(&key, [(TierRate::Publishes, 1000), (TierRate::Bytes, 1 << 30)]).unwrap();
        assert_eq!(budget.count_request(&key), None);
        budget.charge_read(&key, 1 << 30);
        budget.check_reads(&key).unwrap();
    }
    assert!(budget.is_full(now) && budget.state().buckets.iter().all(Option::is_none));
    assert_eq!(count(&metrics, "publishes", "enforce"), "0");
}

#[test]
fn a_message_takes_its_bytes_too_or_nothing() {
    let (budget, metrics) = budget(LimitMode::Enforce);
    let key = key(|tier| (tier.publishes, tier.bytes) = (rate("4/s"), bytes("1000/s")));
    let start = Instant::now();
    let take =
        |size, now| wait(budget.take_at(&key, [(TierRate::Publishes, 1), (TierRate::Bytes, size)], now));
    assert_eq!(take(900, start), None);
    assert_eq!(take(600, start), Some(500), "500 bytes are missing");
    for _ in 0..3 {
        assert_eq!(take(1, start), None, "what was refused took no message");
    }
    assert_eq!(take(900, start), Some(803), "the longer of the two waits");
    assert_eq!(take(0, start), Some(250));
    assert_eq!(take(1500, start + SECOND), None, "what never fits passes when the bucket is full");
    assert_eq!(take(1, start + SECOND), Some(501));
    assert_eq!(count(&metrics, "bytes", "enforce"), "3");
    assert_eq!(count(&metrics, "publishes", "enforce"), "1");
}

#[test]
fn the_refusal_says_what_is_allowed() {
    let (budget, _) = budget(LimitMode::Enforce);
    let key = key(|tier| tier.publishes = rate("2/m"));
    let take = |now| budget.take_at(&key, [(TierRate::Publishes, 2)], now);
    let start = Instant::now();
    take(start).unwrap();
    assert_eq!(
        take(start).unwrap_err().message,
        "tier 'default' allows principal 'acme' 2 messages per minute, over all its connections and calls; wait 60000 ms"
    );
}

#[test]
fn a_changed_rate_gives_back_nothing_and_keys_of_several_tiers_share_a_bucket() {
    let (budget, _) = budget(LimitMode::Enforce);
    let of = |text: &str| {
        let key = key(|tier| tier.publishes = rate(text));
        let budget = budget.clone();
        move |now| wait(budget.take_at(&key, [(TierRate::Publishes, 1)], now))
    };
    let (slow, fast, start) = (of("2/s"), of("10/s"), Instant::now());
    assert_eq!([slow(start), slow(start), slow(start)], [None, None, Some(500)]);
    assert_eq!(fast(start), Some(100), "the faster key finds the bucket empty");
    assert_eq!(fast(start + 100 * MS), None);
    assert_eq!(slow(start + 100 * MS), Some(500));
}

#[test]
fn requests_that_are_never_refused_slow_the_connection_down_to_the_rate() {
    let (budget, metrics) = budget(LimitMode::Enforce);
    let key = key(|tier| tier.requests = rate("10/s"));
    let (start, rate) = (Instant::now(), rate("10/s").unwrap());
    let mut now = start;
    for _ in 0..10 {
        assert_eq!(budget.count_request_at(&key, rate, now), None);
    }
    for _ in 0..100 {
        let pause = budget.count_request_at(&key, rate, now);
        now += pause.unwrap_or_default();
    }
    let took = now - start;
    assert!((9 * SECOND..=11 * SECOND).contains(&took), "{took:?}");
    // However many connections send them, the budget recovers within two periods.
    for _ in 0..1000 {
        budget.count_request_at(&key, rate, now);
    }
    let wait = wait(budget.take_at(&key, [(TierRate::Requests, 1)], now)).expect("a wait");
    assert_eq!(wait, 1100);
    assert_ne!(count(&metrics, "requests", "enforce"), "0");
}

#[test]
fn reads_are_charged_afterwards() {
    let (budget, _) = budget(LimitMode::Enforce);
    let key = key(|tier| tier.reads = bytes("1000/m"));
    budget.check_reads(&key).unwrap();
    assert_eq!(budget.read_delay(&key, true), None);
    budget.charge_read(&key, 3000);
    let wait = wait(budget.check_reads(&key)).expect("a wait");
    assert!((119_000..=120_060).contains(&wait), "2,000 bytes are owed: {wait} ms");
    let delay = budget.read_delay(&key, true).expect("a wait");
    assert!(delay > 119 * SECOND, "{delay:?}");
}

#[test]
fn when_observing_everything_is_allowed_and_what_exceeds_is_counted() {
    let (budget, metrics) = budget(LimitMode::Observe);
    let key = key(|tier| {
        (tier.publishes, tier.requests, tier.reads) = (rate("1/m"), rate("1/m"), bytes("1/m"));
        tier.memory = Some(1);
    });
    let share = MemoryAccount::new(1 << 20).share(&"acme".into());
    budget.bound_memory(&key, &share);
    let _charge = share.charge(MemoryKind::Rooms, 2);
    for _ in 0..3 {
        budget.take(&key, [(TierRate::Publishes, 1)]).unwrap();
        assert_eq!(budget.count_request(&key), None);
        assert_eq!(budget.read_delay(&key, true), None);
        budget.charge_read(&key, 100);
        budget.check_memory(&key, &share).unwrap();
    }
    assert!(!budget.refuses_filter(&key) && !share.is_at_limit());
    for (limit, times) in
        [("publishes", "2"), ("requests", "2"), ("reads", "2"), ("memory", "3"), ("filters", "1")]
    {
        assert_eq!(count(&metrics, limit, "observe"), times, "{limit}");
        assert_eq!(count(&metrics, limit, "enforce"), "0", "{limit}");
    }
}

#[test]
fn a_principal_keeps_no_more_than_its_tier_allows() {
    let ((budget, _), account) = (budget(LimitMode::Enforce), MemoryAccount::new(1 << 20));
    let (key, share) = (key(|tier| tier.memory = Some(1000)), account.share(&"acme".into()));
    budget.bound_memory(&key, &share);
    let mut charge = share.charge(MemoryKind::Rooms, 999);
    budget.check_memory(&key, &share).unwrap();
    charge.grow(1);
    let refusal = budget.check_memory(&key, &share).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Overloaded);
    assert!(
        refusal.message.contains("keeps 1000 bytes for principal 'acme', tier 'default' allows 1000;"),
        "{refusal}"
    );
    assert!(share.is_at_limit());
}

#[test]
fn a_principal_is_logged_once_in_ten_seconds() {
    let (budget, _) = budget(LimitMode::Enforce);
    let key = key(|tier| tier.publishes = rate("1/m"));
    let start = Instant::now();
    let refused_at =
        |seconds| drop(budget.take_at(&key, [(TierRate::Publishes, 1)], start + seconds * SECOND));
    (0..4).for_each(|_| refused_at(0));
    assert_eq!(budget.state().unlogged, 2, "the first was logged at once");
    refused_at(9);
    assert_eq!(budget.state().unlogged, 3);
    refused_at(10);
    assert_eq!(budget.state().unlogged, 0);
}
