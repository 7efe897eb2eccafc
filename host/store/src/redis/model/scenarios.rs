//! What went wrong once, or would go wrong with a simpler protocol, each as a test of its own.

use super::{client::State, delivery::Fate, scenario::scenario, step::ModelStep::*};
use std::time::Duration;

#[test]
fn a_resume_does_not_take_the_session_from_one_asked_for_later() {
    scenario(async |world| {
        world.step(Connect { client: 0, node: 1, replaces: false, unread: true }).await;
        world.connect(2).await;
        world.step(ReadRequest(0)).await;
        world.step(DeliverAll).await;
        assert_eq!(world.client_place(), Some((2, vec!["a"])));
        // The same if its request was read in time, but its command is late.
        world.step(Connect { client: 0, node: 1, replaces: false, unread: false }).await;
        world.deliver_one("SADD", Fate::Answered).await;
        world.step(Isolate { node: 1 }).await;
        world.connect(0).await;
        world.step(Heal { node: 1 }).await;
        world.step(DeliverAll).await;
        world.step(Run(5000)).await;
        assert_eq!(world.client_place(), Some((0, vec!["a"])));
    });
}

#[test]
fn a_resume_that_runs_after_it_was_given_up_is_released() {
    scenario(async |world| {
        world.step(Disconnect { client: 0 }).await;
        world.step(DeliverAll).await;
        world.step(Connect { client: 0, node: 1, replaces: false, unread: false }).await;
        world.deliver_one("SADD", Fate::Answered).await;
        world.deliver_one("resume_session", Fate::GivenUp).await;
        assert_eq!(world.client_place(), None);
        world.deliver_one("release_session", Fate::Answered).await;
        world.deliver_late("resume_session").await;
        world.step(Run(5000)).await;
        world.step(Run(20_000)).await;
        assert_eq!((world.session_count(), world.member_count("a")), (0, 0), "nobody holds it");
    });
}

#[test]
fn a_lost_unsubscribe_changes_nothing_when_it_runs_late() {
    scenario(async |world| {
        world.step(Leave { client: 0, room: 0 }).await;
        world.deliver_one("update_session", Fate::GivenUp).await;
        world.step(Disconnect { client: 0 }).await;
        world.step(DeliverAll).await;
        world.deliver_late("update_session").await;
        world.connect(1).await;
        assert_eq!(world.client_place(), Some((1, vec!["a"])), "the client was told store_unavailable");
    });
}

#[test]
fn a_late_member_write_does_not_undo_a_newer_one() {
    scenario(async |world| {
        world.step(Join { client: 0, room: 1, filter: 0 }).await;
        world.deliver_one("update_session", Fate::Answered).await;
        world.deliver_one("write_members", Fate::GivenUp).await;
        world.step(DeliverAll).await;
        world.step(Leave { client: 0, room: 1 }).await;
        world.step(DeliverAll).await;
        world.deliver_late("write_members").await;
        assert_eq!(world.member_count("b"), 0);
        world.step(Join { client: 0, room: 1, filter: 0 }).await;
        world.deliver_one("update_session", Fate::Answered).await;
        world.deliver_one("write_members", Fate::Answered).await;
        assert_eq!(world.member_count("b"), 1);
    });
}

#[test]
fn the_member_of_a_room_that_was_left_is_removed_even_if_the_node_dies_first() {
    scenario(async |world| {
        world.step(Leave { client: 0, room: 0 }).await;
        world.deliver_one("update_session", Fate::Answered).await;
        assert_eq!(world.member_count("a"), 1);
        world.step(Kill { node: 0 }).await;
        world.step(Run(15_000)).await;
        assert_eq!((world.member_count("a"), world.session_count()), (0, 1));
        world.connect(1).await;
        assert_eq!(world.client_place(), Some((1, vec![])));
    });
}

#[test]
fn a_node_that_wakes_up_adds_no_member_of_a_session_that_ended_elsewhere() {
    scenario(async |world| {
        world.step(Join { client: 0, room: 1, filter: 0 }).await;
        world.deliver_one("update_session", Fate::Answered).await;
        world.step(Isolate { node: 0 }).await;
        world.deliver_one("write_members", Fate::GivenUp).await;
        world.connect(1).await;
        assert_eq!(world.client_place(), Some((1, vec!["a", "b"])));
        world.step(EndSession { client: 0 }).await;
        world.step(Run(1500)).await;
        assert_eq!(world.session_count(), 0);
        world.deliver_late("write_members").await;
        world.step(Heal { node: 0 }).await;
        world.step(Run(60_000)).await;
        assert_eq!((world.session_count(), world.member_count("a"), world.member_count("b")), (0, 0, 0));
    });
}

#[test]
fn a_session_is_cleaned_up_though_its_node_came_back_and_died_during_the_cleanup() {
    scenario(async |world| {
        world.step(Isolate { node: 0 }).await;
        world.step(RunLeasesOnly(11_100)).await;
        world.deliver_all_but(&["release_session"]).await;
        assert!(world.in_flight().contains(&"release_session"), "{:?}", world.in_flight());
        world.step(Heal { node: 0 }).await;
        world
            .advance_time(Duration::from_millis(1000), |_, message| message.call.name() != "release_session")
            .await;
        world.step(Pong { client: 0 }).await;
        world.deliver_all_but(&["release_session"]).await;
        world.step(Kill { node: 0 }).await;
        world.step(DeliverAll).await;
        world.step(Run(15_000)).await;
        assert_eq!((world.session_count(), world.member_count("a")), (1, 1), "it can be resumed");
        world.step(Run(25_000)).await;
        assert_eq!((world.session_count(), world.member_count("a")), (0, 0));
    });
}

