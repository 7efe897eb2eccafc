//! Runs one schedule from its first step until everything has recovered.

use super::{
    actor::Actor,
    filter::Filter,
    log::Log,
    oracle::{Facts, Violation},
    publisher::{self, PublisherShared},
    recovery,
    schedule::{CLIENTS, Options, ROOMS},
    step::{Act, Step},
    transcript::Transcript,
    world::{HISTORY, KEYS, TTL, World},
};
use crate::Client;
use serde_json::json;
use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Maximum number of lines of a client's transcript in a report.
const MAX_LINES: usize = 60;
/// The same if many clients are concerned.
const MAX_LINES_OF_MANY: usize = 16;

pub struct Outcome {
    pub seed: u64,
    pub violations: Vec<Violation>,
    transcripts: Vec<Transcript>,
    pub published: usize,
    pub took: Duration,
}

pub async fn run(seed: u64, steps: &[Step], options: &Options) -> Outcome {
    let mut world = World::start(options).await;
    let shows_filters = shows_filters(&world).await;
    let shared = PublisherShared {
        key: KEYS[4].0.to_owned(),
        urls: world.urls.clone(),
        admins: world.admins.clone(),
        began: world.began,
        log: Arc::new(Mutex::new(Log::default())),
        next: Arc::new(AtomicU64::new(1)),
        wrong: Arc::default(),
        stop: CancellationToken::new(),
    };
    let actors: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let (key, principal) = KEYS[n % 4];
            let seed = seed.wrapping_mul(1000) + n as u64;
            Actor::start(format!("client {n}"), principal, key, world.urls.clone(), world.began, seed)
        })
        .collect();
    all_connected(&actors).await;
    let publishers: Vec<_> =
        (0..3).map(|n| publisher::start(shared.clone(), seed.wrapping_mul(7) + n, n == 2)).collect();
    for step in steps {
        sleep(Duration::from_millis(step.after)).await;
        perform(&mut world, &actors, &step.act).await;
    }
    world.heal().await;
    actors.iter().for_each(Actor::resume_reading);
    shared.stop.cancel();
    let mut violations = vec![];
    for publisher in publishers {
        if timeout(Duration::from_secs(20), publisher).await.is_err() {
            violations.push(of_all("publishing continues", &world, "a message is not answered".to_owned()));
        }
    }
    let facts = || Facts {
        log: shared.log.lock().expect("no panic").clone(),
        faults: world.faults(),
        ttl: TTL,
        history: HISTORY,
        lost_data: options.may_lose_data(),
        shows_filters,
    };
    let (facts, found) = recovery::wait_until_recovered(&world, &actors, facts).await;
    violations.extend(found);
    let conflicts = facts.log.conflicts.iter().filter(|_| !options.may_lose_data());
    violations.extend(conflicts.map(|text| of_all("each message is stored once", &world, text.clone())));
    let wrong = shared.wrong.lock().expect("no panic").clone();
    violations.extend(wrong.into_iter().map(|text| of_all("no unexpected errors", &world, text)));
    let transcripts = actors.iter().map(Actor::transcript).collect();
    actors.iter().for_each(Actor::stop);
    Outcome {
        seed,
        violations,
        transcripts,
        published: shared.next.load(Ordering::Relaxed) as usize,
        took: world.began.elapsed(),
    }
}

fn of_all(rule: &'static str, world: &World, text: String) -> Violation {
    Violation { rule, client: "publishers".to_owned(), room: None, at: world.began.elapsed(), text }
}

async fn all_connected(actors: &[Actor]) {
    crate::eventually("clients that are in", async || {
        actors.iter().all(|actor| actor.open() == (1, 1)).then_some(())
    })
    .await;
}

