//! How many allocations and instructions a message takes on its way. The numbers are the same on every
//! machine, so this protects the hot path.

use allocation_counter::measure;
use switchyard_tests::hot::{FanOut, Filters, HistoryReplay, RatedPublisher, encode};

fn allocations(run: impl FnOnce()) -> u64 {
    measure(run).count_total
}

#[test]
fn a_message_is_encoded_in_few_allocations_regardless_of_members() {
    let encoded = allocations(|| drop(encode(4711)));
    assert!(
        encoded <= 7,
        "{encoded}: the names of room and epoch, the event twice, the frame and who shares it"
    );
}

#[test]
fn a_delivery_allocates_nothing() {
    let mut room = FanOut::new(1000);
    for _ in 0..3 {
        let message = room.message();
        room.deliver(&message);
        room.flush();
    }
    let message = room.message();
    let delivered = allocations(|| {
        room.deliver(&message);
        room.flush();
    });
    assert_eq!(delivered, 0);
}

#[test]
fn the_rates_of_a_principal_allocate_nothing() {
    for has_rates in [false, true] {
        let publisher = RatedPublisher::new(has_rates);
        publisher.count();
        assert_eq!(allocations(|| publisher.count()), 0, "{has_rates}");
    }
}

#[test]
fn waiting_frames_only_grow_the_queue() {
    let mut room = FanOut::new(100);
    let messages: Vec<_> = (0..16).map(|_| room.message()).collect();
    let put = allocations(|| messages.iter().for_each(|message| room.deliver(message)));
    // 16 frames: the queue grows to 4, 8 and 16.
    assert!(put <= 100 * 3, "{put}");
    assert_eq!(allocations(|| room.flush()), 0);
}

#[test]
fn a_thousand_filters_take_one_call() {
    let ask = |count| {
        let mut filters = Filters::new(count, false);
        assert_eq!(filters.matches(), (count / 2) as u32);
        allocations(|| {
            filters.matches();
        })
    };
    let (few, many) = (ask(10), ask(1000));
    assert!(many <= few, "{few} allocations for 10, {many} for 1,000");
    assert!(few <= 4, "{few}");
}

#[test]
fn a_filter_takes_few_instructions() {
    let ask = |count| {
        let mut filters = Filters::new(count, true);
        filters.matches();
        let before = filters.instructions();
        filters.matches();
        filters.instructions() - before
    };
    let (few, many) = (ask(100), ask(1100));
    let each = (many - few) / 1000;
    assert!(each <= 150, "{each} instructions a filter");
    assert!(few <= 27_000, "{few} instructions for a message of 200 bytes and 100 filters");
}

#[tokio::test]
async fn a_replay_copies_no_stored_messages() {
    let recovery = HistoryReplay::new(1000);
    recovery.replay();
    let replayed = allocations(|| recovery.replay());
    assert!(replayed <= 20, "{replayed} allocations for 1,000 messages: the page, and the queue as it grows");
}
