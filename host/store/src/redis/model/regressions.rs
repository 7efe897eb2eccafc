//! Bugs that random schedules found in the store, each as a test of its own.

use super::{delivery::Fate, network::InFlightCall, scenario::scenario, step::ModelStep::*, world::World};
use std::{cell::RefCell, collections::BTreeSet, time::Duration};

/// The entry of a failed resume stayed in the node's set of owned sessions if removing it failed once.
#[test]
fn a_failed_resume_leaves_no_owned_entry() {
    scenario(async |world| {
        world.step(EndSession { client: 0 }).await;
        world.step(DeliverAll).await;
        world.step(Connect { client: 0, node: 1, replaces: true, unread: false }).await;
        world.advance_time(Duration::from_millis(2300), |_, message| message.call.name() != "SREM").await;
        world.deliver_one("SREM", Fate::GivenUp).await;
    });
}

/// The session audit added a session that was not taken back yet to what the new name owns, and its end
/// removed it from what the old name owned.
#[test]
fn a_session_whose_client_never_answers_leaves_no_owned_entry() {
    scenario(async |world| {
        world.step(Isolate { node: 0 }).await;
        world.step(Run(12_000)).await;
        world.step(Heal { node: 0 }).await;
        world.step(Run(2000)).await;
        world.step(Vanish { client: 0 }).await;
        world.step(NoticeGone(0)).await;
    });
}

/// A room was left, and the next join of it was not answered. The room was removed from the record although a
/// reaper had added its member, which then stayed for a day.
#[test]
fn an_unanswered_join_leaves_no_member() {
    scenario(async |world| {
        world.step(Leave { client: 0, room: 0 }).await;
        world.step(DeliverAll).await;
        world.step(Join { client: 0, room: 0, filter: 1 }).await;
        world.step(Isolate { node: 0 }).await;
        world.deliver_one("update_session", Fate::AnswerLost).await;
        world.step(Run(13_000)).await;
        assert_eq!(world.member_count("a"), 1, "because the record has it");
        world.step(Vanish { client: 0 }).await;
        world.step(NoticeGone(0)).await;
        world.step(Heal { node: 0 }).await;
        world.step(DeliverAll).await;
        world.connect(1).await;
        assert_eq!((world.client_place(), world.member_count("a")), (Some((1, vec![])), 0));
    });
}

/// After cleaning up, a reaper removed a node from the list of dead nodes. Meanwhile the node had come back,
/// started something under its old name, and put that name on the list again: nobody ever cleaned it up.
#[test]
fn a_name_given_up_during_its_cleanup_is_cleaned_up_again() {
    scenario(async |world| {
        world.step(Disconnect { client: 0 }).await;
        world.step(DeliverAll).await;
        world.clients[0].forget();
        world.step(Isolate { node: 0 }).await;
        world.step(RunLeasesOnly(9890)).await;
        world.step(Connect { client: 0, node: 0, replaces: false, unread: false }).await;
        world.step(RunLeasesOnly(1200)).await;
        world.deliver_one("SSCAN", Fate::Answered).await;
        world.deliver_one("SADD", Fate::Answered).await;
        world.deliver_one("create_session", Fate::Answered).await;
        world.deliver_all(|_, message| message.process == 0).await;
        world.step(Heal { node: 0 }).await;
        world.step(Run(1000)).await;
    });
}

/// A member was being written when its session came into doubt, and counted as settled. Then other nodes
/// ended the session, and its node took it back without that member.
#[test]
fn a_session_taken_back_has_all_its_members() {
    scenario(async |world| {
        world.step(Disconnect { client: 0 }).await;
        world.step(DeliverAll).await;
        world.clients[0].forget();
        world.step(Flush).await;
        world.connect(0).await;
        // The room's new epoch makes the node write its members again. Meanwhile the node learns that it has
        // lost its lease.
        world.step(RunLeasesOnly(1450)).await;
        world.step(DeliverAll).await;
        world.step(Run(35_000)).await;
        assert_eq!((world.session_count(), world.member_count("a")), (0, 0), "other nodes ended it");
        world.step(Pong { client: 0 }).await;
        world.step(Run(2000)).await;
        assert_eq!((world.client_place(), world.member_count("a")), (Some((0, vec!["a"])), 1));
    });
}

