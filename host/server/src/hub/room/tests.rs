//! How messages are delivered to live members and buffered for those that catch up.

use super::*;
use crate::{hub::catch_up::MAX_BUFFERED_MESSAGES, outbox::tests::TestPipe};
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

pub(in crate::hub::room) fn connection() -> Arc<Connection> {
    Connection::detached(TestPipe::new(0))
}

pub(in crate::hub::room) fn deliver(
    room: &mut Room,
    message: &Arc<Publication>,
    verdicts: &Verdicts,
) -> Delivered {
    room.deliver(message, verdicts, &mut vec![])
}

pub(in crate::hub::room) fn room() -> Room {
    Room::new(RoomName::parse("r").unwrap(), at(10))
}

pub(in crate::hub::room) fn at(offset: u64) -> Position {
    Position { epoch: "e".into(), offset }
}

/// A position in another epoch.
pub(in crate::hub::room) fn in_f(offset: u64) -> Position {
    Position { epoch: "f".into(), offset }
}

pub(in crate::hub::room) fn message(offset: u64) -> Arc<Publication> {
    message_at(at(offset))
}

pub(in crate::hub::room) fn message_at(Position { epoch, offset }: Position) -> Arc<Publication> {
    Arc::new(Publication::new("r".into(), epoch, offset, 0, None, "1"))
}

/// What the room answers at once to a replay that has sent everything up to `upto`. `None`: the replay waits.
pub(in crate::hub::room) fn finish(room: &mut Room, seat: SeatId, upto: Position) -> Option<CatchUpOutcome> {
    start_finish(room, seat, upto, false).try_recv().ok()
}

pub(in crate::hub::room) fn start_finish(
    room: &mut Room,
    seat: SeatId,
    upto: Position,
    lost: bool,
) -> oneshot::Receiver<CatchUpOutcome> {
    let (reply, outcome) = oneshot::channel();
    room.finish_catch_up(seat, upto, lost, reply);
    outcome
}

/// Takes the offsets that wait for a connection. Those of gaps are negative.
pub(in crate::hub::room) fn take_offsets(connection: &Connection) -> Vec<i64> {
    let offset = |text: &String| {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        let offset = value["offset"].as_i64().unwrap();
        if value["type"] == "gap" { -offset } else { offset }
    };
    connection.outbox.take_texts().iter().map(offset).collect()
}

pub(in crate::hub::room) const ALL: Verdicts =
    Verdicts { filters: &[], results: Some(&FilterResults { passed: vec![], lost: vec![] }) };

fn passed(bits: u64) -> FilterResults {
    FilterResults { passed: vec![bits], lost: vec![] }
}

#[test]
fn members_share_the_result_of_their_filter_and_are_told_if_it_failed() {
    let mut room = room();
    let members: Vec<_> = (0..4).map(|_| connection()).collect();
    let filters = [None, Some(FilterId::new(5)), Some(FilterId::new(6)), Some(FilterId::new(6))];
    for (member, filter) in members.iter().zip(filters) {
        room.join(member.clone(), filter, None, false);
    }
    let mut filters = vec![];
    room.filters(&mut filters);
    assert_eq!(filters, [FilterId::new(5), FilterId::new(6)]);
    let only_the_second = Verdicts { filters: &filters, results: Some(&passed(0b10)) };
    assert_eq!(deliver(&mut room, &message(11), &only_the_second), Delivered { members: 3, gaps: 0 });
    let failed = Verdicts { filters: &filters, results: None };
    assert_eq!(deliver(&mut room, &message(12), &failed), Delivered { members: 1, gaps: 3 });
    let mut seen = vec![];
    for member in &members {
        seen.push(take_offsets(member));
    }
    assert_eq!(seen, [vec![11, 12], vec![-13], vec![11, -13], vec![11, -13]]);
}

