//! What members are told when a room loses messages or changes its epoch.

use super::*;
use crate::{
    hub::{Confirmation, catch_up::MAX_BUFFERED_MESSAGES, room::tests::*},
    outbox::tests::TestPipe,
};

#[test]
fn each_member_is_told_once_of_lost_messages_and_of_a_new_epoch() {
    let mut room = room();
    let (live, behind) = (connection(), connection());
    room.join(live.clone(), None, None, false);
    let NewSeat { seat, .. } = room.join(behind.clone(), None, Some(at(9)), false);
    assert_eq!(room.skip_to(at(14)), 1, "the replay tells the other member");
    deliver(&mut room, &message(15), &ALL);
    assert_eq!(take_offsets(&live), [-15, 15], "the gap names the next offset");
    assert_eq!(finish(&mut room, seat, at(10)), Some(CatchUpOutcome::Behind { upto: at(15) }));
    assert_eq!(room.skip_to(at(15)), 0, "messages that were routed are not lost");
    assert_eq!(finish(&mut room, seat, at(15)), Some(CatchUpOutcome::Live));

    assert_eq!(room.skip_to(in_f(2)), 2);
    assert_eq!((take_offsets(&live), take_offsets(&behind)), (vec![-3], vec![-3]));
    deliver(&mut room, &message(16), &ALL);
    assert_eq!(room.position(), &in_f(2), "messages of the old epoch are ignored");
}

/// Once, a client that resumed on a node that had been suspended was told that its position was impossible.
#[test]
fn a_member_that_is_ahead_of_the_room_waits_and_gets_nothing_twice() {
    let mut room = room();
    let member = connection();
    let NewSeat { seat, recovery, .. } = room.join(member.clone(), None, Some(at(13)), false);
    assert_eq!(recovery, Recovery::After(at(13)), "only the log knows");
    deliver(&mut room, &message(11), &ALL);
    let mut outcome = start_finish(&mut room, seat, at(14), false);
    for offset in 12..=14 {
        assert!(outcome.try_recv().is_err(), "the room has not reached {offset}");
        deliver(&mut room, &message(offset), &ALL);
    }
    assert_eq!(outcome.try_recv(), Ok(CatchUpOutcome::Live));
    deliver(&mut room, &message(15), &ALL);
    assert_eq!(take_offsets(&member), [15]);
}

/// Once, the backlog of a node that was behind filled the buffer of a member that had seen all of it.
#[test]
fn messages_that_a_member_has_seen_are_not_buffered() {
    let mut room = room();
    let member = connection();
    let ahead = 10 + 2 * MAX_BUFFERED_MESSAGES as u64;
    let NewSeat { seat, .. } = room.join(member.clone(), None, Some(at(ahead)), false);
    for offset in 11..=ahead + 1 {
        deliver(&mut room, &message(offset), &ALL);
    }
    assert_eq!(finish(&mut room, seat, at(ahead)), Some(CatchUpOutcome::Live));
    assert_eq!(take_offsets(&member), [ahead as i64 + 1]);
}

#[test]
fn a_member_of_an_epoch_that_the_room_reaches_later_is_told_no_gap() {
    for (skipped_to, told) in [(2, vec![5]), (4, vec![5])] {
        let mut room = room();
        let (live, member) = (connection(), connection());
        room.join(live.clone(), None, None, false);
        let NewSeat { seat, recovery, .. } = room.join(member.clone(), None, Some(in_f(3)), false);
        assert_eq!(recovery, Recovery::After(in_f(3)));
        deliver(&mut room, &message(11), &ALL);
        let mut outcome = start_finish(&mut room, seat, in_f(4), false);
        assert!(outcome.try_recv().is_err(), "the room is in another epoch");
        deliver(&mut room, &message(12), &ALL);
        assert_eq!(room.skip_to(in_f(skipped_to)), 1, "the live member is told");
        for offset in skipped_to + 1..=5 {
            deliver(&mut room, &message_at(in_f(offset)), &ALL);
        }
        assert_eq!(outcome.try_recv(), Ok(CatchUpOutcome::Live));
        assert_eq!(take_offsets(&member), told);
        assert_eq!(take_offsets(&live)[..3], [11, 12, -(skipped_to as i64) - 1]);
    }
}

#[test]
fn a_waiting_replay_reads_the_log_again_when_the_room_skips_messages() {
    let mut room = room();
    let NewSeat { seat, .. } = room.join(connection(), None, Some(in_f(3)), false);
    let mut outcome = start_finish(&mut room, seat, in_f(3), false);
    room.skip_to(in_f(6));
    assert_eq!(outcome.try_recv(), Ok(CatchUpOutcome::Behind { upto: in_f(6) }));
    let mut outcome = start_finish(&mut room, seat, in_f(9), false);
    room.skip_to(in_f(8));
    assert!(outcome.try_recv().is_err(), "it has seen everything that was skipped");
    room.skip_to(Position { epoch: "g".into(), offset: 0 });
    assert_eq!(
        outcome.try_recv(),
        Ok(CatchUpOutcome::EpochChanged),
        "its epoch may be over, or still to come"
    );
}