/// Whether `connected.rooms` shows filters.
async fn shows_filters(world: &World) -> bool {
    let url = world.urls.lock().expect("no panic")[0].clone().expect("a node");
    let connect = json!({"auth": {"apiKey": KEYS[4].0}});
    let mut client = Client::connect_at(&url, connect.clone()).await;
    client.subscribe(json!([{"room": "tvl-0", "filter": {"minChange": 0.5}}])).await;
    let mut again = connect;
    again["session"] = client.token().into();
    client.cut();
    let client = Client::connect_at(&url, again).await;
    client.connected["rooms"].as_array().into_iter().flatten().any(|room| room["filter"].is_object())
}

async fn perform(world: &mut World, actors: &[Actor], act: &Act) {
    match act.clone() {
        Act::Subscribe { client, room, filter, since } => {
            actors[client].subscribe(ROOMS[room], filter, since)
        }
        Act::Unsubscribe { client, room } => actors[client].unsubscribe(ROOMS[room]),
        Act::Ack { client } => actors[client].acknowledge(),
        Act::StopReading { client } => actors[client].stop_reading(),
        Act::ResumeReading { client } => actors[client].resume_reading(),
        Act::Cut { client, node, away } => actors[client].cut(node, Duration::from_millis(away)),
        Act::Takeover { client, node, with_request } => {
            actors[client].resume(node);
            if with_request && client % 2 == 0 {
                actors[client].subscribe(ROOMS[(client + node) % ROOMS.len()], Filter::NONE, false);
            } else if with_request {
                actors[client].unsubscribe(ROOMS[(client + node) % ROOMS.len()]);
            }
        }
        Act::Twice { client, nodes } => nodes.into_iter().for_each(|node| actors[client].resume(node)),
        Act::End { client } => {
            if let Some((name, node)) = actors[client].end() {
                world.end_connection(node, name).await;
            }
        }
        Act::Abandon { client, node } => world.abandon(node, KEYS[client % 4].0).await,
        Act::Kill { node } => world.kill(node).await,
        Act::Term { node } => world.term(node).await,
        Act::Start { node } => world.launch(node).await,
        Act::Stop { node } => world.stop(node).await,
        Act::Continue { node } => world.resume(node).await,
        Act::CutRedis { node } => world.cut(node),
        Act::Refuse { node } => world.refuse(node),
        Act::Swallow { node } => world.swallow(node),
        Act::Restore { node } => world.restore(node),
        Act::Rule { node, kind, action, times } => world.rule(node, kind, action, times),
        Act::Release { node } => world.release(node),
        Act::Pause { millis } => world.pause(millis).await,
        Act::Flush => drop(world.redis.try_command(&["FLUSHALL"]).await),
        Act::Forget { room } => {
            let keys = ["room", "log", "members", "acks", "fences"];
            let keys = keys.map(|key| format!("switchyard:{{{}}}:{key}", ROOMS[room]));
            let words: Vec<_> = ["DEL"].into_iter().chain(keys.iter().map(String::as_str)).collect();
            world.redis.try_command(&words).await.ok();
        }
        Act::Restart => world.restart().await,
    }
}

impl Outcome {
    /// The names of the broken rules.
    pub fn rules(&self) -> BTreeSet<&'static str> {
        self.violations.iter().map(|violation| violation.rule).collect()
    }
}

impl fmt::Display for Outcome {
    /// Prints each broken rule once, with the transcripts of the clients that it concerns.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (mut printed, seconds) = (BTreeSet::new(), self.took.as_secs_f64());
        writeln!(f, "seed {}: {} published, {seconds:.1} s", self.seed, self.published)?;
        for violation in &self.violations {
            writeln!(f, "  {violation}")?;
            if !printed.insert(violation.rule) {
                continue;
            }
            if let Some(client) = self.transcripts.iter().find(|one| one.client == violation.client) {
                f.write_str(&client.format_excerpt(violation.room.as_deref(), violation.at, MAX_LINES))?;
            } else if let Some(room) = &violation.room {
                for client in self.transcripts.iter().filter(|one| one.mentions(room)) {
                    writeln!(f, "    {}", client.client)?;
                    f.write_str(&client.format_excerpt(Some(room), violation.at, MAX_LINES_OF_MANY))?;
                }
            }
        }
        Ok(())
    }
}
