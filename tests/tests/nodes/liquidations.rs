//! An operator's work from end to end: a plugin for liquidations is added to two running nodes, changed in every way
//! and removed, while clients publish to its rooms and follow them. Nothing is lost, and nothing leaks.

use super::stored_plugins::run_command;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use switchyard_tests::{
    Answer, EVENT_TIMEOUT, Follower, KEY, Live, Node, Received, Redis, Server, eventually, exposition, guest,
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

const ROOMS: [&str; 4] = [
    "liquidations:ethereum:aave-v3",
    "liquidations:ethereum:compound",
    "liquidations:base:aave-v3",
    "liquidations:base:compound",
];
const PUBLISHERS: usize = 4;
/// Between two messages of a publisher.
const PAUSE: Duration = Duration::from_millis(10);
/// How many messages each publisher sends between two steps of the operator, at least. Among them is the repeated
/// wallet in every room.
const MESSAGES_BETWEEN_STEPS: usize = 20;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// How the plugin shows a wallet: the character of the mask, and the digits at each end. `None` without the plugin.
type Style = Option<(char, usize)>;

/// What the operator does, and how wallets appear from then on, in rooms of Ethereum and of Base.
const STEPS: [(&str, Style, Style); 8] = [
    ("nothing", None, None),
    ("add", Some(('*', 4)), Some(('*', 4))),
    ("configure", Some(('*', 6)), Some(('*', 6))),
    ("narrow the rooms", Some(('*', 6)), None),
    ("widen the rooms", Some(('*', 6)), Some(('*', 6))),
    ("load", Some(('#', 6)), Some(('#', 6))),
    ("rollback", Some(('*', 6)), Some(('*', 6))),
    ("remove", None, None),
];
// Indices of steps.
const ADD: usize = 1;
const CONFIGURE: usize = 2;
const NARROW: usize = 3;
const ROLLBACK: usize = 6;
const REMOVE: usize = 7;

fn style(step: usize, room: &str) -> Style {
    let (_, ethereum, base) = STEPS[step];
    if room.contains(":ethereum:") { ethereum } else { base }
}

/// An event as members receive it.
fn shown(event: &Value, style: Style) -> Value {
    let mut event = event.clone();
    if let Some((mask, digits)) = style {
        let wallet = event["wallet"].as_str().expect("a wallet");
        let mask = mask.to_string().repeat(4);
        event["wallet"] = format!("{}{mask}{}", &wallet[..2 + digits], &wallet[42 - digits..]).into();
    }
    event
}

fn is_masked(event: &Value) -> bool {
    event["wallet"].as_str().is_some_and(|wallet| wallet.contains(['*', '#']))
}

/// What the operator has done so far.
#[derive(Default)]
struct Progress {
    begun: AtomicUsize,
    done: AtomicUsize,
    end: CancellationToken,
}

/// A message that was accepted.
struct Published {
    room: &'static str,
    event: Value,
    /// The steps after which it can have been judged: from the last one that was done when it was sent, to the
    /// last one that had begun when the answer came.
    steps: RangeInclusive<usize>,
    answer: Value,
}

impl Published {
    fn is_discarded(&self) -> bool {
        self.answer["discarded"] == true
    }
}

/// Publishes events through a node without a break.
struct Publisher {
    task: JoinHandle<Vec<Published>>,
    accepted: watch::Receiver<usize>,
}

impl Publisher {
    async fn start(node: &Node, number: usize, progress: Arc<Progress>) -> Self {
        let client = Live::connect(&node.url).await;
        let (count, accepted) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut published = vec![];
            while !progress.end.is_cancelled() {
                published.push(publish(&client, number, published.len(), &progress).await);
                count.send_replace(published.len());
                tokio::time::sleep(PAUSE).await;
            }
            published
        });
        Self { task, accepted }
    }

    /// Waits until it has published more.
    async fn publishes_more(&mut self) {
        let enough = *self.accepted.borrow() + MESSAGES_BETWEEN_STEPS;
        let more = self.accepted.wait_for(|accepted| *accepted >= enough);
        timeout(EVENT_TIMEOUT, more).await.expect("more messages in time").expect("a publisher");
    }
}

