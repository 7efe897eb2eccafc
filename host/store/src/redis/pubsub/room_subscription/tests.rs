//! The log of a room that is written here, received with holes, and read page by page.

use super::*;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};
use switchyard_protocol::Publication;

/// The time of a message is ten times its offset.
fn entry(epoch: &str, offset: u64) -> LogEntry {
    let publication = Publication::new("r".into(), epoch.into(), offset, offset * 10, None, "1");
    LogEntry { publication: Arc::new(publication), previous_time: (offset - 1) * 10 }
}

/// The log of `epoch` has `oldest` to `newest`; it is read after `after`, at most `limit` messages.
fn page(epoch: &str, oldest: u64, newest: u64, after: u64, limit: usize) -> LogPage {
    let entries = (oldest.max(after + 1)..=newest).take(limit).map(|offset| entry(epoch, offset)).collect();
    LogPage { newest: Position { epoch: epoch.into(), offset: newest }, time: newest * 10, oldest, entries }
}

struct Subscriber {
    subscription: RoomSubscription,
    feed: EventFeed,
    received: Arc<Mutex<Vec<String>>>,
    keeps_up: Arc<AtomicBool>,
}

/// A subscription that is live at offset 5 of epoch `a`.
fn open() -> Subscriber {
    let (received, keeps_up) = (Arc::new(Mutex::new(vec![])), Arc::new(AtomicBool::new(true)));
    let (log, up) = (received.clone(), keeps_up.clone());
    let feed: EventFeed = Arc::new(move |event| {
        log.lock().unwrap().push(match event {
            Event::Subscribed { position, .. } => format!("from {}{}", position.epoch, position.offset),
            Event::Published(message) => format!("{}{}", message.epoch, message.offset),
            Event::Lost { position, .. } => format!("lost {}{}", position.epoch, position.offset),
            other => format!("{other:?}"),
        });
        up.load(Ordering::Relaxed)
    });
    let subscription = RoomSubscription::new(RoomName::parse("r").unwrap(), 1);
    let mut subscriber = Subscriber { subscription, feed, received, keeps_up };
    assert_eq!(
        subscriber.receive("a", 6),
        NextStep::Nothing,
        "buffered until the position of the room is known"
    );
    assert_eq!(subscriber.read(page("a", 1, 5, 0, 0)), (NextStep::Nothing, 0, false));
    assert_eq!(subscriber.received(), "from a5 a6");
    subscriber
}

impl Subscriber {
    fn receive(&mut self, epoch: &str, offset: u64) -> NextStep {
        self.subscription.receive(entry(epoch, offset), &self.feed)
    }

    fn read(&mut self, page: LogPage) -> (NextStep, usize, bool) {
        let (next, result) = self.subscription.finish_read(&page, &self.feed);
        (next, result.missed, result.is_lost)
    }