#[test]
fn a_session_that_was_held_when_its_end_was_checked_still_ends() {
    scenario(async |world| {
        world.step(Disconnect { client: 0 }).await;
        world.step(DeliverAll).await;
        world.step(Run(15_000)).await;
        world.connect(1).await;
        world.step(Run(4000)).await;
        // Its earlier end comes up while it is released again.
        world.step(RunLeasesOnly(2200)).await;
        world.step(Disconnect { client: 0 }).await;
        world.deliver_one("expire_session", Fate::Answered).await;
        world.deliver_all_but(&["unschedule"]).await;
        world.deliver_one("unschedule", Fate::Answered).await;
        assert_eq!(world.session_count(), 1);
        world.step(Run(22_000)).await;
        assert_eq!((world.session_count(), world.member_count("a")), (0, 0));
    });
}

#[test]
fn an_ended_session_stays_ended_when_the_clock_is_set_back() {
    scenario(async |world| {
        world.step(EndSession { client: 0 }).await;
        world.deliver_one("release_session", Fate::Answered).await;
        world.step(SetClock(-3600)).await;
        world.step(DeliverAll).await;
        world.connect(1).await;
        assert_eq!(
            (world.client_place(), world.clients[0].token),
            (None, None),
            "the token is no longer known"
        );
    });
}

#[test]
fn a_session_claimed_under_a_name_that_was_cleaned_up_moves_to_the_new_one() {
    scenario(async |world| {
        world.step(Disconnect { client: 0 }).await;
        world.step(DeliverAll).await;
        world.clients[0].forget();
        world.step(Isolate { node: 0 }).await;
        world.step(RunLeasesOnly(9890)).await;
        world.step(Connect { client: 0, node: 0, replaces: false, unread: false }).await;
        world.step(Run(200)).await;
        world.deliver_one("SADD", Fate::Answered).await;
        world.deliver_one("create_session", Fate::Answered).await;
        world.deliver_one("write_members", Fate::Answered).await;
        assert_eq!(world.client_place(), Some((0, vec!["a"])));
        world.step(Heal { node: 0 }).await;
        world.step(Run(2000)).await;
        world.step(Pong { client: 0 }).await;
        world.step(Run(60_000)).await;
        assert_eq!((world.client_place(), world.member_count("a")), (Some((0, vec!["a"])), 1));
    });
}

#[test]
fn the_next_connection_knows_what_was_acknowledged_just_before_a_disconnect() {
    scenario(async |world| {
        world.step(Publish { room: 0 }).await;
        world.step(Ack { client: 0, room: 0 }).await;
        // The model compares what the client is told with what it has acknowledged.
        world.step(Disconnect { client: 0 }).await;
        world.connect(0).await;
        assert_eq!(world.client_place(), Some((0, vec!["a"])));
        world.step(Publish { room: 0 }).await;
        world.step(Ack { client: 0, room: 0 }).await;
        world.step(NewEpoch { room: 0 }).await;
        world.connect(0).await;
        world.step(Ack { client: 0, room: 0 }).await;
        world.step(Run(1000)).await;
        let acks = world.engine.server.borrow().sorted("m:{a}:acks").cloned().unwrap_or_default();
        assert_eq!(acks.into_values().collect::<Vec<_>>(), [2.0]);
    });
}

#[test]
fn connected_clients_get_their_sessions_back_after_redis_was_emptied() {
    scenario(async |world| {
        world.connect(1).await;
        world.step(Join { client: 0, room: 1, filter: 1 }).await;
        world.step(DeliverAll).await;
        world.step(Flush).await;
        world.step(Run(2000)).await;
        world.step(Pong { client: 0 }).await;
        world.step(Run(2000)).await;
        assert_eq!(world.client_place(), Some((1, vec!["a", "b"])));
        assert_eq!((world.session_count(), world.member_count("a"), world.member_count("b")), (1, 1, 1));
        world.step(Save).await;
        world.connect(2).await;
        world.step(Restore).await;
        world.step(Run(2000)).await;
        world.step(Pong { client: 0 }).await;
        world.step(Run(2000)).await;
        assert_eq!(world.client_place(), Some((2, vec!["a", "b"])));
        world.step(Disconnect { client: 0 }).await;
        world.step(Restore).await;
        world.step(Run(25_000)).await;
        assert_eq!(
            (world.session_count(), world.member_count("a")),
            (0, 0),
            "it had disconnected a moment before"
        );
    });
}

#[test]
fn a_connection_whose_session_was_taken_ends_even_if_its_node_is_not_told() {
    scenario(async |world| {
        world.step(Connect { client: 0, node: 1, replaces: false, unread: false }).await;
        world.deliver_one("SADD", Fate::Answered).await;
        world.deliver_one("resume_session", Fate::Answered).await;
        world.step(Kill { node: 1 }).await;
        assert_eq!(world.connections[0].state, State::Open);
        world.step(Run(61_000)).await;
        assert_eq!(world.connections[0].state, State::Closed);
    });
}

#[test]
fn clients_can_resume_after_the_clock_of_redis_was_set_back() {
    scenario(async |world| {
        world.step(Run(3000)).await;
        world.step(SetClock(-3600)).await;
        world.connect(1).await;
        assert_eq!(world.client_place(), Some((1, vec!["a"])));
        world.step(Run(3000)).await;
        world.connect(2).await;
        assert_eq!(world.client_place(), Some((2, vec!["a"])));
    });
}