/// The wallet that all publishers of a node repeat.
fn repeated_wallet(node: usize) -> String {
    format!("0x{:040x}", u128::MAX - node as u128)
}

/// Publishes an event until it is accepted. Because of its key, it is stored once.
async fn publish(client: &Live, publisher: usize, n: usize, progress: &Progress) -> Published {
    let id = n * PUBLISHERS + publisher;
    let wallet = match n % 5 == 4 {
        true => repeated_wallet(publisher % 2),
        false => format!("0x{id:08x}{:024}{id:08x}", 0),
    };
    let (asset, health) = (["WETH", "WBTC", "USDC"][n % 3], if n.is_multiple_of(2) { 0.75 } else { 1.25 });
    let usd = (n % 100) as f64 + 0.5;
    let event = json!({"id": id, "wallet": wallet, "asset": asset, "usd": usd, "health": health});
    let room = ROOMS[n % ROOMS.len()];
    let request = json!({"type": "publish", "room": room, "key": id.to_string(), "data": event});
    let done = progress.done.load(SeqCst);
    let answer = eventually("an accepted message", async || {
        let answer = client.ask(request.clone()).await;
        let is_published = answer["type"] == "published";
        assert!(is_published || answer["error"]["retryAfter"].is_u64(), "{answer}");
        is_published.then_some(answer)
    })
    .await;
    Published { room, event, steps: done..=progress.begun.load(SeqCst), answer }
}

/// The messages of each room, by offset.
type Stored<'a> = BTreeMap<&'a str, BTreeMap<u64, &'a Published>>;

fn by_offset(published: &[Published]) -> Stored<'_> {
    let mut stored = Stored::new();
    for message in published.iter().filter(|message| !message.is_discarded()) {
        let offset = message.answer["offset"].as_u64().expect("an offset");
        let before = stored.entry(message.room).or_default().insert(offset, message);
        assert!(before.is_none(), "two messages at {offset}: {}", message.answer);
    }
    for (room, messages) in &stored {
        assert!(messages.keys().copied().eq(1..=messages.len() as u64), "{room}: not all offsets");
    }
    stored
}

