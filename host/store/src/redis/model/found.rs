//! What random schedules found in the store, each as a test of its own.

use super::{delivery::Fate, step::Step::*, story::story};
use std::time::Duration;

/// The entry of a resume that came to nothing stayed in the node's estate when taking it out failed once.
#[test]
fn an_estate_keeps_nothing_of_a_resume_that_came_to_nothing() {
    story(async |world| {
        world.step(End { client: 0 }).await;
        world.step(Flow).await;
        world.step(Open { client: 0, node: 1, clean: true, waits: false }).await;
        world.pass(Duration::from_millis(2300), |_, message| message.ask.name() != "SREM").await;
        world.one("SREM", Fate::Cut).await;
    });
}

/// The patrol put what was not taken back yet into the estate of the new name, and leaving took it out of that of the old one.
#[test]
fn an_estate_keeps_nothing_of_a_session_whose_client_never_answered() {
    story(async |world| {
        world.step(Isolate { node: 0 }).await;
        world.step(Live(12_000)).await;
        world.step(Heal { node: 0 }).await;
        world.step(Live(2000)).await;
        world.step(Vanish { client: 0 }).await;
        world.step(Notice(0)).await;
    });
}

/// A room that had been left and whose join was not answered was taken from the record, though a reaper had brought its member in:
/// the member stayed for a day.
#[test]
fn a_join_that_was_not_answered_leaves_no_member_behind() {
    story(async |world| {
        world.step(Leave { client: 0, room: 0 }).await;
        world.step(Flow).await;
        world.step(Join { client: 0, room: 0, filter: 1 }).await;
        world.step(Isolate { node: 0 }).await;
        world.one("amend", Fate::Unanswered).await;
        world.step(Live(13_000)).await;
        assert_eq!(world.members("a"), 1, "by the word of the record");
        world.step(Vanish { client: 0 }).await;
        world.step(Notice(0)).await;
        world.step(Heal { node: 0 }).await;
        world.step(Flow).await;
        world.connect(1).await;
        assert_eq!((world.is_on(), world.members("a")), (Some((1, vec![])), 0));
    });
}

/// Whoever had cleared away what a node left took it from the list of the dead, though the node had come back meanwhile, had begun
/// something under its old name, and had put that on the list: nobody ever looked at it again.
#[test]
fn a_name_that_is_given_up_while_it_is_reaped_is_reaped_again() {
    story(async |world| {
        world.step(Hang { client: 0 }).await;
        world.step(Flow).await;
        world.clients[0].forget();
        world.step(Isolate { node: 0 }).await;
        world.step(Pass(9890)).await;
        world.step(Open { client: 0, node: 0, clean: false, waits: false }).await;
        world.step(Pass(1200)).await;
        world.one("SSCAN", Fate::Answered).await;
        world.one("SADD", Fate::Answered).await;
        world.one("claim", Fate::Answered).await;
        world.flow(|_, message| message.process == 0).await;
        world.step(Heal { node: 0 }).await;
        world.step(Live(1000)).await;
    });
}

/// A member that was on its way when the session came to be doubted was taken for settled; then others ended the session, and its
/// node took it back without its members.
#[test]
fn a_session_that_is_taken_back_has_all_its_members_again() {
    story(async |world| {
        world.step(Hang { client: 0 }).await;
        world.step(Flow).await;
        world.clients[0].forget();
        world.step(Flush).await;
        world.connect(0).await;
        // The room's new epoch has its members written again, and the lease is found to be lost meanwhile.
        world.step(Pass(1450)).await;
        world.step(Flow).await;
        world.step(Live(35_000)).await;
        assert_eq!((world.sessions(), world.members("a")), (0, 0), "others ended it");
        world.step(Pong { client: 0 }).await;
        world.step(Live(2000)).await;
        assert_eq!((world.is_on(), world.members("a")), (Some((0, vec!["a"])), 1));
    });
}

/// A node that had not heard yet that Redis' clock was set back asked a second time as if its client had come at that moment: it took
/// the session from a client that had come later.
#[test]
fn a_node_that_did_not_hear_of_a_clock_that_was_set_back_takes_from_nobody() {
    story(async |world| {
        world.step(Isolate { node: 1 }).await;
        world.step(SetClock(-3600)).await;
        world.step(Live(4000)).await;
        world.step(Open { client: 0, node: 1, clean: false, waits: false }).await;
        world.step(Live(10)).await;
        world.connect(2).await;
        world.step(Live(300)).await;
        world.one("SADD", Fate::Answered).await;
        world.one("take", Fate::Answered).await;
        world.one("take", Fate::Answered).await;
        world.step(Heal { node: 1 }).await;
        world.step(Flow).await;
        world.step(Live(3000)).await;
        assert_eq!(world.is_on(), Some((2, vec!["a"])));
    });
}

/// Redis forgot everything a second time while a session was being taken back: what was begun under the name of before was taken for
/// the answer to what its client had said since, and the session stayed with that name.
#[test]
fn a_session_that_is_taken_back_twice_is_in_the_end_under_its_nodes_name() {
    story(async |world| {
        world.step(Live(1000)).await;
        world.step(Flush).await;
        world.step(Pass(1100)).await;
        world.step(Pong { client: 0 }).await;
        world.one("SADD", Fate::Answered).await;
        world.step(Flush).await;
        world.step(Pass(1100)).await;
        world.step(Pong { client: 0 }).await;
        // The patrol would find out, if it had not looked too early.
        world.one("holders", Fate::Cut).await;
        world.one("put", Fate::Answered).await;
    });
}
