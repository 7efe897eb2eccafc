//! What becomes of members where a room loses messages or goes on in another epoch.

use super::*;
use crate::{
    hub::{Confirms, catch_up::KEPT_BACK, room::tests::*},
    outbox::tests::Held,
};

#[test]
fn what_is_lost_is_told_to_each_member_once_and_a_new_epoch_takes_over() {
    let mut room = room();
    let (live, behind) = (connection(), connection());
    room.join(live.clone(), None, None, false);
    let Taken { seat, .. } = room.join(behind.clone(), None, Some(at(9)), false);
    assert_eq!(room.lose(at(14)), 1, "who catches up is told by the replay");
    deliver(&mut room, &message(15), &ALL);
    assert_eq!(waiting(&live), [-15, 15], "the first that still comes");
    assert_eq!(settle(&mut room, seat, at(10)), Some(Settled::Behind { upto: at(15) }));
    assert_eq!(room.lose(at(15)), 0, "what was routed is not lost");
    assert_eq!(settle(&mut room, seat, at(15)), Some(Settled::Live));

    assert_eq!(room.lose(in_f(2)), 2);
    assert_eq!((waiting(&live), waiting(&behind)), (vec![-3], vec![-3]));
    deliver(&mut room, &message(16), &ALL);
    assert_eq!(room.position(), &in_f(2), "of the old epoch nothing is routed");
}

/// A client resumed on a node that had slept: it was told that its position was impossible.
#[test]
fn a_member_that_is_ahead_of_the_room_waits_and_hears_nothing_again() {
    let mut room = room();
    let member = connection();
    let Taken { seat, recovery, .. } = room.join(member.clone(), None, Some(at(13)), false);
    assert_eq!(recovery, Recovery::After(at(13)), "only the log knows");
    deliver(&mut room, &message(11), &ALL);
    let mut settled = ask(&mut room, seat, at(14), false);
    for offset in 12..=14 {
        assert!(settled.try_recv().is_err(), "the room is before {offset}");
        deliver(&mut room, &message(offset), &ALL);
    }
    assert_eq!(settled.try_recv(), Ok(Settled::Live));
    deliver(&mut room, &message(15), &ALL);
    assert_eq!(waiting(&member), [15]);
}

/// The backlog of a node that was behind filled what is kept back for the member, which had all of it.
#[test]
fn what_a_member_has_seen_takes_no_room_among_what_is_kept_back() {
    let mut room = room();
    let member = connection();
    let ahead = 10 + 2 * KEPT_BACK as u64;
    let Taken { seat, .. } = room.join(member.clone(), None, Some(at(ahead)), false);
    for offset in 11..=ahead + 1 {
        deliver(&mut room, &message(offset), &ALL);
    }
    assert_eq!(settle(&mut room, seat, at(ahead)), Some(Settled::Live));
    assert_eq!(waiting(&member), [ahead as i64 + 1]);
}

#[test]
fn a_member_of_an_epoch_that_the_room_has_not_heard_of_is_not_told_a_gap() {
    for (lost_up_to, told) in [(2, vec![5]), (4, vec![5])] {
        let mut room = room();
        let (live, member) = (connection(), connection());
        room.join(live.clone(), None, None, false);
        let Taken { seat, recovery, .. } = room.join(member.clone(), None, Some(in_f(3)), false);
        assert_eq!(recovery, Recovery::After(in_f(3)));
        deliver(&mut room, &message(11), &ALL);
        let mut settled = ask(&mut room, seat, in_f(4), false);
        assert!(settled.try_recv().is_err(), "the room is in another epoch");
        deliver(&mut room, &message(12), &ALL);
        assert_eq!(room.lose(in_f(lost_up_to)), 1, "the other is told");
        for offset in lost_up_to + 1..=5 {
            deliver(&mut room, &message_at(in_f(offset)), &ALL);
        }
        assert_eq!(settled.try_recv(), Ok(Settled::Live));
        assert_eq!(waiting(&member), told);
        assert_eq!(waiting(&live)[..3], [11, 12, -(lost_up_to as i64) - 1]);
    }
}

#[test]
fn who_waits_and_loses_something_is_sent_back_to_the_log() {
    let mut room = room();
    let Taken { seat, .. } = room.join(connection(), None, Some(in_f(3)), false);
    let mut settled = ask(&mut room, seat, in_f(3), false);
    room.lose(in_f(6));
    assert_eq!(settled.try_recv(), Ok(Settled::Behind { upto: in_f(6) }));
    let mut settled = ask(&mut room, seat, in_f(9), false);
    room.lose(in_f(8));
    assert!(settled.try_recv().is_err(), "of what it lacks nothing is lost");
    room.lose(Position { epoch: "g".into(), offset: 0 });
    assert_eq!(settled.try_recv(), Ok(Settled::Doubtful), "its epoch may be over, or yet to come");
}