#[test]
fn filters_of_members_that_catch_up_are_evaluated_too() {
    let mut room = room();
    let filter = |number| Some(FilterId::new(number));
    for live in [5, 6] {
        room.join(connection(), filter(live), None, false);
    }
    let behind: Vec<_> = [9, 6, 7, 9].map(|number| (connection(), filter(number))).into();
    let seats: Vec<_> = behind
        .iter()
        .map(|(member, filter)| room.join(member.clone(), *filter, Some(at(10)), true).seat)
        .collect();
    let mut filters = vec![];
    room.filters(&mut filters);
    assert_eq!(filters, [5, 6, 7, 9].map(FilterId::new));
    // 6 and 9 pass.
    deliver(&mut room, &message(11), &Verdicts { filters: &filters, results: Some(&passed(0b1010)) });
    for seat in seats {
        assert_eq!(finish(&mut room, seat, at(10)), Some(CatchUpOutcome::Live));
    }
    let mut seen = vec![];
    for (member, _) in &behind {
        seen.push(take_offsets(member).len());
    }
    assert_eq!(seen, [1, 1, 0, 1]);
    // All are live now, in a group for each filter.
    room.filters(&mut filters);
    assert_eq!(filters, [5, 6, 9, 7].map(FilterId::new));
}

#[test]
fn live_messages_follow_a_replay_in_order_and_once() {
    let mut room = room();
    let member = connection();
    let NewSeat { seat, recovery, .. } = room.join(member.clone(), None, Some(at(7)), false);
    assert_eq!(recovery, Recovery::After(at(7)));
    deliver(&mut room, &message(11), &ALL);
    member.outbox.push(message(8).frame().clone());
    assert_eq!(finish(&mut room, seat, at(10)), Some(CatchUpOutcome::Live));
    deliver(&mut room, &message(12), &ALL);
    deliver(&mut room, &message(12), &ALL);
    assert_eq!(take_offsets(&member), [8, 11, 12]);
}

#[test]
fn a_replay_goes_on_from_history_when_the_buffer_overflows() {
    let mut room = room();
    let member = connection();
    let NewSeat { seat, .. } = room.join(member.clone(), None, Some(at(9)), false);
    let overflow = 10 + MAX_BUFFERED_MESSAGES as u64 + 1;
    for offset in 11..=overflow {
        deliver(&mut room, &message(offset), &ALL);
    }
    assert_eq!(finish(&mut room, seat, at(10)), Some(CatchUpOutcome::Behind { upto: at(overflow) }));
    deliver(&mut room, &message(overflow + 1), &ALL);
    assert_eq!(finish(&mut room, seat, at(overflow)), Some(CatchUpOutcome::Live));
    assert_eq!(take_offsets(&member), [overflow as i64 + 1]);
}

