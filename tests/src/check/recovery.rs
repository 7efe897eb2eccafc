//! Checks that everything recovers by itself once nothing is disturbed any more: what operators, Redis and
//! clients see must be exactly the live sessions.

mod answers;

use super::{
    actor::Actor,
    http, keys,
    oracle::{self, Facts, LiveConnection, Verdict, Violation},
    schedule::NODES,
    world::World,
};
use crate::KEY;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// How long recovery may take. A dead node is noticed within 20 s, and then its sessions still have their
/// time to live.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(40);
const CHECK_INTERVAL: Duration = Duration::from_millis(400);
/// After this many pauses, clients with two connections send a request on both.
const CHECKS_BEFORE_CONFIRM: u32 = 10;
/// The maximum number of commands per second from all nodes together at rest, and for how many seconds it is
/// measured.
const MAX_IDLE_COMMANDS_PER_SECOND: u64 = 120;
const IDLE_MEASURE_SECONDS: u64 = 2;

/// A problem, with the client and the room that it concerns.
type Problem = (&'static str, Option<String>, Option<String>, String);

/// Waits until there are no problems, and returns those that remain.
pub async fn wait_until_recovered(
    world: &World,
    actors: &[Actor],
    facts: impl Fn() -> Facts,
) -> (Facts, Vec<Violation>) {
    let (end, mut round) = (Instant::now() + RECOVERY_TIMEOUT, 0);
    loop {
        round += 1;
        let facts = facts();
        let verdicts: Vec<_> =
            actors.iter().map(|actor| oracle::check_transcript(&actor.transcript(), &facts)).collect();
        let mut problems = clients(actors, &verdicts);
        if problems.is_empty() {
            problems = others(world, actors, &verdicts, &facts).await;
        }
        if problems.is_empty() {
            problems = rate(world).await;
        }
        if problems.is_empty() {
            problems = answers::members(actors, &verdicts).await;
            problems.extend(answers::history(world, &facts).await);
        }
        if problems.is_empty() || Instant::now() > end {
            let at = world.began.elapsed();
            let mut violations: Vec<_> =
                verdicts.into_iter().flat_map(|verdict| verdict.violations).collect();
            violations.extend(problems.into_iter().map(|(rule, client, room, text)| Violation {
                rule,
                client: client.unwrap_or_default(),
                room,
                at,
                text,
            }));
            return (facts, violations);
        }
        for actor in actors {
            // A second connection learns that it has lost the session when it sends a request.
            if actor.open().1 > 1 && round % CHECKS_BEFORE_CONFIRM == 0 {
                actor.confirm();
            }
            actor.acknowledge();
        }
        sleep(CHECK_INTERVAL).await;
    }
}

/// Each client has one connection, all messages that it should have, and all answers.
fn clients(actors: &[Actor], verdicts: &[Verdict]) -> Vec<Problem> {
    let mut problems: Vec<Problem> = vec![];
    for (actor, verdict) in actors.iter().zip(verdicts) {
        let client = Some(actor.transcript().client);
        let [live] = &verdict.live[..] else {
            let what = format!("{} connections of it are open", verdict.live.len());
            problems.push(("each client is connected once", client, None, what));
            continue;
        };
        if live.waiting > 0 {
            let what = format!("{} requests of {} have no answer", live.waiting, live.connection);
            problems.push(("requests are answered", client.clone(), None, what));
        }
        for (room, member) in &live.rooms {
            if let Some(missing) = member.missing {
                let what = format!("{missing} never came, after {}", member.covered);
                problems.push(("every message arrives eventually", client.clone(), Some(room.clone()), what));
            }
        }
    }
    problems
}

async fn others(world: &World, actors: &[Actor], verdicts: &[Verdict], facts: &Facts) -> Vec<Problem> {
    let live: Vec<&LiveConnection> = verdicts.iter().flat_map(|verdict| &verdict.live).collect();
    let mut problems: Vec<Problem> = vec![];
    let mut members: BTreeMap<&str, Vec<&oracle::Member>> = BTreeMap::new();
    for live in &live {
        live.rooms.iter().for_each(|(room, member)| members.entry(room).or_default().push(member));
    }
    let admins: Vec<_> = world.admins.lock().expect("no panic").iter().flatten().cloned().collect();
    for (node, url) in admins.iter().enumerate() {
        if http::call(url, "GET", "/readyz", KEY, "").await.is_none_or(|(status, _)| status != 200) {
            problems.push(("nodes are ready", None, None, format!("node {node} is not")));
        }
        let Some(page) = http::get(url, "/v1/connections?limit=1000", KEY).await else { continue };
        let names = page["connections"].as_array().into_iter().flatten();
        let found: BTreeSet<_> = names.filter_map(|one| one["id"].as_str().map(str::to_owned)).collect();
        let expected: BTreeSet<_> =
            live.iter().filter(|one| one.node == node).map(|one| one.connection.clone()).collect();
        if found != expected {
            let (more, less) = (found.difference(&expected).count(), expected.difference(&found).count());
            let what =
                format!("node {node} has {} connections, {more} of nobody, {less} missing", found.len());
            problems.push(("connections are the live ones", None, None, what));
        }
        for (room, expected) in &members {
            problems.extend(room_seen(url, node, room, expected, facts).await);
        }
    }
    problems.extend(stored(world, actors, &live).await);
    problems
}

/// The members and receipts of a room in a node's admin API.
async fn room_seen(
    url: &str,
    node: usize,
    room: &str,
    members: &[&oracle::Member],
    facts: &Facts,
) -> Vec<Problem> {
    let mut problems: Vec<Problem> = vec![];
    let Some(seen) = http::get(url, &format!("/v1/rooms/{room}"), KEY).await else {
        let what = format!("node {node} knows no such room");
        return vec![("members are the live connections", None, Some(room.to_owned()), what)];
    };
    if seen["members"] != members.len() {
        let what = format!("node {node} counts {} members, {} live", seen["members"], members.len());
        problems.push(("members are the live connections", None, Some(room.to_owned()), what));
    }
    let epoch = seen["epoch"].as_str().unwrap_or_default();
    let newest = facts.log.newest(room, epoch);
    if newest == 0 {
        return problems;
    }
    let have =
        |member: &&&oracle::Member| member.epoch.as_deref() == Some(epoch) && member.acknowledged >= newest;
    let expected = members.iter().filter(have).count();
    let path = format!("/v1/rooms/{room}/messages/{newest}/receipt");
    match http::get(url, &path, KEY).await {
        Some(receipt) if receipt["members"] == members.len() && receipt["acknowledged"] == expected => {}
        receipt => {
            let receipt = receipt.unwrap_or_default();
            let what = format!(
                "of {newest} node {node} says {receipt}, where {} live and {expected} have acknowledged",
                members.len()
            );
            problems.push(("receipts count the live members", None, Some(room.to_owned()), what));
        }
    }
    problems
}

/// Compares the contents of Redis with the live sessions.
async fn stored(world: &World, actors: &[Actor], live: &[&LiveConnection]) -> Vec<Problem> {
    let keys = keys::read(&world.redis).await;
    let mut problems: Vec<Problem> = vec![];
    let mut expect = |rule: &'static str, found: String, expected: String| {
        if found != expected {
            problems.push((rule, None, None, format!("{found}, where it should be {expected}")));
        }
    };
    let held = keys.sessions.values().flatten().count();
    let sessions = |all: usize, held: usize| format!("{all} sessions, {held} of them held");
    expect(
        "sessions are those of live connections",
        sessions(keys.sessions.len(), held),
        sessions(live.len(), live.len()),
    );
    let entries = |count: usize| format!("{count} owned sessions");
    expect("owned entries are those of live sessions", entries(keys.owned_entries), entries(live.len()));
    let nodes = |leases: usize, dead: usize| format!("{leases} leases and {dead} nodes to be cleared away");
    expect("leases are those of running nodes", nodes(keys.leases, keys.dead), nodes(NODES, 0));
    expect("no session waits for its end", format!("{} ends", keys.ends), "0 ends".to_owned());
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    actors.iter().for_each(|actor| *expected.entry(actor.transcript().principal).or_default() += 1);
    let found: BTreeMap<_, _> = keys.connections.into_iter().filter(|(_, count)| *count > 0).collect();
    expect("connection counts match the live connections", format!("{found:?}"), format!("{expected:?}"));
    problems
}

/// The nodes send few commands to Redis while no client sends requests.
async fn rate(world: &World) -> Vec<Problem> {
    let before = keys::commands(&world.redis).await;
    sleep(Duration::from_secs(IDLE_MEASURE_SECONDS)).await;
    let rate = (keys::commands(&world.redis).await - before) / IDLE_MEASURE_SECONDS;
    match rate {
        0..=MAX_IDLE_COMMANDS_PER_SECOND => vec![],
        _ => vec![("nodes are idle when clients are", None, None, format!("{rate} commands a second"))],
    }
}