/// Once, the gap was followed by old messages, as if they were of the new epoch, and by a gap to the old epoch.
#[test]
fn a_replay_stops_when_the_epoch_changes_and_its_member_is_told_once() {
    let mut room = room();
    let member = connection();
    let NewSeat { seat, progress, .. } = room.join(member.clone(), None, Some(at(5)), false);
    let replay = progress.expect("a replay");
    assert!(replay.advance_to(6));
    deliver(&mut room, &message(11), &ALL);
    assert_eq!(room.skip_to(in_f(2)), 0, "its replay tells it");
    assert!(!replay.advance_to(7), "it sends nothing more of the old epoch");
    assert!(replay.take_epoch_change() && !replay.take_epoch_change());
    deliver(&mut room, &message_at(in_f(3)), &ALL);
    let mut outcome = start_finish(&mut room, seat, in_f(2), true);
    assert_eq!(outcome.try_recv(), Ok(CatchUpOutcome::Live));
    assert_eq!(take_offsets(&member), [-3, 3]);
}

#[test]
fn a_replay_that_reaches_the_new_epoch_before_the_room_tells_its_member_once() {
    let mut room = room();
    let member = connection();
    let NewSeat { seat, .. } = room.join(member.clone(), None, Some(at(5)), false);
    let mut outcome = start_finish(&mut room, seat, in_f(2), true);
    deliver(&mut room, &message(11), &ALL);
    assert!(outcome.try_recv().is_err(), "the room is in the old epoch");
    assert_eq!(room.skip_to(in_f(1)), 0);
    for offset in 2..=3 {
        deliver(&mut room, &message_at(in_f(offset)), &ALL);
    }
    assert_eq!(outcome.try_recv(), Ok(CatchUpOutcome::Live));
    assert_eq!(take_offsets(&member), [-3, 3]);
}

/// Once, an acknowledgement of the old epoch counted in the new one, and skipped messages that the client had
/// not seen.
#[test]
fn an_acknowledgement_counts_in_its_own_epoch_and_only_for_what_was_sent() {
    let mut room = room();
    let member = connection();
    let NewSeat { seat, .. } = room.join(member.clone(), None, None, false);
    assert_eq!(room.acknowledge(seat, None, 10), Ok(at(10)));
    assert_eq!(room.acknowledge(seat, Some("e"), 11), Err(AckError::Unsent));
    assert_eq!(room.acknowledge(seat, Some("f"), 1), Err(AckError::OtherEpoch("e".into())));

    room.skip_to(in_f(2));
    for offset in 3..=12 {
        deliver(&mut room, &message_at(in_f(offset)), &ALL);
    }
    assert_eq!(room.acknowledge(seat, Some("e"), 10), Err(AckError::OtherEpoch("f".into())));
    let unheard = Err(AckError::UnconfirmedEpoch("f".into()));
    assert_eq!(room.acknowledge(seat, None, 10), unheard, "it may mean the old epoch");
    let change = Confirmation::EpochChange { room: room.name.clone(), before: "e".into(), position: in_f(2) };
    assert_eq!(member.pings.answered(1), [change]);
    assert_eq!(room.acknowledge(seat, None, 12), Ok(in_f(12)));
    assert_eq!(room.acknowledge(seat, None, 13), Err(AckError::Unsent));

    room.skip_to(at(20));
    assert_eq!(
        room.acknowledge(seat, Some("e"), 20),
        Ok(at(20)),
        "a client that names the epoch knows of it"
    );
    assert_eq!((room.acknowledge(seat, None, 20), member.pings.answered(9)), (Ok(at(20)), vec![]));
}

#[test]
fn a_member_that_catches_up_acknowledges_what_any_of_its_connections_was_sent() {
    let mut room = room();
    let NewSeat { seat, progress, .. } = room.join(connection(), None, Some(at(7)), false);
    assert!(progress.expect("a replay").advance_to(8));
    assert_eq!(room.acknowledge(seat, None, 8), Ok(at(8)));
    assert_eq!(
        room.acknowledge(seat, None, 10),
        Ok(at(10)),
        "its earlier connection may have been sent that"
    );
    assert_eq!(room.acknowledge(seat, None, 11), Err(AckError::Unsent));
    let NewSeat { seat, .. } = room.join(connection(), None, Some(in_f(30)), false);
    assert_eq!(room.acknowledge(seat, None, 30), Ok(in_f(30)), "it recovers from there");
    room.leave(seat);
    assert_eq!(room.acknowledge(seat, None, 30), Err(AckError::Unsent));
}

#[test]
fn only_a_gap_to_another_epoch_is_followed_by_a_ping() {
    let pipe = TestPipe::new(1000);
    let member = Connection::detached(pipe.clone());
    let mut room = room();
    let NewSeat { seat, .. } = room.join(member.clone(), None, None, false);
    room.skip_to(at(14));
    room.skip_to(in_f(2));
    member.outbox.flush();
    let gaps = [reply::gap("r", "e", 15), reply::gap("r", "f", 3)].map(Frame::from);
    let frames = [gaps[0].bytes().to_vec(), gaps[1].bytes().to_vec(), Frame::ping(1).bytes().to_vec()];
    assert_eq!(pipe.take_bytes(), frames.concat());
    // Joining again confirms nothing. After leaving there is nothing to confirm.
    let NewSeat { seat: again, .. } = room.join(member.clone(), None, None, true);
    assert_eq!(member.pings.unconfirmed_epoch(&room.name).as_deref(), Some("e"));
    assert!(room.leave(seat).is_none());
    room.leave(again);
    assert_eq!(member.pings.unconfirmed_epoch(&room.name), None);
}