/// Once, the limit applied to each room: a connection in a hundred rooms could have 25 MiB buffered.
#[test]
fn buffered_bytes_are_limited_for_all_rooms_of_a_connection_together() {
    let (member, mut rooms) = (connection(), [room(), room(), room()]);
    let seats = rooms.each_mut().map(|room| room.join(member.clone(), None, Some(at(9)), false).seat);
    let data = format!("\"{}\"", "x".repeat(60_000));
    let large = |offset| Publication::new("r".into(), at(offset).epoch, offset, 0, None, &data);
    let limit = member.outbox.limit() / 4;
    for offset in 11..20 {
        let message = Arc::new(large(offset));
        for room in &mut rooms {
            deliver(room, &message, &ALL);
            assert!(member.buffered_bytes.load(Ordering::Relaxed) <= limit);
        }
    }
    // A buffer that overflowed is dropped, which leaves space for the other rooms.
    assert!(matches!(finish(&mut rooms[0], seats[0], at(10)), Some(CatchUpOutcome::Behind { .. })));
    for (room, seat) in rooms.iter_mut().zip(seats) {
        finish(room, seat, at(19));
        room.leave(seat);
    }
    assert_eq!(member.buffered_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn a_member_that_joins_again_while_catching_up_misses_nothing() {
    let mut room = room();
    let member = connection();
    room.join(member.clone(), None, None, true);
    deliver(&mut room, &message(11), &ALL);
    let NewSeat { recovery, .. } = room.join(member.clone(), None, None, true);
    assert_eq!(recovery, Recovery::NotAsked);
    assert_eq!(take_offsets(&member), [11], "all messages before it were sent");

    let NewSeat { seat: old, progress, .. } =
        room.join(member.clone(), Some(FilterId::new(1)), Some(at(5)), false);
    deliver(&mut room, &message(12), &ALL);
    let replay = progress.expect("a replay");
    assert!(replay.advance_to(7));
    let NewSeat { seat, recovery, released_filter, .. } = room.join(member.clone(), None, None, true);
    assert_eq!((recovery, released_filter), (Recovery::After(at(7)), Some(FilterId::new(1))));
    assert_eq!(take_offsets(&member), [0i64; 0], "8 to 10 come first");
    assert!(!replay.advance_to(8), "the earlier replay has stopped");
    assert_eq!(finish(&mut room, old, at(10)), Some(CatchUpOutcome::Gone));
    assert_eq!(finish(&mut room, seat, at(12)), Some(CatchUpOutcome::Live));
}

/// Once, messages that were buffered for the first seat were sent, and then replayed for the second.
#[test]
fn a_member_that_joins_again_with_a_position_gets_what_follows_once() {
    let mut room = room();
    let member = connection();
    room.join(member.clone(), None, Some(at(10)), true);
    deliver(&mut room, &message(11), &ALL);
    let NewSeat { seat, recovery, .. } = room.join(member.clone(), None, Some(at(10)), true);
    assert_eq!(recovery, Recovery::After(at(10)));
    assert_eq!(take_offsets(&member), [0i64; 0], "11 is replayed");
    deliver(&mut room, &message(12), &ALL);
    assert_eq!(finish(&mut room, seat, at(11)), Some(CatchUpOutcome::Live));
    assert_eq!(take_offsets(&member), [12]);
}

#[test]
fn a_buffered_message_that_was_replayed_is_not_sent_again() {
    let mut room = room();
    let member = connection();
    let NewSeat { seat, .. } = room.join(member.clone(), None, Some(at(9)), false);
    for offset in 11..=13 {
        deliver(&mut room, &message(offset), &ALL);
    }
    assert_eq!(finish(&mut room, seat, at(12)), Some(CatchUpOutcome::Live), "the log was ahead of the room");
    assert_eq!(take_offsets(&member), [13]);
}

#[test]
fn a_position_other_than_the_rooms_is_looked_up_in_the_log() {
    let mut room = room();
    let foreign = Position { epoch: "other".into(), offset: 3 };
    for (since, expected) in [
        (None, Recovery::NotAsked),
        (Some(at(10)), Recovery::Complete),
        (Some(at(11)), Recovery::After(at(11))),
        (Some(foreign.clone()), Recovery::After(foreign)),
    ] {
        assert_eq!(room.join(connection(), None, since, false).recovery, expected);
    }
}

#[test]
fn a_second_seat_replaces_the_first_and_outlives_it() {
    let mut room = room();
    let (first, second) = (connection(), connection());
    let NewSeat { seat: old, .. } = room.join(first.clone(), Some(FilterId::new(1)), None, false);
    room.join(second.clone(), Some(FilterId::new(1)), None, false);
    let NewSeat { released_filter, .. } = room.join(first.clone(), None, None, false);
    assert_eq!(released_filter, Some(FilterId::new(1)));
    assert!(room.leave(old).is_none());
    let passes = Verdicts { filters: &[FilterId::new(1)], results: Some(&passed(1)) };
    assert_eq!(deliver(&mut room, &message(11), &passes).members, 2);
    assert_eq!(room.len(), 2);
    assert_eq!((take_offsets(&first), take_offsets(&second)), (vec![11], vec![11]));
}