    fn received(&self) -> String {
        self.received.lock().unwrap().drain(..).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn the_next_message_is_passed_on_and_repeats_are_not() {
    let mut subscriber = open();
    for offset in [7, 7, 6, 8] {
        assert_eq!(subscriber.receive("a", offset), NextStep::Nothing);
    }
    assert_eq!(subscriber.received(), "a7 a8");
    subscriber.subscription.is_needed = false;
    subscriber.receive("a", 9);
    subscriber.subscription.resubscribe(&subscriber.feed);
    assert_eq!(subscriber.received(), "from a9", "messages are not passed on while nobody is in the room");
}

#[test]
fn a_hole_is_filled_from_the_log_in_order_and_page_by_page() {
    let mut subscriber = open();
    assert_eq!(subscriber.receive("a", 9), NextStep::Read);
    assert_eq!(subscriber.receive("a", 10), NextStep::Nothing);
    assert_eq!(subscriber.received(), "");
    assert_eq!(subscriber.read(page("a", 1, 10, 6, 1)), (NextStep::Read, 1, false));
    assert_eq!(subscriber.read(page("a", 1, 8, 7, 9)), (NextStep::Nothing, 1, false));
    assert_eq!(subscriber.received(), "a7 a8 a9 a10");
    assert!(subscriber.subscription.is_live());
}

#[test]
fn messages_that_the_log_no_longer_has_are_reported_as_lost() {
    let mut subscriber = open();
    assert_eq!(subscriber.receive("a", 12), NextStep::Read);
    assert_eq!(subscriber.read(page("a", 10, 12, 6, 9)), (NextStep::Nothing, 3, true));
    assert_eq!(subscriber.received(), "lost a9 a10 a11 a12");
    // A room without history.
    assert_eq!(subscriber.receive("a", 20), NextStep::Read);
    assert_eq!(subscriber.read(page("a", 21, 20, 12, 9)), (NextStep::Nothing, 0, true));
    assert_eq!(subscriber.receive("a", 21), NextStep::Nothing);
    assert_eq!(subscriber.received(), "lost a20 a21");
}

#[test]
fn messages_beyond_the_buffer_are_read_from_the_log() {
    let mut subscriber = open();
    subscriber.subscription.start_resync();
    for offset in 7..=400 {
        assert_eq!(subscriber.receive("a", offset), NextStep::Nothing);
    }
    assert_eq!(subscriber.read(page("a", 1, 7, 6, 256)), (NextStep::Read, 1, false));
    assert_eq!(subscriber.read(page("a", 1, 400, 262, 256)), (NextStep::Nothing, 138, false));
    let received = subscriber.received();
    assert!(received.split(' ').eq((7..=400).map(|offset| format!("a{offset}"))), "{received}");
}

#[test]
fn another_epoch_is_a_loss_and_continues_with_its_log() {
    let mut subscriber = open();
    assert_eq!(subscriber.receive("b", 3), NextStep::Read);
    assert_eq!(subscriber.read(page("b", 2, 3, 0, 9)), (NextStep::Nothing, 2, true));
    assert_eq!(subscriber.received(), "lost b1 b2 b3");
    assert_eq!(subscriber.receive("b", 4), NextStep::Nothing);
}

/// Redis was emptied, and the room began twice before this node read it. A message of the first beginning is
/// not in the log and follows nothing there. Once, waiting for it kept the node reading a thousand times a
/// second.
#[test]
fn a_message_that_the_log_lacks_is_not_waited_for() {
    for (epoch, offset) in [("b", 1), ("a", 9)] {
        let mut subscriber = open();
        subscriber.subscription.start_resync();
        assert_eq!(subscriber.receive(epoch, offset), NextStep::Nothing, "buffered while the log is read");
        let log = || page("c", 1, 2, 0, 9);
        let first = subscriber.read(log());
        if epoch != "a" {
            assert_eq!(first, (NextStep::Read, 2, true), "the result may be older than the message");
            subscriber.subscription.start_resync();
            assert_eq!(subscriber.read(page("c", 1, 2, 2, 9)), (NextStep::Nothing, 0, false));
        }
        assert!(subscriber.subscription.is_live());
        assert_eq!(subscriber.receive("c", 3), NextStep::Nothing);
        assert_eq!(subscriber.received(), "lost c0 c1 c2 c3");
    }
    // The same in an epoch that continues: a replica took over that lacks a message which was not passed on
    // yet.
    let mut subscriber = open();
    assert_eq!(subscriber.receive("a", 9), NextStep::Read);
    subscriber.subscription.start_resync();
    assert_eq!(subscriber.read(page("a", 1, 7, 6, 9)), (NextStep::Nothing, 1, false));
    assert_eq!(subscriber.receive("a", 8), NextStep::Nothing);
    assert_eq!(subscriber.received(), "a7 a8");
}

/// A replica took over that lacks messages.
#[test]
fn offsets_that_go_back_end_the_epoch() {
    for (what, page) in [
        ("fewer messages", page("a", 1, 5, 6, 9)),
        ("as many messages, but another last one", LogPage { time: 61, ..page("a", 1, 6, 6, 9) }),
    ] {
        let mut subscriber = open();
        subscriber.subscription.start_resync();
        assert_eq!(subscriber.read(page).0, NextStep::BeginEpoch, "{what}");
    }
    let mut subscriber = open();
    let other = LogEntry { previous_time: 61, ..entry("a", 7) };
    assert_eq!(subscriber.subscription.receive(other.clone(), &subscriber.feed), NextStep::Read);
    let mut more = page("a", 1, 7, 6, 9);
    more.entries[0] = other;
    assert_eq!(subscriber.read(more).0, NextStep::BeginEpoch, "more messages, but another sixth one");
    assert_eq!(subscriber.read(page("b", 8, 7, 0, 9)), (NextStep::Nothing, 0, true));
    assert_eq!(subscriber.received(), "lost b7");
}

#[test]
fn the_log_is_read_later_for_a_busy_shard() {
    let mut subscriber = open();
    subscriber.keeps_up.store(false, Ordering::Relaxed);
    assert_eq!(subscriber.receive("a", 7), NextStep::ReadLater);
    assert_eq!(subscriber.receive("a", 8), NextStep::Nothing);
    assert_eq!(subscriber.read(page("a", 1, 9, 7, 9)), (NextStep::ReadLater, 1, false));
    subscriber.keeps_up.store(true, Ordering::Relaxed);
    assert_eq!(subscriber.read(page("a", 1, 9, 8, 9)), (NextStep::Nothing, 1, false));
    assert_eq!(subscriber.received(), "a7 a8 a9");
}