/// A node did not know yet that the clock of Redis had been set back. Its second attempt counted as if its
/// client had just come, and took the session from a client that had come later.
#[test]
fn a_node_that_missed_a_clock_step_takes_no_session_from_a_later_client() {
    scenario(async |world| {
        world.step(Isolate { node: 1 }).await;
        world.step(SetClock(-3600)).await;
        world.step(Run(4000)).await;
        world.step(Connect { client: 0, node: 1, replaces: false, unread: false }).await;
        world.step(Run(10)).await;
        world.connect(2).await;
        world.step(Run(300)).await;
        world.deliver_one("SADD", Fate::Answered).await;
        world.deliver_one("resume_session", Fate::Answered).await;
        world.deliver_one("resume_session", Fate::Answered).await;
        world.step(Heal { node: 1 }).await;
        world.step(DeliverAll).await;
        world.step(Run(3000)).await;
        assert_eq!(world.client_place(), Some((2, vec!["a"])));
    });
}

/// Redis lost everything a second time while a session was being taken back. A write that had started under
/// the old name counted as the one that followed the client's answer, and the session stayed with the old
/// name.
#[test]
fn a_session_taken_back_twice_ends_up_under_its_nodes_current_name() {
    scenario(async |world| {
        world.step(Run(1000)).await;
        world.step(Flush).await;
        world.step(RunLeasesOnly(1100)).await;
        world.step(Pong { client: 0 }).await;
        world.deliver_one("SADD", Fate::Answered).await;
        world.step(Flush).await;
        world.step(RunLeasesOnly(1100)).await;
        world.step(Pong { client: 0 }).await;
        // The session audit, which would notice, has run too early.
        world.deliver_one("session_holders", Fate::GivenUp).await;
        world.deliver_one("replace_session", Fate::Answered).await;
    });
}

/// The session audit kept up to a hundred sessions from being written, until a server had answered that may
/// not even have been theirs.
#[test]
fn a_session_is_written_while_it_is_audited() {
    scenario(async |world| {
        world.advance_time(Duration::from_millis(1100), |_, message| message.call.name() != "SADD").await;
        assert!(world.in_flight().contains(&"SADD"), "of the audit: {:?}", world.in_flight());
        world.step(Join { client: 0, room: 1, filter: 0 }).await;
        world.deliver_one("update_session", Fate::Answered).await;
    });
}

#[test]
fn a_session_that_is_released_while_it_is_audited_leaves_no_owned_entry() {
    scenario(async |world| {
        world.advance_time(Duration::from_millis(1100), |_, message| message.call.name() != "SADD").await;
        world.step(Disconnect { client: 0 }).await;
        world.deliver_all_but(&["SADD"]).await;
        assert!(world.in_flight().contains(&"SADD") && !world.in_flight().contains(&"SREM"));
        world.deliver_one("SADD", Fate::Answered).await;
        world.deliver_one("SREM", Fate::Answered).await;
    });
}

/// Between two renewals of the lease came one step after another, each of which could wait for an answer
/// until its timeout. If Redis was slow, the lease expired.
#[test]
fn the_lease_is_renewed_every_second_whatever_else_is_not_answered() {
    scenario(async |world| {
        let renewals = RefCell::new(BTreeSet::new());
        let which = |_: &World, message: &InFlightCall| {
            let is_renewal = message.call.name() == "renew_lease";
            if is_renewal && message.process == 0 {
                renewals.borrow_mut().insert(message.sent);
            }
            is_renewal
        };
        world.advance_time(Duration::from_millis(10_500), which).await;
        assert_eq!(renewals.borrow().len(), 10, "{renewals:?}");
    });
}
