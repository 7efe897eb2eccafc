//! The checks that are made once all others pass: the members and the history of rooms.

use super::Problem;
use crate::{
    KEY,
    check::{
        actor::Actor,
        http,
        oracle::{Facts, Verdict},
        world::World,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Each client requests the members of each of its rooms.
pub async fn members(actors: &[Actor], verdicts: &[Verdict]) -> Vec<Problem> {
    let live = || actors.iter().zip(verdicts.iter().flat_map(|verdict| &verdict.live));
    let mut rooms: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (actor, live) in live() {
        let principal = actor.transcript().principal;
        live.rooms.keys().for_each(|room| rooms.entry(room).or_default().push(principal.clone()));
    }
    let mut requests = vec![];
    for (actor, live) in live() {
        // `*` contains everyone who is connected, which only operators may see.
        let rooms = live.rooms.keys().filter(|room| room.as_str() != "*");
        requests.extend(rooms.map(|room| (actor, room.as_str(), actor.ask_members(room))));
    }
    let (mut problems, end): (Vec<Problem>, _) = (vec![], Instant::now() + ANSWER_TIMEOUT);
    for (actor, room, id) in requests {
        let mut answer = actor.answer(id);
        while answer.is_none() && Instant::now() < end {
            tokio::time::sleep(POLL_INTERVAL).await;
            answer = actor.answer(id);
        }
        let answer = answer.unwrap_or_default();
        let principals: BTreeSet<&str> = rooms[room].iter().map(String::as_str).collect();
        let found: BTreeSet<&str> =
            answer["principals"].as_array().into_iter().flatten().filter_map(|name| name.as_str()).collect();
        if answer["count"] != rooms[room].len() || found != principals {
            let what = format!("the answer is {answer}, but the members are {:?}", rooms[room]);
            problems.push((
                "members are the live connections",
                Some(actor.transcript().client),
                Some(room.to_owned()),
                what,
            ));
        }
    }
    problems
}

/// The history contains exactly the messages that were answered as published.
pub async fn history(world: &World, facts: &Facts) -> Vec<Problem> {
    let mut problems: Vec<Problem> = vec![];
    let Some(url) = world.admins.lock().expect("no panic").iter().flatten().next().cloned() else {
        return problems;
    };
    for (room, epoch, messages) in facts.log.all() {
        let Some(page) = http::get(&url, &format!("/v1/rooms/{room}/history?limit=1000"), KEY).await else {
            continue;
        };
        // What Redis has lost belonged to another epoch.
        if page["epoch"] != epoch || page["more"] == true || facts.lost_data {
            continue;
        }
        let held: BTreeMap<u64, u64> = page["messages"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|message| Some((message["offset"].as_u64()?, message["data"]["n"].as_u64()?)))
            .collect();
        let published: BTreeMap<u64, u64> =
            messages.iter().map(|(offset, message)| (*offset, message.number)).collect();
        if held != published {
            let lost: Vec<_> = published.iter().filter(|(offset, n)| held.get(offset) != Some(n)).collect();
            let more: Vec<_> = held.iter().filter(|(offset, n)| published.get(offset) != Some(n)).collect();
            let what = format!("not held: {lost:?}; held and never answered: {more:?}");
            problems.push(("published messages are kept", None, Some(room.to_owned()), what));
        }
    }
    problems
}
