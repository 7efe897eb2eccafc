//! What went wrong once, or would with a simpler protocol, each as a test of its own.

use super::{client::State, delivery::Fate, step::Step::*, story::story};
use std::time::Duration;

#[test]
fn a_resume_that_was_asked_before_another_does_not_take_from_it() {
    story(async |world| {
        world.step(Open { client: 0, node: 1, clean: false, waits: true }).await;
        world.connect(2).await;
        world.step(Read(0)).await;
        world.step(Flow).await;
        assert_eq!(world.is_on(), Some((2, vec!["a"])));
        // The same where it was read in time and waits on the way.
        world.step(Open { client: 0, node: 1, clean: false, waits: false }).await;
        world.one("SADD", Fate::Answered).await;
        world.step(Isolate { node: 1 }).await;
        world.connect(0).await;
        world.step(Heal { node: 1 }).await;
        world.step(Flow).await;
        world.step(Live(5000)).await;
        assert_eq!(world.is_on(), Some((0, vec!["a"])));
    });
}

#[test]
fn a_resume_that_runs_after_it_was_given_up_is_let_go() {
    story(async |world| {
        world.step(Hang { client: 0 }).await;
        world.step(Flow).await;
        world.step(Open { client: 0, node: 1, clean: false, waits: false }).await;
        world.one("SADD", Fate::Answered).await;
        world.one("take", Fate::Cut).await;
        assert_eq!(world.is_on(), None);
        world.one("letgo", Fate::Answered).await;
        world.late("take").await;
        world.step(Live(5000)).await;
        world.step(Live(20_000)).await;
        assert_eq!((world.sessions(), world.members("a")), (0, 0), "nobody held it");
    });
}

#[test]
fn an_unsubscribe_that_was_lost_changes_nothing_when_it_runs_late() {
    story(async |world| {
        world.step(Leave { client: 0, room: 0 }).await;
        world.one("amend", Fate::Cut).await;
        world.step(Hang { client: 0 }).await;
        world.step(Flow).await;
        world.late("amend").await;
        world.connect(1).await;
        assert_eq!(world.is_on(), Some((1, vec!["a"])), "it was told store_unavailable");
    });
}

#[test]
fn a_member_write_that_arrives_last_does_not_undo_what_came_after_it() {
    story(async |world| {
        world.step(Join { client: 0, room: 1, filter: 0 }).await;
        world.one("amend", Fate::Answered).await;
        world.one("enrol", Fate::Cut).await;
        world.step(Flow).await;
        world.step(Leave { client: 0, room: 1 }).await;
        world.step(Flow).await;
        world.late("enrol").await;
        assert_eq!(world.members("b"), 0);
        world.step(Join { client: 0, room: 1, filter: 0 }).await;
        world.one("amend", Fate::Answered).await;
        world.one("enrol", Fate::Answered).await;
        assert_eq!(world.members("b"), 1);
    });
}

#[test]
fn the_member_of_a_room_that_was_left_goes_also_when_the_node_dies_first() {
    story(async |world| {
        world.step(Leave { client: 0, room: 0 }).await;
        world.one("amend", Fate::Answered).await;
        assert_eq!(world.members("a"), 1);
        world.step(Kill { node: 0 }).await;
        world.step(Live(15_000)).await;
        assert_eq!((world.members("a"), world.sessions()), (0, 1));
        world.connect(1).await;
        assert_eq!(world.is_on(), Some((1, vec![])));
    });
}

#[test]
fn a_node_that_wakes_brings_nobody_into_a_room_whose_session_was_ended_elsewhere() {
    story(async |world| {
        world.step(Join { client: 0, room: 1, filter: 0 }).await;
        world.one("amend", Fate::Answered).await;
        world.step(Isolate { node: 0 }).await;
        world.one("enrol", Fate::Cut).await;
        world.connect(1).await;
        assert_eq!(world.is_on(), Some((1, vec!["a", "b"])));
        world.step(End { client: 0 }).await;
        world.step(Live(1500)).await;
        assert_eq!(world.sessions(), 0);
        world.late("enrol").await;
        world.step(Heal { node: 0 }).await;
        world.step(Live(60_000)).await;
        assert_eq!((world.sessions(), world.members("a"), world.members("b")), (0, 0, 0));
    });
}

#[test]
fn a_session_is_seen_to_though_its_node_came_back_and_died_while_it_was_reaped() {
    story(async |world| {
        world.step(Isolate { node: 0 }).await;
        world.step(Pass(11_100)).await;
        world.all_but(&["letgo"]).await;
        assert!(world.on_their_way().contains(&"letgo"), "{:?}", world.on_their_way());
        world.step(Heal { node: 0 }).await;
        world.pass(Duration::from_millis(1000), |_, message| message.ask.name() != "letgo").await;
        world.step(Pong { client: 0 }).await;
        world.all_but(&["letgo"]).await;
        world.step(Kill { node: 0 }).await;
        world.step(Flow).await;
        world.step(Live(15_000)).await;
        assert_eq!((world.sessions(), world.members("a")), (1, 1), "it can be resumed");
        world.step(Live(25_000)).await;
        assert_eq!((world.sessions(), world.members("a")), (0, 0));
    });
}

