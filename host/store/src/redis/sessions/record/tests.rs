use super::*;
use crate::redis::membership_change::MembershipOutcome;
use switchyard_protocol::Position;

fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

fn at(epoch: &str, offset: u64) -> Position {
    Position { epoch: epoch.into(), offset }
}

fn joins(name: &str, filter: Option<&str>) -> RoomChanges {
    let membership = Membership { filter: filter.map(Into::into), position: at("e", 1) };
    RoomChanges { join: vec![Join { room: room(name), membership, anew: false }], leave: vec![] }
}

fn leaves(name: &str) -> RoomChanges {
    RoomChanges { join: vec![], leave: vec![room(name)] }
}

fn ok(time: u64, left: &[&str]) -> WriteReply {
    WriteReply::Written { time, left: left.iter().map(|name| room(name)).collect() }
}

fn fields(write: &RecordWrite) -> Vec<(&str, &str)> {
    let (RecordWrite::Update { fields, .. } | RecordWrite::Replace { fields, .. }) = write;
    fields.iter().map(|(room, text)| (room.as_str(), text.as_str())).collect()
}

/// A session in room `a`, with nothing left to write.
fn in_a() -> Record {
    let mut record = Record::new(100, 1000, StoredRooms::default());
    confirm(&mut record, joins("a", None));
    record
}

fn confirm(record: &mut Record, change: RoomChanges) {
    let write = record.write(&change);
    assert_eq!(record.apply_reply(&write, change, ok(1000, &[])), WriteOutcome::Confirmed);
    sync(record);
}

fn sync(record: &mut Record) {
    for change in record.membership_changes() {
        record.membership_written(&change, MembershipOutcome::Applied(0), "e");
    }
    assert!(record.is_synced());
}

#[test]
fn an_unconfirmed_change_has_no_effect_and_is_undone() {
    let mut record = in_a();
    let (lost, change) = (record.write(&joins("a", Some("{}"))), leaves("a"));
    assert_eq!(fields(&lost), [("a", "e 1 {}")]);
    assert_eq!(record.rooms[&room("a")].filter, None);
    assert!(record.wants_write());
    // Whatever its outcome, the next write contains the confirmed state.
    let undone = record.write(&RoomChanges::default());
    assert!(matches!(undone, RecordWrite::Replace { number: 3, may_create: false, .. }), "{undone:?}");
    assert_eq!(fields(&undone), [("a", "e 1")]);
    // A room that only the lost write had joined is left now.
    assert_eq!(
        record.apply_reply(&undone, RoomChanges::default(), ok(2000, &["b"])),
        WriteOutcome::Confirmed
    );
    let changes = record.membership_changes();
    assert_eq!((changes.len(), &changes[0].room, &changes[0].joins), (1, &room("b"), &None));
    assert_eq!((changes[0].number, changes[0].confirmed_at), (3, 2000));
    sync(&mut record);
    confirm(&mut record, change);
    assert!(record.rooms.is_empty());
}

#[test]
fn a_room_that_was_left_stays_in_the_record_until_its_member_is_removed() {
    let mut record = in_a();
    let change = leaves("a");
    let write = record.write(&change);
    assert_eq!(fields(&write), [("a", "left")]);
    record.apply_reply(&write, change, ok(1000, &[]));
    let gone = record.membership_changes();
    assert_eq!(gone[0].joins, None);
    record.membership_written(&gone[0], MembershipOutcome::Late, "e");
    let again = record.write(&RoomChanges::default());
    assert_eq!(fields(&again), [("a", "left")]);
    record.apply_reply(&again, RoomChanges::default(), ok(2000, &[]));
    sync(&mut record);
    let next = record.write(&joins("b", None));
    assert_eq!(fields(&next), [("a", ""), ("b", "e 1")]);
}

