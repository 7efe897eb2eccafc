//! A room's log that is written here, heard with holes, and read page by page.

use super::*;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};
use switchyard_protocol::Publication;

/// Times are ten times the offsets, so that `before` follows.
fn heard(epoch: &str, offset: u64) -> Heard {
    let publication = Publication::new("r".into(), epoch.into(), offset, offset * 10, None, "1");
    Heard { publication: Arc::new(publication), before: (offset - 1) * 10 }
}

/// The log of `epoch` holds `oldest` to `newest`; read after `after`, `limit` at most.
fn page(epoch: &str, oldest: u64, newest: u64, after: u64, limit: usize) -> Page {
    let messages = (oldest.max(after + 1)..=newest).take(limit).map(|offset| heard(epoch, offset)).collect();
    Page { newest: Position { epoch: epoch.into(), offset: newest }, time: newest * 10, oldest, messages }
}

struct Watch {
    interest: Interest,
    feed: Feed,
    told: Arc<Mutex<Vec<String>>>,
    keeps_up: Arc<AtomicBool>,
}

/// Open at offset 5 of epoch `a`.
fn open() -> Watch {
    let (told, keeps_up) = (Arc::new(Mutex::new(vec![])), Arc::new(AtomicBool::new(true)));
    let (log, up) = (told.clone(), keeps_up.clone());
    let feed: Feed = Arc::new(move |event| {
        log.lock().unwrap().push(match event {
            Event::Subscribed { position, .. } => format!("from {}{}", position.epoch, position.offset),
            Event::Published(message) => format!("{}{}", message.epoch, message.offset),
            Event::Lost { position, .. } => format!("lost {}{}", position.epoch, position.offset),
            other => format!("{other:?}"),
        });
        up.load(Ordering::Relaxed)
    });
    let interest = Interest::new(RoomName::parse("r").unwrap(), 1);
    let mut watch = Watch { interest, feed, told, keeps_up };
    assert_eq!(watch.hear("a", 6), Next::Nothing, "kept until it is known where the room is");
    assert_eq!(watch.read(page("a", 1, 5, 0, 0)), (Next::Nothing, 0, false));
    assert_eq!(watch.told(), "from a5 a6");
    watch
}

impl Watch {
    fn hear(&mut self, epoch: &str, offset: u64) -> Next {
        self.interest.hear(heard(epoch, offset), &self.feed)
    }

    fn read(&mut self, page: Page) -> (Next, usize, bool) {
        let (next, found) = self.interest.read(&page, &self.feed);
        (next, found.missed, found.lost)
    }

