//! What a message does among members, live and catching up.

use super::*;
use crate::{hub::catch_up::KEPT_BACK, outbox::tests::Held};
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

pub(in crate::hub::room) fn connection() -> Arc<Connection> {
    crate::hot::connection(Held::new(0))
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

pub(in crate::hub::room) fn in_f(offset: u64) -> Position {
    Position { epoch: "f".into(), offset }
}

pub(in crate::hub::room) fn message(offset: u64) -> Arc<Publication> {
    message_at(at(offset))
}

pub(in crate::hub::room) fn message_at(Position { epoch, offset }: Position) -> Arc<Publication> {
    Arc::new(Publication::new("r".into(), epoch, offset, 0, None, "1"))
}

/// What a replay hears that has sent everything up to `upto`; `None`: nothing so far.
pub(in crate::hub::room) fn settle(room: &mut Room, seat: SeatId, upto: Position) -> Option<Settled> {
    ask(room, seat, upto, false).try_recv().ok()
}

pub(in crate::hub::room) fn ask(
    room: &mut Room,
    seat: SeatId,
    upto: Position,
    lost: bool,
) -> oneshot::Receiver<Settled> {
    let (reply, settled) = oneshot::channel();
    room.settle(seat, upto, lost, reply);
    settled
}

/// The offsets that wait for a connection, gaps negative.
pub(in crate::hub::room) fn waiting(connection: &Connection) -> Vec<i64> {
    let offset = |text: &String| {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        let offset = value["offset"].as_i64().unwrap();
        if value["type"] == "gap" { -offset } else { offset }
    };
    connection.outbox.drain().iter().map(offset).collect()
}

pub(in crate::hub::room) const ALL: Verdicts =
    Verdicts { filters: &[], bits: Some(&FilterResults { passed: vec![], lost: vec![] }) };

fn passed(bits: u64) -> FilterResults {
    FilterResults { passed: vec![bits], lost: vec![] }
}

#[test]
fn members_of_a_filter_share_its_answer_and_are_told_when_there_is_none() {
    let mut room = room();
    let members: Vec<_> = (0..4).map(|_| connection()).collect();
    let filters = [None, Some(FilterId::new(5)), Some(FilterId::new(6)), Some(FilterId::new(6))];
    for (member, filter) in members.iter().zip(filters) {
        room.join(member.clone(), filter, None, false);
    }
    let mut filters = vec![];
    room.filters(&mut filters);
    assert_eq!(filters, [FilterId::new(5), FilterId::new(6)]);
    let only_the_second = Verdicts { filters: &filters, bits: Some(&passed(0b10)) };
    assert_eq!(deliver(&mut room, &message(11), &only_the_second), Delivered { members: 3, gaps: 0 });
    let failed = Verdicts { filters: &filters, bits: None };
    assert_eq!(deliver(&mut room, &message(12), &failed), Delivered { members: 1, gaps: 3 });
    let mut seen = vec![];
    for member in &members {
        seen.push(waiting(member));
    }
    assert_eq!(seen, [vec![11, 12], vec![-13], vec![11, -13], vec![11, -13]]);
}

#[test]
fn who_catches_up_is_asked_about_beside_the_live() {
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
    deliver(&mut room, &message(11), &Verdicts { filters: &filters, bits: Some(&passed(0b1010)) });
    for seat in seats {
        assert_eq!(settle(&mut room, seat, at(10)), Some(Settled::Live));
    }
    let mut seen = vec![];
    for (member, _) in &behind {
        seen.push(waiting(member).len());
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
    let Taken { seat, recovery, .. } = room.join(member.clone(), None, Some(at(7)), false);
    assert_eq!(recovery, Recovery::After(at(7)));
    deliver(&mut room, &message(11), &ALL);
    member.outbox.push(message(8).frame().clone());
    assert_eq!(settle(&mut room, seat, at(10)), Some(Settled::Live));
    deliver(&mut room, &message(12), &ALL);
    deliver(&mut room, &message(12), &ALL);
    assert_eq!(waiting(&member), [8, 11, 12]);
}

#[test]
fn a_replay_that_is_overtaken_goes_on_from_history() {
    let mut room = room();
    let member = connection();
    let Taken { seat, .. } = room.join(member.clone(), None, Some(at(9)), false);
    let overtaken = 10 + KEPT_BACK as u64 + 1;
    for offset in 11..=overtaken {
        deliver(&mut room, &message(offset), &ALL);
    }
    assert_eq!(settle(&mut room, seat, at(10)), Some(Settled::Behind { upto: at(overtaken) }));
    deliver(&mut room, &message(overtaken + 1), &ALL);
    assert_eq!(settle(&mut room, seat, at(overtaken)), Some(Settled::Live));
    assert_eq!(waiting(&member), [overtaken as i64 + 1]);
}

/// It was a quarter of the outbox for each room: one connection in a hundred rooms could have 25 MiB kept back.
#[test]
fn what_is_kept_back_is_bounded_for_all_rooms_of_a_connection() {
    let (member, mut rooms) = (connection(), [room(), room(), room()]);
    let seats = rooms.each_mut().map(|room| room.join(member.clone(), None, Some(at(9)), false).seat);
    let data = format!("\"{}\"", "x".repeat(60_000));
    let large = |offset| Publication::new("r".into(), at(offset).epoch, offset, 0, None, &data);
    let most = member.outbox.limit() / 4;
    for offset in 11..20 {
        let message = Arc::new(large(offset));
        for room in &mut rooms {
            deliver(room, &message, &ALL);
            assert!(member.kept_back.load(Ordering::Relaxed) <= most);
        }
    }
    // Those that had to give up go on from history, and what is given up may be kept for others.
    assert!(matches!(settle(&mut rooms[0], seats[0], at(10)), Some(Settled::Behind { .. })));
    for (room, seat) in rooms.iter_mut().zip(seats) {
        settle(room, seat, at(19));
        room.leave(seat);
    }
    assert_eq!(member.kept_back.load(Ordering::Relaxed), 0);
}

#[test]
fn who_joins_anew_while_catching_up_is_not_forgotten_what_is_owed() {
    let mut room = room();
    let member = connection();
    room.join(member.clone(), None, None, true);
    deliver(&mut room, &message(11), &ALL);
    let Taken { recovery, .. } = room.join(member.clone(), None, None, true);
    assert_eq!(recovery, Recovery::NotAsked);
    assert_eq!(waiting(&member), [11], "all before was sent, so it is handed over");

    let Taken { seat: old, behind, .. } =
        room.join(member.clone(), Some(FilterId::new(1)), Some(at(5)), false);
    deliver(&mut room, &message(12), &ALL);
    let replay = behind.expect("to be replayed");
    assert!(replay.reach(7));
    let Taken { seat, recovery, freed, .. } = room.join(member.clone(), None, None, true);
    assert_eq!((recovery, freed), (Recovery::After(at(7)), Some(FilterId::new(1))));
    assert_eq!(waiting(&member), [0i64; 0], "8 to 10 come first");
    assert!(!replay.reach(8), "the earlier replay sends nothing more");
    assert_eq!(settle(&mut room, old, at(10)), Some(Settled::Gone));
    assert_eq!(settle(&mut room, seat, at(12)), Some(Settled::Live));
}

/// What was kept back for the first seat was handed over, and then replayed for the second.
#[test]
fn who_joins_anew_with_a_position_hears_what_follows_it_once() {
    let mut room = room();
    let member = connection();
    room.join(member.clone(), None, Some(at(10)), true);
    deliver(&mut room, &message(11), &ALL);
    let Taken { seat, recovery, .. } = room.join(member.clone(), None, Some(at(10)), true);
    assert_eq!(recovery, Recovery::After(at(10)));
    assert_eq!(waiting(&member), [0i64; 0], "11 is replayed");
    deliver(&mut room, &message(12), &ALL);
    assert_eq!(settle(&mut room, seat, at(11)), Some(Settled::Live));
    assert_eq!(waiting(&member), [12]);
}

#[test]
fn what_was_replayed_is_not_handed_over_as_well() {
    let mut room = room();
    let member = connection();
    let Taken { seat, .. } = room.join(member.clone(), None, Some(at(9)), false);
    for offset in 11..=13 {
        deliver(&mut room, &message(offset), &ALL);
    }
    assert_eq!(settle(&mut room, seat, at(12)), Some(Settled::Live), "the log was ahead of the room");
    assert_eq!(waiting(&member), [13]);
}

#[test]
fn only_the_log_can_say_what_the_room_cannot() {
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
fn a_second_seat_replaces_the_first_and_an_old_one_cannot_leave_for_it() {
    let mut room = room();
    let (first, second) = (connection(), connection());
    let Taken { seat: old, .. } = room.join(first.clone(), Some(FilterId::new(1)), None, false);
    room.join(second.clone(), Some(FilterId::new(1)), None, false);
    let Taken { freed, .. } = room.join(first.clone(), None, None, false);
    assert_eq!(freed, Some(FilterId::new(1)));
    assert!(room.leave(old).is_none());
    let passes = Verdicts { filters: &[FilterId::new(1)], bits: Some(&passed(1)) };
    assert_eq!(deliver(&mut room, &message(11), &passes).members, 2);
    assert_eq!(room.len(), 2);
    assert_eq!((waiting(&first), waiting(&second)), (vec![11], vec![11]));
}