#[test]
fn a_member_written_for_an_earlier_write_is_still_written_for_a_later_one() {
    let mut record = in_a();
    let leave = leaves("a");
    let write = record.write(&leave);
    record.apply_reply(&write, leave, ok(1000, &[]));
    let goes = record.membership_changes();
    let join = joins("a", None);
    let write = record.write(&join);
    record.apply_reply(&write, join, ok(1100, &[]));
    record.membership_written(&goes[0], MembershipOutcome::Applied(0), "e");
    let joins = record.membership_changes();
    assert_eq!((joins.len(), joins[0].joins.is_some(), joins[0].number), (1, true, 3));
}

#[test]
fn a_lost_session_is_created_again_only_after_its_client_answers() {
    let mut record = in_a();
    let change = joins("b", None);
    let write = record.write(&change);
    assert_eq!(record.apply_reply(&write, change, WriteReply::Gone), WriteOutcome::Lost);
    assert!(record.is_uncertain() && !record.wants_write() && !record.rooms.contains_key(&room("b")));
    record.allow_reclaim();
    assert!(record.is_reclaimable() && record.wants_write());
    let write = record.write(&RoomChanges::default());
    assert!(matches!(write, RecordWrite::Replace { may_create: true, .. }), "{write:?}");
    record.apply_reply(&write, RoomChanges::default(), ok(3000, &[]));
    assert_eq!(record.membership_changes()[0].room, room("a"));
    sync(&mut record);
    // A write that was in flight proves nothing about what happened since.
    let write = record.write(&RoomChanges::default());
    record.mark_uncertain();
    record.apply_reply(&write, RoomChanges::default(), ok(3000, &[]));
    assert!(record.is_uncertain());
    record.allow_reclaim();
    assert!(record.is_reclaimable() && record.wants_write());
}

#[test]
fn acknowledgements_rise_within_an_epoch_and_follow_a_new_one() {
    let mut record = in_a();
    let membership = |record: &Record| record.rooms[&room("a")].to_membership().position;
    assert!(record.acknowledge(&room("a"), &at("e", 5)) && !record.acknowledge(&room("a"), &at("e", 4)));
    assert_eq!((membership(&record), record.is_synced()), (at("e", 5), true));
    record.restore_acknowledged(&room("a"), &at("other", 9));
    assert_eq!(membership(&record), at("e", 5));
    assert!(record.acknowledge(&room("a"), &at("f", 2)));
    assert_eq!(membership(&record), at("f", 2));
    let write = record.write(&RoomChanges::default());
    assert_eq!(fields(&write), [("a", "f 2")]);
    assert!(record.advance(&room("a"), &at("g", 7)), "while that is written");
    record.apply_reply(&write, RoomChanges::default(), ok(1000, &[]));
    assert!(record.wants_write() && !record.is_synced());
    let write = record.write(&RoomChanges::default());
    assert_eq!(fields(&write), [("a", "g 7")]);
    record.apply_reply(&write, RoomChanges::default(), ok(1000, &[]));
    assert!(record.is_synced() && !record.advance(&room("a"), &at("g", 6)));
}

/// Redis lost the record of a connection that had taken the session, but not its member.
#[test]
fn a_member_newer_than_the_record_is_outbid_once_the_record_is_confirmed() {
    let mut record = in_a();
    record.mark_unsynced();
    let write = record.write(&RoomChanges::default());
    record.apply_reply(&write, RoomChanges::default(), ok(1000, &[]));
    record.membership_written(
        &record.membership_changes()[0].clone(),
        MembershipOutcome::Superseded(500),
        "e",
    );
    let write = record.write(&RoomChanges::default());
    assert_eq!(record.apply_reply(&write, RoomChanges::default(), ok(1000, &[])), WriteOutcome::Retry);
    assert_eq!(record.generation, 501);
    let write = record.write(&RoomChanges::default());
    assert!(matches!(write, RecordWrite::Replace { number: 1, .. }), "{write:?}");
    record.apply_reply(&write, RoomChanges::default(), ok(1000, &[]));
    assert_eq!(record.membership_changes()[0].generation, 501);
    sync(&mut record);
}
