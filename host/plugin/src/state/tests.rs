//! The state of a plugin: how long it is kept, for whom, and in how much memory.

use super::*;
use crate::clock::PluginClock;
use std::thread;

const BUDGET: usize = 200_000;

fn table(budget: usize) -> (Arc<StateTable>, PluginClock) {
    let clock = PluginClock::driven(1_000_000);
    (Arc::new(StateTable::new(budget).with_clock(clock.clone())), clock)
}

const ONCE_A_MINUTE: Withdrawal = Withdrawal { amount: 1, burst: 1, per_minute: 1 };

#[test]
fn a_value_lives_until_its_time_is_over_or_it_is_deleted() {
    let (table, clock) = table(BUDGET);
    let state = StateAccess::direct(table.clone());
    state.set("acme", "a", b"1", 0).unwrap();
    state.set("acme", "b", b"2", 1000).unwrap();
    clock.set(1_000_999);
    assert_eq!((state.get("a"), state.get("b")), (Some(b"1".to_vec()), Some(b"2".to_vec())));
    clock.set(1_001_000);
    assert_eq!((state.get("a"), state.get("b")), (Some(b"1".to_vec()), None));
    state.set("acme", "a", b"", 0).unwrap();
    assert_eq!(state.get("a"), Some(vec![]), "an empty value is a value");
    state.delete("acme", "a");
    state.delete("acme", "a");
    assert_eq!(state.get("a"), None);
    state.set("acme", "b", b"3", u64::MAX).unwrap();
    state.delete("acme", "b");
    assert_eq!(table.usage(), StateUsage::default());
    let error = state.set("acme", "a", &[0; MAX_VALUE_BYTES + 1], 0).unwrap_err().to_string();
    assert_eq!(error, "the value has 65537 bytes, at most 65536 are allowed");
}

#[test]
fn a_bucket_and_a_value_of_one_key_are_separate() {
    let (table, clock) = table(BUDGET);
    let state = StateAccess::direct(table);
    state.set("acme", "k", b"v", 0).unwrap();
    assert_eq!(state.take("acme", "k", ONCE_A_MINUTE), Ok(()));
    state.delete("acme", "k");
    assert_eq!(state.take("acme", "k", ONCE_A_MINUTE), Err(60_000), "deleting the value resets no limit");
    clock.set(1_060_000);
    assert_eq!(state.take("acme", "k", ONCE_A_MINUTE), Ok(()));
    let above = Withdrawal { amount: 2, burst: 1, per_minute: 1 };
    assert_eq!(state.take("acme", "k", above), Err(u64::MAX));
    let nothing = Withdrawal { amount: 0, burst: 5, per_minute: 1 };
    assert_eq!((state.take("acme", "new", nothing), state.table.usage().entries), (Ok(()), 1));
}

/// The point of the budget's rules: whoever floods a plugin with keys neither gets memory nor resets limits.
#[test]
fn a_flood_of_keys_stays_within_the_budget_and_resets_no_limit() {
    let (table, clock) = table(BUDGET);
    let state = StateAccess::direct(table.clone());
    assert_eq!(state.take("victim", "wallet", ONCE_A_MINUTE), Ok(()));
    state.set("victim", "last", b"trade", 0).unwrap();
    let mut refused = 0;
    for n in 0..10_000 {
        let taken = state.take("flood", &format!("key {n}"), ONCE_A_MINUTE);
        refused += usize::from(taken == Err(u64::MAX));
        assert!(table.usage().bytes <= BUDGET, "{:?}", table.usage());
    }
    assert!(refused > 9000 && table.usage().refusals == refused as u64, "{refused}");
    assert_eq!(state.take("victim", "wallet", ONCE_A_MINUTE), Err(60_000));
    assert_eq!(state.take("flood", "key 0", ONCE_A_MINUTE), Err(60_000), "nor does it reset its own");
    assert_eq!(state.take("victim", "another wallet", ONCE_A_MINUTE), Ok(()), "there is room for others");
    // A minute later all buckets are full, and make room.
    clock.set(1_060_000);
    assert_eq!(state.take("flood", "key 10001", ONCE_A_MINUTE), Ok(()));
    assert_eq!(state.get("last"), Some(b"trade".to_vec()), "full buckets are evicted before values");
}

