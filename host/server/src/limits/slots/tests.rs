use super::*;
use std::future::pending;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

const GRACE: Duration = Duration::from_secs(1);

fn group(n: u32) -> Group {
    Group::of(std::net::Ipv4Addr::from_bits(n).into())
}

fn take(slots: &Arc<Slots>, from: u32) -> Result<Slot, Full> {
    slots.take(group(from), false).map(|(slot, _)| slot)
}

/// A connection that says nothing: ends when it has to go.
fn silent(slot: Slot) -> JoinHandle<Option<()>> {
    tokio::spawn(async move { slot.run(pending::<()>()).await })
}

async fn goes(silent: JoinHandle<Option<()>>) {
    assert_eq!(timeout(GRACE, silent).await.expect("it goes at once").unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn the_longest_silent_of_who_has_most_goes_and_not_before_its_grace() {
    let slots = Slots::new(4, None, GRACE);
    let alone = silent(take(&slots, 1).unwrap());
    sleep(GRACE).await;
    let first = silent(take(&slots, 2).unwrap());
    let others: Vec<_> = (0..2).map(|_| silent(take(&slots, 2).unwrap())).collect();
    let began = Instant::now();
    sleep(GRACE / 2).await;
    assert_eq!(take(&slots, 3).err(), Some(Full::Until(began + GRACE)), "they have only just come");
    sleep(GRACE / 2).await;
    let _slot = take(&slots, 3).expect("one made room");
    goes(first).await;
    assert!(!alone.is_finished() && others.iter().all(|other| !other.is_finished()));
}

#[tokio::test(start_paused = true)]
async fn whom_the_node_keeps_waiting_stays() {
    let slots = Slots::new(2, None, GRACE);
    let woken = take(&slots, 1).unwrap();
    let (wake, wakes) = oneshot::channel::<()>();
    // It was looked at, and something came that was not read yet.
    let mut run = Box::pin(woken.run(wakes));
    assert!(futures_util::poll!(&mut run).is_pending());
    wake.send(()).unwrap();
    let busy = Arc::new(take(&slots, 1).unwrap());
    let mut works = Box::pin(busy.run(pending::<()>()));
    assert!(futures_util::poll!(&mut works).is_pending());
    let serving = busy.busy();
    sleep(GRACE * 2).await;
    assert!(matches!(take(&slots, 2), Err(Full::Until(_))));
    drop(serving);
    assert!(matches!(take(&slots, 2), Err(Full::Until(_))), "it has just been served");
    sleep(GRACE).await;
    let _taken = take(&slots, 2).expect("the one that was served is silent");
    assert_eq!(works.await, None);
    assert_eq!(run.await, Some(Ok(())), "the other stayed");
}

#[tokio::test(start_paused = true)]
async fn a_place_is_left_once_and_then_others_hear_of_it() {
    let slots = Slots::new(1, None, GRACE);
    let slot = take(&slots, 1).unwrap();
    let freed = slots.freed();
    slot.leave();
    timeout(GRACE, freed).await.expect("it was told");
    let other = take(&slots, 1).unwrap();
    drop(slot);
    sleep(GRACE * 2).await;
    assert!(matches!(take(&slots, 2), Err(Full::Until(_))), "who left before took nobody else's place along");
    drop(other);
    assert!(take(&slots, 2).is_ok());
    assert!(slots.state().groups.is_empty() && slots.state().by_size.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_address_has_its_own_limit_unless_it_is_trusted() {
    let slots = Slots::new(10, Some(2), GRACE);
    let _taken = [take(&slots, 1).unwrap(), take(&slots, 1).unwrap()];
    assert_eq!(take(&slots, 1).err(), Some(Full::Address));
    assert!(take(&slots, 2).is_ok() && slots.take(group(1), true).is_ok());
}