#[test]
fn a_session_that_was_held_when_its_end_was_looked_at_still_ends() {
    story(async |world| {
        world.step(Hang { client: 0 }).await;
        world.step(Flow).await;
        world.step(Live(15_000)).await;
        world.connect(1).await;
        world.step(Live(4000)).await;
        // Its end from before comes up while it is let go once more.
        world.step(Pass(2200)).await;
        world.step(Hang { client: 0 }).await;
        world.one("ending", Fate::Answered).await;
        world.all_but(&["strike"]).await;
        world.one("strike", Fate::Answered).await;
        assert_eq!(world.sessions(), 1);
        world.step(Live(22_000)).await;
        assert_eq!((world.sessions(), world.members("a")), (0, 0));
    });
}

#[test]
fn a_session_that_was_ended_stays_so_by_a_clock_that_is_set_back() {
    story(async |world| {
        world.step(End { client: 0 }).await;
        world.one("letgo", Fate::Answered).await;
        world.step(SetClock(-3600)).await;
        world.step(Flow).await;
        world.connect(1).await;
        assert_eq!((world.is_on(), world.clients[0].token), (None, None), "the token is not known any more");
    });
}

#[test]
fn a_session_claimed_under_a_name_that_was_reaped_is_taken_to_the_new_one() {
    story(async |world| {
        world.step(Hang { client: 0 }).await;
        world.step(Flow).await;
        world.clients[0].forget();
        world.step(Isolate { node: 0 }).await;
        world.step(Pass(9890)).await;
        world.step(Open { client: 0, node: 0, clean: false, waits: false }).await;
        world.step(Live(200)).await;
        world.one("SADD", Fate::Answered).await;
        world.one("claim", Fate::Answered).await;
        world.one("enrol", Fate::Answered).await;
        assert_eq!(world.is_on(), Some((0, vec!["a"])));
        world.step(Heal { node: 0 }).await;
        world.step(Live(2000)).await;
        world.step(Pong { client: 0 }).await;
        world.step(Live(60_000)).await;
        assert_eq!((world.is_on(), world.members("a")), (Some((0, vec!["a"])), 1));
    });
}

#[test]
fn what_was_acknowledged_just_before_a_cut_is_known_to_the_next_connection() {
    story(async |world| {
        world.step(Publish { room: 0 }).await;
        world.step(Ack { client: 0, room: 0 }).await;
        // The model compares what the client is told with what it acknowledged.
        world.step(Hang { client: 0 }).await;
        world.connect(0).await;
        assert_eq!(world.is_on(), Some((0, vec!["a"])));
        world.step(Publish { room: 0 }).await;
        world.step(Ack { client: 0, room: 0 }).await;
        world.step(Renew { room: 0 }).await;
        world.connect(0).await;
        world.step(Ack { client: 0, room: 0 }).await;
        world.step(Live(1000)).await;
        let acks = world.engine.server.borrow().sorted("m:{a}:acks").cloned().unwrap_or_default();
        assert_eq!(acks.into_values().collect::<Vec<_>>(), [2.0]);
    });
}

#[test]
fn who_lives_has_its_session_back_after_redis_was_emptied_and_who_moved_does_not() {
    story(async |world| {
        world.connect(1).await;
        world.step(Join { client: 0, room: 1, filter: 1 }).await;
        world.step(Flow).await;
        world.step(Flush).await;
        world.step(Live(2000)).await;
        world.step(Pong { client: 0 }).await;
        world.step(Live(2000)).await;
        assert_eq!(world.is_on(), Some((1, vec!["a", "b"])));
        assert_eq!((world.sessions(), world.members("a"), world.members("b")), (1, 1, 1));
        world.step(Save).await;
        world.connect(2).await;
        world.step(Restore).await;
        world.step(Live(2000)).await;
        world.step(Pong { client: 0 }).await;
        world.step(Live(2000)).await;
        assert_eq!(world.is_on(), Some((2, vec!["a", "b"])));
        world.step(Hang { client: 0 }).await;
        world.step(Restore).await;
        world.step(Live(25_000)).await;
        assert_eq!((world.sessions(), world.members("a")), (0, 0), "it left a moment before");
    });
}

#[test]
fn a_connection_whose_session_was_taken_ends_also_when_nobody_tells_its_node() {
    story(async |world| {
        world.step(Open { client: 0, node: 1, clean: false, waits: false }).await;
        world.one("SADD", Fate::Answered).await;
        world.one("take", Fate::Answered).await;
        world.step(Kill { node: 1 }).await;
        assert_eq!(world.connections[0].state, State::Open);
        world.step(Live(61_000)).await;
        assert_eq!(world.connections[0].state, State::Closed);
    });
}

#[test]
fn everybody_can_resume_after_redis_clock_was_set_back() {
    story(async |world| {
        world.step(Live(3000)).await;
        world.step(SetClock(-3600)).await;
        world.connect(1).await;
        assert_eq!(world.is_on(), Some((1, vec!["a"])));
        world.step(Live(3000)).await;
        world.connect(2).await;
        assert_eq!(world.is_on(), Some((2, vec!["a"])));
    });
}