#[test]
fn the_value_that_was_not_used_for_longest_is_evicted_first() {
    let (table, clock) = table(20_000);
    let state = StateAccess::direct(table.clone());
    let value = [0; 1000];
    let mut kept = 0;
    while table.usage().evictions == 0 {
        clock.set(1_000_000 + kept);
        state.set("acme", &format!("{kept}"), &value, 0).unwrap();
        if kept == 3 {
            state.get("0").unwrap();
        }
        kept += 1;
    }
    // Looking must not count as a use.
    let missing = || (0..kept).filter(|n| table.peek(&n.to_string()).is_none()).collect::<Vec<_>>();
    assert_eq!(missing(), [1]);
    state.set("acme", "spent", &value, 1).unwrap();
    clock.set(2_000_000);
    state.set("acme", "new", &value, 0).unwrap();
    assert_eq!(state.get("spent"), None);
    assert_eq!(missing(), [1, 2], "for 'spent'; what had expired made room for 'new'");
}

#[test]
fn a_principal_with_many_values_evicts_its_own() {
    let (table, clock) = table(BUDGET);
    let state = StateAccess::direct(table.clone());
    for n in 0..20 {
        state.set("small", &format!("small {n}"), &[0; 100], 0).unwrap();
    }
    for n in 0..10_000 {
        clock.set(1_000_001 + n);
        state.set("large", &format!("large {n}"), &[0; 100], 0).unwrap();
    }
    assert!((0..20).all(|n| state.get(&format!("small {n}")).is_some()));
    assert!(state.get("large 9999").is_some() && state.get("large 0").is_none());
    // One that comes later gets its part, in place of values of the large one.
    for n in 0..20 {
        state.set("late", &format!("late {n}"), &[0; 100], 0).unwrap();
    }
    assert!((0..20).all(|n| state.get(&format!("late {n}")).is_some()));
    assert!((0..20).all(|n| state.get(&format!("small {n}")).is_some()));
}

#[test]
fn a_value_that_cannot_be_kept_leaves_the_one_before() {
    let (table, _) = table(0);
    let state = StateAccess::direct(table.clone());
    let error = state.set("acme", "a", b"1", 0).unwrap_err().to_string();
    assert_eq!(error, "there is no room for it: budget.state is 0 B, of which 0 B are used");
    assert_eq!(state.take("acme", "a", ONCE_A_MINUTE), Err(u64::MAX));
    table.set_budget(10_000);
    state.set("acme", "a", b"1", 0).unwrap();
    state.set("acme", "a", &[0; 9000], 0).unwrap_err();
    assert_eq!(state.get("a"), Some(b"1".to_vec()), "nothing is evicted in vain");
}

#[test]
fn a_candidate_reads_the_state_and_changes_only_its_own_view_of_it() {
    let (table, clock) = table(BUDGET);
    let (state, candidate) = (StateAccess::direct(table.clone()), StateAccess::without_effect(table.clone()));
    let three = Withdrawal { amount: 1, burst: 3, per_minute: 1 };
    state.set("acme", "a", b"1", 0).unwrap();
    assert_eq!(state.take("acme", "wallet", three), Ok(()));
    let before = table.usage();
    assert_eq!(candidate.get("a"), Some(b"1".to_vec()));
    candidate.set("acme", "a", b"2", 0).unwrap();
    candidate.set("acme", "b", b"3", 0).unwrap();
    assert_eq!((candidate.get("a"), candidate.get("b")), (Some(b"2".to_vec()), Some(b"3".to_vec())));
    candidate.delete("acme", "a");
    assert_eq!(candidate.get("a"), None);
    // It goes on from the level that it found.
    assert_eq!(
        (candidate.take("acme", "wallet", three), candidate.take("acme", "wallet", three)),
        (Ok(()), Ok(()))
    );
    assert_eq!(candidate.take("acme", "wallet", three), Err(60_000));
    assert_eq!(table.usage(), before);
    assert_eq!((state.get("a"), state.get("b")), (Some(b"1".to_vec()), None));
    assert_eq!((state.take("acme", "wallet", three), state.take("acme", "wallet", three)), (Ok(()), Ok(())));
    clock.set(1_060_000);
    assert_eq!(candidate.take("acme", "wallet", three), Ok(()));
}

#[test]
fn threads_take_exactly_what_a_bucket_holds() {
    let (table, _) = table(BUDGET);
    let taken: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let state = StateAccess::direct(table.clone());
                scope.spawn(move || {
                    let asked = Withdrawal { amount: 1, burst: 1000, per_minute: 0 };
                    let principal = format!("p{n}");
                    for n in 0..500 {
                        state.set(&principal, &format!("{principal} {n}"), &[0; 100], 0).ok();
                    }
                    (0..500).filter(|_| state.take(&principal, "shared", asked).is_ok()).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(taken, 1000);
    assert!(table.usage().bytes <= BUDGET);
}