/// A client that follows rooms until the end.
struct Member {
    name: String,
    follower: Follower,
    passes: fn(&Value) -> bool,
    /// The rooms that it has to leave, and the step because of which.
    leaves: Vec<(&'static str, usize)>,
}

impl Member {
    async fn join(node: &Node, key: &str, rooms: &[&'static str], filter: Value) -> Self {
        let entry = |room| match filter.is_null() {
            true => json!({"room": room}),
            false => json!({"room": room, "filter": filter}),
        };
        let follower =
            Follower::start_with(vec![node.url.clone()], key, rooms.iter().map(entry).collect()).await;
        assert_eq!(follower.received().joined.len(), rooms.len(), "{:?}", follower.received());
        Self { name: format!("'{key}' at {}", node.url), follower, passes: |_| true, leaves: vec![] }
    }

    /// Waits for everything that it should receive, and checks that it received just that. Returns it.
    async fn received(&self, stored: &Stored<'_>) -> Received {
        let name = &self.name;
        for (room, joined) in self.follower.received().joined {
            let later = stored[&*room].range(joined + 1..);
            let expected: Vec<_> = later.filter(|(_, message)| (self.passes)(&message.event)).collect();
            let offsets = || expected.iter().map(|(offset, _)| **offset);
            let order = || self.follower.received().order.remove(&room).unwrap_or_default();
            let Some((_, step)) = self.leaves.iter().find(|(left, _)| *left == room) else {
                self.follower.has(&room, expected.len(), EVENT_TIMEOUT).await;
                assert!(order().into_iter().eq(offsets()), "{name} in {room}: {:?}", order());
                continue;
            };
            eventually(&format!("{name} leaves {room}"), async || {
                self.follower.received().refused.iter().any(|result| result["room"] == room).then_some(())
            })
            .await;
            let order = order();
            assert!(order.iter().copied().eq(offsets().take(order.len())), "{name} in {room}: {order:?}");
            let before = expected.iter().filter(|(_, message)| message.steps.end() < step).count();
            assert!(order.len() >= before, "{name} in {room}: {} of {before} before it left", order.len());
        }
        let received = self.follower.received();
        assert!(received.wrong.is_empty() && received.losses.is_empty(), "{name}: {received:?}");
        assert_eq!((received.repeats, received.connections), (0, 1), "{name}");
        assert!(received.refused.iter().all(|result| result["status"] == "removed"), "{received:?}");
        let mut left: Vec<_> = received.refused.iter().map(|result| result["room"].as_str()).collect();
        left.sort();
        let mut expected: Vec<_> = self.leaves.iter().map(|(room, _)| Some(*room)).collect();
        expected.sort();
        assert_eq!(left, expected, "{name}: {:?}", received.refused);
        received
    }
}

/// The plugin's counter on a node, as a collector reads it.
async fn suppressed(admin: &str) -> f64 {
    let (_, text) = Answer::called(admin, "GET", "/metrics", Some(KEY), "").await;
    let families = exposition::parse(&text).expect("valid metrics");
    let family = families.get("switchyard_guest_liquidations_suppressed").expect("the plugin's counter");
    assert_eq!(family.samples.len(), 1, "{:?}", family.samples);
    family.samples[0].value
}

/// Reads the counter again and again, until told to stop. Returns what it was.
fn watch_counter(node: &Node, stop: CancellationToken) -> JoinHandle<Vec<f64>> {
    let admin = node.process.admin.clone();
    tokio::spawn(async move {
        let mut values = vec![];
        while !stop.is_cancelled() {
            values.push(suppressed(&admin).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        values
    })
}

/// What the plugin refuses, on a node.
async fn the_plugin_refuses(node: &Node) {
    let pro = Live::connect_with(&node.url, json!({"auth": {"apiKey": "pro"}})).await;
    let rooms: Vec<_> = (1..=21).map(|n| format!("liquidations:chain-{n}:morpho")).collect();
    let joined = pro.ask(json!({"type": "subscribe", "rooms": rooms})).await;
    for result in &joined["results"].as_array().expect("results")[..20] {
        assert_eq!(result["status"], "subscribed", "{joined}");
    }
    assert_eq!(joined["results"][20]["error"]["code"], "room_limit", "{joined}");
    let free = Live::connect_with(&node.url, json!({"auth": {"apiKey": "free"}})).await;
    let joined = free.ask(json!({"type": "subscribe", "rooms": ["Liquidations:Base:Aave-V3"]})).await;
    assert_eq!(joined["results"][0]["error"]["code"], "room_rejected", "{joined}");
    let publisher = Live::connect(&node.url).await;
    let wallet = format!("0x{:040}", 1);
    for (event, expected) in [
        (
            json!({"id": 1, "wallet": "0x12", "asset": "A", "usd": 1, "health": 1}),
            "data.wallet must be 0x and 40",
        ),
        (json!({"id": 1, "wallet": wallet, "asset": "A", "usd": "1", "health": 1}), "data.usd"),
        (json!({"id": 1, "wallet": wallet, "asset": "A", "usd": 1}), "health"),
        (json!({"id": 1, "wallet": wallet, "asset": "A", "usd": 1, "health": 1, "x": 1}), "x"),
    ] {
        let refused = publisher.ask(json!({"type": "publish", "room": ROOMS[1], "data": event})).await;
        assert_eq!(refused["error"]["code"], "message_rejected", "{refused}");
        let message = refused["error"]["message"].as_str().expect("a message");
        assert!(message.contains(expected), "'{expected}' is not in: {message}");
    }
}

/// The plugin's file, and another version of it.
fn versions(folder: &std::path::Path) -> [String; 2] {
    let mut code = fs::read(guest("liquidations")).expect("a guest");
    let at = code.windows(9).position(|bytes| bytes == b"mask=****").expect("the mask");
    code[at + 5..at + 9].copy_from_slice(b"####");
    let other = folder.join("other.wasm");
    fs::write(&other, code).expect("a file");
    [guest("liquidations"), other].map(|file| file.to_string_lossy().into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_added_changed_and_removed_under_load_without_a_loss_or_a_leak() {
    let tiers = ["pro", "free"].map(|tier| {
        let key = Server::key(tier, tier, r#"["subscribe"]"#, &format!("tier = \"{tier}\""));
        format!("[tier.{tier}]\nrooms = 100\n{key}")
    });
    let redis = Redis::start().await;
    let nodes =
        [Node::start(&redis.url(), &tiers.concat()).await, Node::start(&redis.url(), &tiers.concat()).await];
    let [one, two] = &nodes;
    let progress = Arc::new(Progress::default());
    let mut publishers = vec![];
    for number in 0..PUBLISHERS {
        publishers.push(Publisher::start(&nodes[number % 2], number, progress.clone()).await);
    }
    let mut members = vec![];
    for node in &nodes {
        members.push(Member::join(node, "pro", &ROOMS, Value::Null).await);
        let free = Member::join(node, "free", &ROOMS[..2], Value::Null).await;
        members.push(Member { leaves: vec![(ROOMS[0], ADD)], ..free });
    }
    let mut flow = async || {
        for publisher in &mut publishers {
            publisher.publishes_more().await;
        }
    };
    flow().await;
    let [code, other_code] = versions(one.folder());
    let run = async |node: &Node, arguments: &[&str]| {
        let step = progress.begun.fetch_add(1, SeqCst) + 1;
        let done = timeout(COMMAND_TIMEOUT, run_command(node, arguments)).await;
        done.unwrap_or_else(|_| panic!("{} took longer than {COMMAND_TIMEOUT:?}", STEPS[step].0));
        if step == CONFIGURE {
            // The other node takes settings over a moment later, and masks wallets as before until then.
            eventually("the same settings", async || {
                let digest =
                    async |node: &Node| node.get("/v1/plugins/liquidations").await["config_digest"].clone();
                (digest(one).await == digest(two).await).then_some(())
            })
            .await;
        }
        progress.done.store(step, SeqCst);
    };

    let all_rooms = "liquidations:**,liquidations";
    // A window that is longer than the test.
    let config = r#"{"walletWindowMs":3600000}"#;
    run(one, &["add", "liquidations", &code, "--rooms", all_rooms, "--config", config]).await;
    let filter = json!({"minUsd": 20, "assets": ["WETH", "USDC"], "healthBelow": 1});
    let passes = |event: &Value| {
        event["usd"].as_f64() >= Some(20.0) && event["health"] == 0.75 && event["asset"] != "WBTC"
    };
    for node in &nodes {
        let member = Member::join(node, "pro", &[ROOMS[0], ROOMS[2]], filter.clone()).await;
        // Rooms without a plugin have no filters.
        let leaves = vec![(ROOMS[0], REMOVE), (ROOMS[2], NARROW)];
        members.push(Member { passes, leaves, ..member });
        the_plugin_refuses(node).await;
    }
    flow().await;
    let end_of_counter = CancellationToken::new();
    let counters = [one, two].map(|node| watch_counter(node, end_of_counter.clone()));
    let config = r#"{"walletWindowMs":3600000,"visibleDigits":6}"#;
    run(two, &["configure", "liquidations", "--config", config]).await;
    flow().await;
    run(one, &["configure", "liquidations", "--rooms", "liquidations:ethereum:*", "--open"]).await;
    flow().await;
    run(two, &["configure", "liquidations", "--rooms", all_rooms]).await;
    flow().await;
    run(one, &["load", "liquidations", &other_code]).await;
    flow().await;
    run(two, &["rollback", "liquidations"]).await;
    flow().await;
    end_of_counter.cancel();
    let mut counted = 0.0;
    for counter in counters {
        let values = counter.await.expect("a counter that is always shown");
        assert!(values.is_sorted(), "it fell: {values:?}");
        counted += values.last().expect("a value");
    }
    run(one, &["remove", "liquidations", "--open"]).await;
    flow().await;

    progress.end.cancel();
    let mut published = vec![];
    for publisher in publishers {
        published.extend(publisher.task.await.expect("a publisher"));
    }
    let stored = by_offset(&published);
    let mut seen = Seen::new();
    for member in &members {
        let received = member.received(&stored).await;
        look_at(member, received, &stored, &mut seen);
    }
    the_plugin_changed_between_two_messages(&seen);
    repeated_wallets_appeared_once(&published, &seen);
    let discarded: Vec<_> = published.iter().filter(|message| message.is_discarded()).collect();
    let wallets = [0, 1].map(repeated_wallet);
    let is_repeated = |message: &Published| wallets.iter().any(|wallet| message.event["wallet"] == **wallet);
    assert!(discarded.iter().copied().all(is_repeated), "a message was lost");
    let before_rollback = discarded.iter().filter(|message| *message.steps.end() < ROLLBACK).count();
    assert!(counted >= before_rollback as f64, "{counted} of {before_rollback}");
}

/// The events that members have received.
type Seen = BTreeMap<(String, u64), Value>;

/// Checks that a member saw each wallet as the plugin showed it at that time.
fn look_at(member: &Member, received: Received, stored: &Stored<'_>, seen: &mut Seen) {
    for ((room, offset), event) in received.messages {
        let message = stored[&*room][&offset];
        let mut styles = message.steps.clone().map(|step| style(step, &room));
        assert!(
            styles.any(|style| shown(&message.event, style) == event),
            "{} received {event} of {room}, which was published after the steps {:?}",
            member.name,
            message.steps
        );
        match member.leaves.iter().find(|(left, _)| *left == room) {
            Some((_, ADD)) => assert!(!is_masked(&event), "{} received {event}", member.name),
            Some(_) => assert!(is_masked(&event), "{} received {event}", member.name),
            None => {}
        }
        let first = seen.entry((room, offset)).or_insert_with(|| event.clone());
        assert_eq!(*first, event, "members received different messages");
    }
}

fn the_plugin_changed_between_two_messages(seen: &Seen) {
    for room in ROOMS {
        let messages = seen.iter().filter(|((seen, _), _)| seen == room);
        let mut runs: Vec<_> = messages.map(|(_, event)| is_masked(event)).collect();
        runs.dedup();
        let mut expected: Vec<_> = (0..STEPS.len()).map(|step| style(step, room).is_some()).collect();
        expected.dedup();
        assert_eq!(runs, expected, "{room}: whether messages were masked, in their order");
    }
}

/// As long as the plugin was there, through all its versions and settings. Each node counts for itself.
fn repeated_wallets_appeared_once(published: &[Published], seen: &Seen) {
    for wallet in [0, 1].map(repeated_wallet) {
        let repeating = published.iter().filter(|message| message.event["wallet"] == *wallet);
        let (discarded, stored): (Vec<_>, Vec<_>) = repeating.partition(|message| message.is_discarded());
        let passed = stored.iter().filter(|message| {
            let offset = message.answer["offset"].as_u64().expect("an offset");
            is_masked(&seen[&(message.room.to_owned(), offset)])
        });
        assert_eq!(passed.count(), 1, "messages of {wallet} that the plugin let through");
        for (step, (name, ..)) in STEPS.iter().enumerate().take(REMOVE).skip(ADD) {
            let suppressed = discarded.iter().any(|message| message.steps == (step..=step));
            assert!(suppressed, "{wallet} was not suppressed after '{name}'");
        }
    }
}