    fn told(&self) -> String {
        self.told.lock().unwrap().drain(..).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn what_follows_is_passed_on_and_repeats_are_not() {
    let mut watch = open();
    for offset in [7, 7, 6, 8] {
        assert_eq!(watch.hear("a", offset), Next::Nothing);
    }
    assert_eq!(watch.told(), "a7 a8");
    watch.interest.watched = false;
    watch.hear("a", 9);
    watch.interest.rewatch(&watch.feed);
    assert_eq!(watch.told(), "from a9", "what nobody was there for is not told");
}

#[test]
fn a_hole_is_filled_from_the_log_in_order_and_page_by_page() {
    let mut watch = open();
    assert_eq!(watch.hear("a", 9), Next::Read);
    assert_eq!(watch.hear("a", 10), Next::Nothing);
    assert_eq!(watch.told(), "");
    assert_eq!(watch.read(page("a", 1, 10, 6, 1)), (Next::Read, 1, false));
    assert_eq!(watch.read(page("a", 1, 8, 7, 9)), (Next::Nothing, 1, false));
    assert_eq!(watch.told(), "a7 a8 a9 a10");
    assert!(watch.interest.is_live());
}

#[test]
fn what_is_no_longer_held_is_told_as_lost() {
    let mut watch = open();
    assert_eq!(watch.hear("a", 12), Next::Read);
    assert_eq!(watch.read(page("a", 10, 12, 6, 9)), (Next::Nothing, 3, true));
    assert_eq!(watch.told(), "lost a9 a10 a11 a12");
    // A room without history.
    assert_eq!(watch.hear("a", 20), Next::Read);
    assert_eq!(watch.read(page("a", 21, 20, 12, 9)), (Next::Nothing, 0, true));
    assert_eq!(watch.hear("a", 21), Next::Nothing);
    assert_eq!(watch.told(), "lost a20 a21");
}

#[test]
fn more_than_can_be_kept_is_read_as_well() {
    let mut watch = open();
    watch.interest.mend();
    for offset in 7..=400 {
        assert_eq!(watch.hear("a", offset), Next::Nothing);
    }
    assert_eq!(watch.read(page("a", 1, 7, 6, 256)), (Next::Read, 1, false));
    assert_eq!(watch.read(page("a", 1, 400, 262, 256)), (Next::Nothing, 138, false));
    let told = watch.told();
    assert!(told.split(' ').eq((7..=400).map(|offset| format!("a{offset}"))), "{told}");
}

#[test]
fn another_epoch_is_a_loss_and_goes_on_with_what_it_holds() {
    let mut watch = open();
    assert_eq!(watch.hear("b", 3), Next::Read);
    assert_eq!(watch.read(page("b", 2, 3, 0, 9)), (Next::Nothing, 2, true));
    assert_eq!(watch.told(), "lost b1 b2 b3");
    assert_eq!(watch.hear("b", 4), Next::Nothing);
}

/// Redis was emptied, and the room began twice before this node looked. What it heard of the first beginning is not in the log
/// and follows nothing there; waiting for it kept the node reading, some thousand times a second, for ever.
#[test]
fn what_the_log_does_not_have_is_not_waited_for() {
    for (epoch, offset) in [("b", 1), ("a", 9)] {
        let mut watch = open();
        watch.interest.mend();
        assert_eq!(watch.hear(epoch, offset), Next::Nothing, "kept while the log is read");
        let log = || page("c", 1, 2, 0, 9);
        let first = watch.read(log());
        if epoch != "a" {
            assert_eq!(first, (Next::Read, 2, true), "the answer may be older than what was heard");
            watch.interest.mend();
            assert_eq!(watch.read(page("c", 1, 2, 2, 9)), (Next::Nothing, 0, false));
        }
        assert!(watch.interest.is_live());
        assert_eq!(watch.hear("c", 3), Next::Nothing);
        assert_eq!(watch.told(), "lost c0 c1 c2 c3");
    }
    // The same of an epoch that goes on: a replica took over that lacks what nobody here has passed on.
    let mut watch = open();
    assert_eq!(watch.hear("a", 9), Next::Read);
    watch.interest.mend();
    assert_eq!(watch.read(page("a", 1, 7, 6, 9)), (Next::Nothing, 1, false));
    assert_eq!(watch.hear("a", 8), Next::Nothing);
    assert_eq!(watch.told(), "a7 a8");
}

/// A replica took over that had not heard of everything.
#[test]
fn offsets_that_went_back_end_the_epoch() {
    for (what, page) in [
        ("fewer messages", page("a", 1, 5, 6, 9)),
        ("as many, the last is another", Page { time: 61, ..page("a", 1, 6, 6, 9) }),
    ] {
        let mut watch = open();
        watch.interest.mend();
        assert_eq!(watch.read(page).0, Next::Renew, "{what}");
    }
    let mut watch = open();
    let other = Heard { before: 61, ..heard("a", 7) };
    assert_eq!(watch.interest.hear(other.clone(), &watch.feed), Next::Read);
    let mut more = page("a", 1, 7, 6, 9);
    more.messages[0] = other;
    assert_eq!(watch.read(more).0, Next::Renew, "more, after another sixth");
    assert_eq!(watch.read(page("b", 8, 7, 0, 9)), (Next::Nothing, 0, true));
    assert_eq!(watch.told(), "lost b7");
}

#[test]
fn a_busy_shard_is_left_alone_for_a_while() {
    let mut watch = open();
    watch.keeps_up.store(false, Ordering::Relaxed);
    assert_eq!(watch.hear("a", 7), Next::ReadLater);
    assert_eq!(watch.hear("a", 8), Next::Nothing);
    assert_eq!(watch.read(page("a", 1, 9, 7, 9)), (Next::ReadLater, 1, false));
    watch.keeps_up.store(true, Ordering::Relaxed);
    assert_eq!(watch.read(page("a", 1, 9, 8, 9)), (Next::Nothing, 1, false));
    assert_eq!(watch.told(), "a7 a8 a9");
}
