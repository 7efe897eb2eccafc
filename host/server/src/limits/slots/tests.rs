//! Who is evicted, and who is not.

use super::*;
use std::future::pending;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

const GRACE: Duration = Duration::from_secs(1);

fn group(n: u32) -> AddressRange {
    AddressRange::of(std::net::Ipv4Addr::from_bits(n).into())
}

fn acquire(slots: &Arc<Slots>, from: u32) -> Result<Slot, NoSlot> {
    slots.acquire(group(from), false).map(|(slot, _)| slot)
}

/// A connection that says nothing. The task ends when it is evicted.
fn silent(slot: Slot) -> JoinHandle<Option<()>> {
    tokio::spawn(async move { slot.run(pending::<()>()).await })
}

async fn assert_evicted(silent: JoinHandle<Option<()>>) {
    assert_eq!(timeout(GRACE, silent).await.expect("evicted at once").unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_of_the_largest_group_is_evicted_after_its_grace_period() {
    let slots = Slots::new(4, None, GRACE);
    let alone = silent(acquire(&slots, 1).unwrap());
    sleep(GRACE).await;
    let first = silent(acquire(&slots, 2).unwrap());
    let others: Vec<_> = (0..2).map(|_| silent(acquire(&slots, 2).unwrap())).collect();
    let began = Instant::now();
    sleep(GRACE / 2).await;
    assert_eq!(
        acquire(&slots, 3).err(),
        Some(NoSlot::RetryAt(began + GRACE)),
        "all are in their grace period"
    );
    sleep(GRACE / 2).await;
    let _slot = acquire(&slots, 3).expect("one is evicted");
    assert_evicted(first).await;
    assert!(!alone.is_finished() && others.iter().all(|other| !other.is_finished()));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_waits_for_the_node_is_not_evicted() {
    let slots = Slots::new(2, None, GRACE);
    let woken = acquire(&slots, 1).unwrap();
    let (wake, wakes) = oneshot::channel::<()>();
    // It was polled, and then woken by something that it has not read yet.
    let mut run = Box::pin(woken.run(wakes));
    assert!(futures_util::poll!(&mut run).is_pending());
    wake.send(()).unwrap();
    let busy = Arc::new(acquire(&slots, 1).unwrap());
    let mut works = Box::pin(busy.run(pending::<()>()));
    assert!(futures_util::poll!(&mut works).is_pending());
    let serving = busy.busy();
    sleep(GRACE * 2).await;
    assert!(matches!(acquire(&slots, 2), Err(NoSlot::RetryAt(_))));
    drop(serving);
    assert!(matches!(acquire(&slots, 2), Err(NoSlot::RetryAt(_))), "it has just been served");
    sleep(GRACE).await;
    let _taken = acquire(&slots, 2).expect("the one that was served is silent");
    assert_eq!(works.await, None);
    assert_eq!(run.await, Some(Ok(())), "the other one stays");
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_given_back_once_and_waiting_connections_are_notified() {
    let slots = Slots::new(1, None, GRACE);
    let slot = acquire(&slots, 1).unwrap();
    let freed = slots.freed();
    slot.release();
    timeout(GRACE, freed).await.expect("notified");
    let other = acquire(&slots, 1).unwrap();
    drop(slot);
    sleep(GRACE * 2).await;
    assert!(matches!(acquire(&slots, 2), Err(NoSlot::RetryAt(_))), "dropping the first freed no other slot");
    drop(other);
    assert!(acquire(&slots, 2).is_ok());
    assert!(slots.state().groups.is_empty() && slots.state().by_size.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_address_has_a_limit_unless_it_is_trusted() {
    let slots = Slots::new(10, Some(2), GRACE);
    let _taken = [acquire(&slots, 1).unwrap(), acquire(&slots, 1).unwrap()];
    assert_eq!(acquire(&slots, 1).err(), Some(NoSlot::AddressLimit));
    assert!(acquire(&slots, 2).is_ok() && slots.acquire(group(1), true).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_slot_of_a_proxy_moves_to_its_client_and_keeps_its_age() {
    let slots = Slots::new(4, Some(2), GRACE);
    let proxy = |slots: &Arc<Slots>| slots.acquire(group(9), true).map(|(slot, _)| slot).unwrap();
    let held = [proxy(&slots), proxy(&slots), proxy(&slots)];
    assert!(held[0].move_to(group(1), false) && held[1].move_to(group(1), false));
    assert!(!held[2].move_to(group(1), false), "the client has reached its limit");
    assert!(held[2].move_to(group(2), false), "another client has not");
    assert!(held[0].move_to(group(1), false), "it is there already");
    sleep(GRACE).await;
    let [first, second, third] = held.map(silent);
    tokio::task::yield_now().await;
    let fourth = proxy(&slots);
    let fifth = acquire(&slots, 3).expect("the oldest of the client with the most is evicted");
    assert_evicted(first).await;
    assert!(!second.is_finished() && !third.is_finished());
    drop(fourth);
    drop(fifth);
    for held in [second, third] {
        held.abort();
        assert!(held.await.is_err());
    }
    let state = slots.state();
    assert!(state.groups.is_empty() && state.by_size.is_empty() && state.taken == 0);
}
