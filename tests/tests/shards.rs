//! The rooms of one plugin on several cores. For clients they are rooms of one plugin: its limits, its quarantine
//! and its versions are the same in all of them. On a machine with one core there is only one shard.

use serde_json::{Value, json};
use std::{
    fs,
    time::{Duration, Instant},
};
use switchyard_tests::{
    Answer, Client, EVENT_TIMEOUT, KEY, Live, MORE_KEYS, Server, cpu_time, eventually, guest,
};

/// Enough rooms to be on all shards of a plugin.
const ROOMS: usize = 40;

/// Longer than a shard stays on its thread after its plugin was needed.
const REST: Duration = Duration::from_millis(150);

/// A plugin with this name and more lines, from the file of a guest.
fn plugin(name: &str, file: &str, rooms: &str, more: &str) -> String {
    let file = guest(file);
    format!("[[plugin]]\nname = \"{name}\"\nfile = \"{}\"\nrooms = [\"{rooms}\"]\n{more}\n", file.display())
}

async fn start(plugins: &str) -> Server {
    Server::start_with(&format!("{}{}{plugins}", Server::keys(), Server::more_keys())).await
}

/// `protocol_rooms` with many protocols, whose rooms have aliases in upper case.
fn protocols(name: &str, more: &str) -> String {
    let protocols: Vec<_> = (0..ROOMS).map(|n| format!("\"p{n}\"")).collect();
    let config = format!("{{ protocols = [{}], chains = [\"c\"]{more} }}", protocols.join(", "));
    plugin(name, "protocol_rooms", "*:c", "").replace("*:c", "*:*") + &format!("config = {config}\n")
}

/// How many threads run shards of a plugin. Names of plugins differ between tests, which share a process.
fn threads(plugin: &str) -> usize {
    let name = format!("plugin {plugin}");
    let tasks = fs::read_dir("/proc/self/task").expect("Linux");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|found| *found.trim() == name[..name.len().min(15)]).count()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}