/// Behind the gap old messages came, as if they were of the new epoch, and then a gap to the old one.
#[test]
fn a_replay_stops_where_the_room_moves_and_its_member_is_told_once() {
    let mut room = room();
    let member = connection();
    let Taken { seat, behind, .. } = room.join(member.clone(), None, Some(at(5)), false);
    let replay = behind.expect("to be replayed");
    assert!(replay.reach(6));
    deliver(&mut room, &message(11), &ALL);
    assert_eq!(room.lose(in_f(2)), 0, "it is told where its replay stops");
    assert!(!replay.reach(7), "nothing more of the old epoch is sent");
    assert!(replay.resolve_doubt() && !replay.resolve_doubt());
    deliver(&mut room, &message_at(in_f(3)), &ALL);
    let mut settled = ask(&mut room, seat, in_f(2), true);
    assert_eq!(settled.try_recv(), Ok(Settled::Live));
    assert_eq!(waiting(&member), [-3, 3]);
}

#[test]
fn a_replay_that_knows_of_the_new_epoch_before_the_room_tells_of_it_once() {
    let mut room = room();
    let member = connection();
    let Taken { seat, .. } = room.join(member.clone(), None, Some(at(5)), false);
    let mut settled = ask(&mut room, seat, in_f(2), true);
    deliver(&mut room, &message(11), &ALL);
    assert!(settled.try_recv().is_err(), "the room is in the old epoch");
    assert_eq!(room.lose(in_f(1)), 0);
    for offset in 2..=3 {
        deliver(&mut room, &message_at(in_f(offset)), &ALL);
    }
    assert_eq!(settled.try_recv(), Ok(Settled::Live));
    assert_eq!(waiting(&member), [-3, 3]);
}

/// An acknowledgement of the old epoch counted in the new one, where it skipped what it never stood for.
#[test]
fn an_acknowledgement_stands_for_its_own_epoch_and_for_what_was_sent() {
    let mut room = room();
    let member = connection();
    let Taken { seat, .. } = room.join(member.clone(), None, None, false);
    assert_eq!(room.acknowledge(seat, None, 10), Ok(at(10)));
    assert_eq!(room.acknowledge(seat, Some("e"), 11), Err(AckError::Unsent));
    assert_eq!(room.acknowledge(seat, Some("f"), 1), Err(AckError::OtherEpoch("e".into())));

    room.lose(in_f(2));
    for offset in 3..=12 {
        deliver(&mut room, &message_at(in_f(offset)), &ALL);
    }
    assert_eq!(room.acknowledge(seat, Some("e"), 10), Err(AckError::OtherEpoch("f".into())));
    let unheard = Err(AckError::Unheard("f".into()));
    assert_eq!(room.acknowledge(seat, None, 10), unheard, "it may be of the old epoch");
    let moved = Confirms::Moved { room: room.name.clone(), before: "e".into(), position: in_f(2) };
    assert_eq!(member.pings.answered(1), [moved]);
    assert_eq!(room.acknowledge(seat, None, 12), Ok(in_f(12)));
    assert_eq!(room.acknowledge(seat, None, 13), Err(AckError::Unsent));

    room.lose(at(20));
    assert_eq!(room.acknowledge(seat, Some("e"), 20), Ok(at(20)), "who names it has heard of it");
    assert_eq!((room.acknowledge(seat, None, 20), member.pings.answered(9)), (Ok(at(20)), vec![]));
}

#[test]
fn who_catches_up_acknowledges_what_it_was_sent_before_or_is_sent_now() {
    let mut room = room();
    let Taken { seat, behind, .. } = room.join(connection(), None, Some(at(7)), false);
    assert!(behind.expect("to be replayed").reach(8));
    assert_eq!(room.acknowledge(seat, None, 8), Ok(at(8)));
    assert_eq!(room.acknowledge(seat, None, 10), Ok(at(10)), "its earlier connection may have had that");
    assert_eq!(room.acknowledge(seat, None, 11), Err(AckError::Unsent));
    let Taken { seat, .. } = room.join(connection(), None, Some(in_f(30)), false);
    assert_eq!(room.acknowledge(seat, None, 30), Ok(in_f(30)), "it came with that");
    room.leave(seat);
    assert_eq!(room.acknowledge(seat, None, 30), Err(AckError::Unsent));
}

#[test]
fn a_ping_follows_a_gap_to_another_epoch_and_no_other() {
    let pipe = Held::new(1000);
    let member = crate::hot::connection(pipe.clone());
    let mut room = room();
    let Taken { seat, .. } = room.join(member.clone(), None, None, false);
    room.lose(at(14));
    room.lose(in_f(2));
    member.outbox.flush();
    let gaps = [reply::gap("r", "e", 15), reply::gap("r", "f", 3)].map(Frame::from);
    let frames = [gaps[0].bytes().to_vec(), gaps[1].bytes().to_vec(), Frame::ping(1).bytes().to_vec()];
    assert_eq!(pipe.bytes(), frames.concat());
    // Who joins again has not heard of it by that; who leaves has nothing to hear.
    let Taken { seat: again, .. } = room.join(member.clone(), None, None, true);
    assert_eq!(member.pings.unheard(&room.name).as_deref(), Some("e"));
    assert!(room.leave(seat).is_none());
    room.leave(again);
    assert_eq!(member.pings.unheard(&room.name), None);
}