/// The error of the only result of a subscription, or of another request.
fn error(answer: &Value) -> (&str, &str) {
    let error = match answer["results"][0]["error"].is_null() {
        true => &answer["error"],
        false => &answer["results"][0]["error"],
    };
    (error["code"].as_str().unwrap_or_default(), error["message"].as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_has_a_thread_for_each_core_that_its_rooms_use() {
    let server = start(&plugin("spread", "threshold_filter", "s:*", "")).await;
    assert_eq!(threads("spread"), 0, "none is needed yet");
    let client = Live::connect(&server.url).await;
    client.subscribe(json!(["s:0"])).await;
    assert_eq!(threads("spread"), 1);
    client.subscribe(json!((0..ROOMS).map(|n| format!("s:{n}")).collect::<Vec<_>>())).await;
    assert_eq!(threads("spread"), cores());
}

/// The processor time of the threads of a plugin, in seconds. It does not change while they sleep.
fn time_of(plugin: &str) -> f64 {
    cpu_time::of_threads(std::process::id(), &format!("plugin {plugin}")).values().sum()
}

/// Once, every message in a room with a plugin woke the plugin's thread, which cost more than the delivery.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_a_plugin_need_not_see_do_not_wake_its_threads() {
    let server = start(&plugin("rests", "threshold_filter", "s:*", "")).await;
    let (mut member, mut publisher) = (Client::connect(&server).await, Client::connect(&server).await);
    member.subscribe(json!(["s:all"])).await;
    let mut sent = 0;
    let mut flow = async || {
        let before = time_of("rests");
        for _ in 0..20 {
            sent += 1;
            publisher.publish("s:all", json!({"value": sent})).await;
            assert_eq!(member.expect("message").await["data"]["value"], sent);
        }
        time_of("rests") == before
    };
    // The thread has answered the subscription, and leaves its rooms to a task soon after.
    let end = Instant::now() + EVENT_TIMEOUT;
    while !flow().await {
        assert!(Instant::now() < end, "the thread is woken by every message");
    }
    assert!(time_of("rests") > 0.0, "it has answered the subscription");
}

/// While the rooms of a shard go to its thread and back, no message is lost, repeated, overtaken or let through.
#[tokio::test(flavor = "multi_thread")]
async fn filters_hold_and_order_is_kept_while_a_shard_goes_to_its_thread_and_back() {
    let server = start(&plugin("moves", "threshold_filter", "s:*", "")).await;
    let (mut all, mut large) = (Client::connect(&server).await, Client::connect(&server).await);
    let (mut publisher, mut idle) = (Client::connect(&server).await, Client::connect(&server).await);
    all.subscribe(json!(["s:0", "s:1"])).await;
    large.subscribe(json!([{"room": "s:0", "filter": {"minValue": 100}}])).await;
    let mut returns = 0;
    for round in 0..40 {
        // The plugin is needed for the first room only. If the shard rests, it leaves its thread with the first message,
        // and the thread sleeps soon after.
        let mut before = 0.0;
        for n in 0..20 {
            publisher.publish("s:1", json!({"value": round * 20 + n})).await;
            assert_eq!(all.expect("message").await["data"]["value"], round * 20 + n);
            before = if n == 9 { time_of("moves") } else { before };
        }
        returns += u32::from(time_of("moves") == before);
        for value in [1, 100 + round, 2] {
            publisher.publish("s:0", json!({"value": value})).await;
            assert_eq!(all.expect("message").await["data"]["value"], value);
        }
        assert_eq!(large.expect("message").await["data"]["value"], 100 + round);
        // Joins and leaves while it moves.
        idle.subscribe(json!(["s:1"])).await;
        assert_eq!(idle.ask(json!({"type": "unsubscribe", "rooms": ["s:1"]})).await["type"], "unsubscribed");
        if round % 2 == 0 {
            tokio::time::timeout(REST, all.recv()).await.expect_err("nothing else is published");
        }
    }
    assert!(returns > 0, "the shard never left its thread");
    large.round_trip().await;
}

/// Two rooms of different shards were granted with the same count.
#[tokio::test(flavor = "multi_thread")]
async fn a_principals_rooms_are_counted_exactly_however_many_shards_are_asked_at_once() {
    let server = start(&protocols("counts", ", rooms = { per_principal = 10 }")).await;
    for round in 0..20 {
        let mut clients = vec![];
        for _ in 0..4 {
            clients.push(Live::connect(&server.url).await);
        }
        let rooms: Vec<_> = (0..ROOMS).map(|n| format!("p{n}:c")).collect();
        let asked: Vec<_> = clients
            .iter()
            .map(|client| client.request(json!({"type": "subscribe", "rooms": rooms})))
            .collect();
        let mut granted = 0;
        for (client, id) in clients.iter().zip(asked) {
            for result in client.answer(id).await["results"].as_array().expect("results") {
                match result["status"] == "subscribed" {
                    true => granted += 1,
                    false => assert_eq!(result["error"]["code"], "room_limit", "{result}"),
                }
            }
        }
        assert_eq!(granted, 10, "in round {round}");
        for client in &clients {
            client.ask(json!({"type": "unsubscribe", "rooms": rooms})).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_names_of_a_room_lead_to_it_whichever_shards_they_are_on() {
    let server = start(&protocols("aliases", "")).await;
    let member = Live::connect(&server.url).await;
    let names = |n: usize| [format!("p{n}:c"), format!("P{n}:c"), format!("p{n}:C"), format!("P{n}:C")];
    for n in 0..ROOMS {
        member.subscribe(json!([names(n)[n % 4]])).await;
    }
    let publisher = Live::connect(&server.url).await;
    // In flight together, under all names in turn.
    let mut ids = vec![];
    for message in 0..20 {
        for n in 0..ROOMS {
            let room = &names(n)[message % 4];
            ids.push(publisher.request(json!({"type": "publish", "room": room, "data": message})));
        }
    }
    for id in ids {
        let answer = publisher.answer(id).await;
        assert_eq!(answer["type"], "published", "{answer}");
    }
    for n in 0..ROOMS {
        let room = format!("p{n}:c");
        member.message(&room, 20).await;
        let frames = member.frames();
        let in_room = frames.iter().filter(|frame| frame["type"] == "message" && frame["room"] == room);
        let data: Vec<_> = in_room.map(|frame| frame["data"].as_u64().expect("a number")).collect();
        assert_eq!(data, (0..20).collect::<Vec<_>>(), "{room}");
    }
    let again = member.ask(json!({"type": "subscribe", "rooms": ["NONE:c"]})).await;
    assert_eq!(error(&again).0, "room_invalid", "{again}");
}

/// Each shard had a quota of its own.
#[tokio::test(flavor = "multi_thread")]
async fn the_quota_of_filters_is_that_of_the_plugin() {
    let server = start(&plugin("quota", "hostile", "q:*", "budget = { memory = \"64MiB\" }")).await;
    let client = Live::connect(&server.url).await;
    let filter = |n: usize| json!({"pad": format!("{n:02}{}", "x".repeat(60_000))});
    let mut granted = 0;
    for n in 0..90 {
        let rooms = json!([{"room": format!("q:{n}"), "filter": filter(n)}]);
        let answer = client.ask(json!({"type": "subscribe", "rooms": rooms})).await;
        match answer["results"][0]["status"] == "subscribed" {
            true => granted += 1,
            false => assert_eq!(error(&answer).0, "room_limit", "{answer}"),
        }
    }
    // A principal may have as much of 8 MiB as it leaves free.
    assert_eq!(granted, ((8 << 20) / filter(0).to_string().len()).div_ceil(2));
    // What is used already needs no quota, whichever shard has it.
    for n in 100..120 {
        client.subscribe(json!([{"room": format!("q:{n}"), "filter": filter(n % granted)}])).await;
    }
}

/// Makes the plugin fail in different rooms, for each of these principals in turn, until one of them is told
/// that somebody is quarantined.
async fn fail_in_rooms(server: &Server, keys: &[&str]) -> String {
    let mut clients = vec![];
    for key in keys {
        clients.push(Client::connect_as(server, key).await);
    }
    for n in 0..30 {
        let client = &mut clients[n % keys.len()];
        let publish = json!({"type": "publish", "room": format!("f:{n}"), "data": {"do": "panic"}});
        let answer = client.ask(publish).await;
        let (code, message) = error(&answer);
        assert_eq!(code, "plugin_failed", "{answer}");
        if message.contains("quarantined") {
            assert_eq!(n, 5, "after five failures in all rooms together: {message}");
            return message.to_owned();
        }
    }
    panic!("nobody is quarantined");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_in_rooms_of_all_shards_quarantine_the_plugin() {
    let server = start(&plugin("fails", "hostile", "f:*", "")).await;
    let message = fail_in_rooms(&server, &MORE_KEYS).await;
    assert!(message.contains("plugin 'fails' is quarantined"), "{message}");
    let shown = server.get("/v1/plugins/fails").await;
    assert_eq!(shown["failures"]["panic"], 5, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_in_rooms_of_all_shards_quarantine_a_principal() {
    let server = start(&plugin("blames", "hostile", "f:*", "")).await;
    let message = fail_in_rooms(&server, &MORE_KEYS[..1]).await;
    assert!(message.contains("principal 'ann' is quarantined"), "{message}");
    let mut other = Client::connect_as(&server, MORE_KEYS[1]).await;
    for n in 0..ROOMS {
        other.publish(&format!("f:{n}"), json!({})).await;
    }
}

/// The two versions of the guest `stamp`, which differ in their verdicts on messages.
fn stamps() -> [Vec<u8>; 2] {
    let a = fs::read(guest("stamp")).expect("a guest");
    let place = (0..a.len()).find(|at| a[*at..].starts_with(b"stamp=A")).expect("the stamp");
    let mut b = a.clone();
    b[place + 6] = b'B';
    [a, b]
}

/// Each message goes to one of two members, and which one shows the version that decided. While a version is being
/// activated, messages are published one after another to rooms of different shards.
#[tokio::test(flavor = "multi_thread")]
async fn a_swap_changes_all_shards_at_once_and_loses_or_repeats_nothing() {
    const SWAPS: usize = 1000;
    let server = start(&plugin("stamps", "stamp", "r:*", "probation = \"0s\"")).await;
    let [mut even, mut odd] = [Client::connect(&server).await, Client::connect(&server).await];
    for (group, member) in [&mut even, &mut odd].into_iter().enumerate() {
        let rooms: Vec<_> =
            (0..8).map(|n| json!({"room": format!("r:{n}"), "filter": {"g": group}})).collect();
        member.subscribe(json!(rooms)).await;
    }
    let versions = stamps();
    let mut publisher = Client::connect(&server).await;
    let mut sent = [0u64; 8];
    let mut by_version = [0u64; 2];
    for swap in 0..SWAPS {
        let url = server.admin.clone();
        let code = versions[(swap + 1) % 2].clone();
        let swapping = tokio::spawn(async move {
            let path = "/v1/plugins/stamps";
            Answer::called(&url, "PUT", path, Some(KEY), code).await
        });
        let mut seen = vec![];
        loop {
            let is_last = swapping.is_finished();
            let room = seen.len() % 8;
            sent[room] += 1;
            let (name, n) = (format!("r:{room}"), sent[room]);
            publisher.publish(&name, json!({"n": n})).await;
            let (group, message) = tokio::select! {
                message = even.recv() => (0, message),
                message = odd.recv() => (1, message),
            };
            assert_eq!((&message["room"], &message["offset"]), (&json!(name), &json!(n)), "{message}");
            // The letter `A` is odd, so its version lets odd messages pass to the even group.
            let is_a = (group + n) % 2 == 1;
            seen.push(usize::from(!is_a));
            if is_last {
                break;
            }
        }
        let (status, body) = swapping.await.expect("no panic");
        assert_eq!(status, 200, "{body}");
        let changes = seen.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes <= 1, "the shards had different versions: {seen:?} in swap {swap}");
        assert_eq!(*seen.last().expect("one"), (swap + 1) % 2, "in swap {swap}");
        seen.into_iter().for_each(|version| by_version[version] += 1);
    }
    assert!(by_version.iter().all(|count| *count > 100), "{by_version:?}");
    for member in [&mut even, &mut odd] {
        // Nothing more has come.
        member.round_trip().await;
    }
}

/// A version without filters cannot replace one whose filters are in use, even if only one shard has some.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_one_shard_cannot_run_is_activated_on_none() {
    let server = start(&plugin("refuses", "threshold_filter", "t:*", "")).await;
    let member = Live::connect(&server.url).await;
    let rooms: Vec<_> = (0..ROOMS).map(|n| format!("t:{n}")).collect();
    member.subscribe(json!(rooms)).await;
    member.subscribe(json!([{"room": "t:0", "filter": {"minChange": 5}}])).await;
    let before = server.get("/v1/plugins/refuses").await["plugin"]["sha256"].clone();
    let other = fs::read(guest("keeper")).expect("a guest");
    let (status, body) = server.call("PUT", "/v1/plugins/refuses", Some(KEY), &other).await;
    assert_eq!(status, 409, "{body}");
    assert!(body.contains("it has no deliver hook, but 1 filters are in use"), "{body}");
    assert_eq!(server.get("/v1/plugins/refuses").await["plugin"]["sha256"], before);
    let mut publisher = Client::connect(&server).await;
    for room in &rooms {
        // The other plugin would answer in place of the message.
        let change = json!({"change": 7});
        let offset = publisher.publish(room, change.clone()).await["offset"].as_u64().expect("an offset");
        assert_eq!(member.message(room, offset).await["data"], change);
    }
    member.ask(json!({"type": "unsubscribe", "rooms": ["t:0"]})).await;
    let (status, body) = server.call("PUT", "/v1/plugins/refuses", Some(KEY), &other).await;
    assert_eq!(status, 200, "{body}");
}

/// Publishes 1, 2, 3… to each room in turn until it is told to stop, and returns how many.
async fn publish_numbers(
    url: String,
    rooms: Vec<String>,
    mut stop: tokio::sync::oneshot::Receiver<()>,
) -> u64 {
    let publisher = Live::connect(&url).await;
    let mut next = 1;
    while stop.try_recv().is_err() {
        let ids: Vec<_> = rooms
            .iter()
            .map(|room| publisher.request(json!({"type": "publish", "room": room, "data": {"n": next}})))
            .collect();
        for id in ids {
            let answer = publisher.answer(id).await;
            assert_eq!(answer["type"], "published", "{answer}");
        }
        next += 1;
    }
    next - 1
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_stay_open_and_lose_nothing_while_a_plugin_gets_more_or_fewer_shards() {
    let budget = |instances: usize| {
        plugin("resizes", "threshold_filter", "z:*", &format!("budget = {{ instances = {instances} }}"))
    };
    let server = start(&budget(1)).await;
    let [all, filtered] = [Live::connect(&server.url).await, Live::connect(&server.url).await];
    let rooms: Vec<_> = (0..8).map(|n| format!("z:{n}")).collect();
    all.subscribe(json!(rooms)).await;
    let with_filter = |room: &String| json!({"room": room, "filter": {"minChange": 5}});
    filtered.subscribe(json!(rooms.iter().map(with_filter).collect::<Vec<_>>())).await;
    assert_eq!(threads("resizes"), 1);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let publishing = tokio::spawn(publish_numbers(server.url.clone(), rooms.clone(), stopped));
    for instances in [2, 1, 8, 1, 2] {
        server.reconfigure(&format!("{}{}{}", Server::keys(), Server::more_keys(), budget(instances)));
        eventually("other shards", async || (threads("resizes") == instances.min(cores())).then_some(()))
            .await;
        // Beyond the change.
        let next = all.offsets("z:7").len() as u64 + 3;
        all.message("z:7", next).await;
    }
    stop.send(()).expect("it runs");
    let last = publishing.await.expect("no refusal");
    for room in &rooms {
        all.message(room, last).await;
        assert_eq!(all.offsets(room), (1..=last).collect::<Vec<_>>(), "{room}");
    }
    let mut publisher = Client::connect(&server).await;
    for room in &rooms {
        publisher.publish(room, json!({"change": 9})).await;
        filtered.message(room, last + 1).await;
        assert_eq!(filtered.offsets(room), [last + 1], "its filter was kept");
    }
}
