//! Versions of plugins on many nodes: a version that is loaded on one runs on all, a node that cannot run it
//! says so, and concurrent loads end in one version.

use serde_json::{Value, json};
use std::{
    cell::Cell,
    fs,
    time::{Duration, Instant},
};
use switchyard_tests::{
    Answer, Client, KEY, MORE_KEYS, Node, Proxy, Redis, Server, eventually, eventually_within, guest, plugin,
    replace_file,
};

const PATH: &str = "/v1/plugins/thresholds";

/// Variant `n` of a plugin file. All variants have the same behaviour.
fn code(n: u8) -> Vec<u8> {
    let mut module = fs::read(guest("threshold_filter")).expect("a guest");
    module.extend([0, 3, 1, b'n', n]);
    module
}

fn folder(redis: &Redis, more: &str) -> tempfile::TempDir {
    let plugin =
        format!("[[plugin]]\nname = \"thresholds\"\nfile = \"plugin.wasm\"\nrooms = [\"tvl\"]\n{more}");
    let folder = Node::create_folder(&redis.url(), &plugin);
    fs::write(folder.path().join("plugin.wasm"), code(0)).expect("a file");
    folder
}

async fn put(admin: &str, code: Vec<u8>) -> Value {
    let (status, body) = Answer::called(admin, "PUT", PATH, Some(KEY), code).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

fn digest(plugin: &Value) -> String {
    plugin["plugin"]["sha256"].as_str().unwrap_or_else(|| panic!("{plugin}")).to_owned()
}

/// Waits until a node runs that version.
async fn runs(node: &Node, sha256: &str) -> Value {
    eventually("a version on another node", async || {
        let plugin = node.get(PATH).await;
        (plugin["plugin"]["sha256"] == sha256).then_some(plugin)
    })
    .await
}

#[tokio::test]
async fn a_version_reaches_all_nodes_and_survives_their_restart() {
    let redis = Redis::start().await;
    let one = Node::start_in(folder(&redis, "")).await;
    let two = Node::start_in(folder(&redis, "")).await;
    let mut member = two.client().await;
    member.subscribe(json!([{"room": "tvl", "filter": {"minChange": 5}}])).await;
    let first = digest(&one.get(PATH).await);

    let put = put(&one.process.admin, code(1)).await;
    let second = digest(&put);
    assert_eq!(put["versions"][0]["by"], "acme");
    assert_eq!(runs(&two, &second).await["generation"], put["generation"]);
    // Each node knows what every node runs.
    eventually("reports", async || {
        let plugin = one.get(PATH).await;
        let nodes = plugin["nodes"].as_array().unwrap_or_else(|| panic!("{plugin}"));
        let run: Vec<_> = nodes.iter().filter(|node| node["sha256"] == second.as_str()).collect();
        (run.len() == 2 && run[0]["host"] != run[1]["host"]).then_some(())
    })
    .await;
    let mut publisher = one.client().await;
    publisher.publish("tvl", json!({"change": 1})).await;
    publisher.publish("tvl", json!({"change": 9})).await;
    assert_eq!(member.expect("message").await["data"]["change"], 9, "filters went along");

    // The other nodes know the file of a node that starts, so that node follows them. A file that no node has
    // seen is a new version.
    let three = Node::start_in(folder(&redis, "")).await;
    assert_eq!(digest(&three.get(PATH).await), second);
    let newer = folder(&redis, "");
    replace_file(&newer.path().join("plugin.wasm"), code(2));
    let four = Node::start_in(newer).await;
    let third = digest(&four.get(PATH).await);
    assert!(third != first && third != second);
    for node in [&one, &two, &three] {
        runs(node, &third).await;
    }
    // A changed file is loaded like any other version, and a rollback applies to all nodes.
    replace_file(&two.folder().join("plugin.wasm"), code(3));
    let fourth =
        eventually("the file", async || Some(digest(&two.get(PATH).await)).filter(|d| *d != third)).await;
    runs(&three, &fourth).await;
    let (status, body) = three.call("POST", &format!("{PATH}/rollback?to={}", &first[..20]), "").await;
    assert_eq!(status, 200, "{body}");
    for node in [&one, &two, &four] {
        runs(node, &first).await;
    }
}

#[tokio::test]
async fn a_node_that_cannot_run_a_version_reports_it_and_keeps_the_old_one() {
    let redis = Redis::start().await;
    let one = Node::start_in(folder(&redis, "")).await;
    let sha256 = digest(&one.get(PATH).await);
    let pinned = Node::start_in(folder(&redis, &format!("sha256 = \"{sha256}\""))).await;
    let second = digest(&put(&one.process.admin, code(1)).await);
    let report = eventually("a report", async || {
        let plugin = one.get(PATH).await;
        plugin["nodes"].as_array()?.iter().find_map(|node| node["behind"].as_str().map(str::to_owned))
    })
    .await;
    assert!(report.contains("the configuration pins"), "{report}");
    let plugin = pinned.get(PATH).await;
    assert_eq!((digest(&plugin), &plugin["state"]), (sha256, &json!("active")));
    let failed =
        plugin["versions"].as_array().unwrap().iter().find(|version| version["sha256"] == second.as_str());
    assert_eq!(failed.expect("known")["state"], "failed", "{plugin}");
    // The command line waits for all nodes and reports those that do not follow.
    fs::write(one.folder().join("three.wasm"), code(3)).expect("a file");
    let load = ["plugin", "load", "thresholds", "three.wasm", "--admin", &one.process.admin];
    let output = switchyard_tests::run(one.folder(), &load, &[("SWITCHYARD_KEY", KEY)]).await;
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success()
            && printed.contains("do not run the active version: ")
            && printed.contains("plugin list thresholds"),
        "{printed}"
    );
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.lines().any(|line| line.starts_with("  on ") && line.contains("pins")), "{printed}");
}

#[tokio::test]
async fn concurrent_loads_end_in_one_version_everywhere() {
    let redis = Redis::start().await;
    let one = Node::start_in(folder(&redis, "")).await;
    let two = Node::start_in(folder(&redis, "")).await;
    for round in 0..3 {
        let (a, b) = tokio::join!(
            put(&one.process.admin, code(10 + round)),
            put(&two.process.admin, code(20 + round))
        );
        let (a, b) = (digest(&a), digest(&b));
        eventually("one version", async || {
            let (on_one, on_two) = (one.get(PATH).await, two.get(PATH).await);
            let same = digest(&on_one) == digest(&on_two) && on_one["generation"] == on_two["generation"];
            let settled = on_one["generation"] == 3 + 2 * u64::from(round);
            assert!([&a, &b].contains(&&digest(&on_one)) || !settled, "{on_one}");
            (same && settled).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_version_that_fails_on_one_node_is_rolled_back_on_all() {
    let redis = Redis::start().await;
    let one = Node::start_in(folder(&redis, &Server::more_keys())).await;
    let two = Node::start_in(folder(&redis, &Server::more_keys())).await;
    let first = digest(&one.get(PATH).await);
    let hostile = digest(&put(&one.process.admin, fs::read(guest("hostile")).expect("a guest")).await);
    runs(&two, &hostile).await;
    // Of several principals, because one alone cannot make the version be withdrawn.
    for (key, times) in [(KEY, 3), (MORE_KEYS[0], 1), (MORE_KEYS[1], 1)] {
        let mut client = Client::connect_at(&two.url, json!({"auth": {"apiKey": key}})).await;
        for _ in 0..times {
            let answer = client.ask(json!({"type": "publish", "room": "tvl", "data": {"do": "panic"}})).await;
            assert_eq!(answer["error"]["code"], "plugin_failed", "{answer}");
        }
    }
    for node in [&one, &two] {
        let plugin = runs(node, &first).await;
        let reason = plugin["versions"][0]["reason"].as_str().unwrap_or_else(|| panic!("{plugin}"));
        assert!(reason.contains("misdeed.rs:"), "{reason}");
    }
    // A node whose file is the withdrawn version does not start with it.
    let stale = folder(&redis, "");
    replace_file(&stale.path().join("plugin.wasm"), fs::read(guest("hostile")).expect("a guest"));
    let three = Node::start_in(stale).await;
    assert_eq!(digest(&three.get(PATH).await), first);
}

/// While Redis is away, nothing is loaded, because the other nodes would not know of it.
#[tokio::test]
async fn without_the_store_nothing_is_loaded() {
    let redis = Redis::start().await;
    let one = Node::start_in(folder(&redis, "")).await;
    let first = digest(&one.get(PATH).await);
    drop(redis);
    let (status, body) = Answer::called(&one.process.admin, "PUT", PATH, Some(KEY), code(1)).await;
    assert!(status == 503 && body.contains("store_unavailable"), "{status} {body}");
    assert_eq!(digest(&one.get(PATH).await), first);
}

#[tokio::test]
async fn a_node_without_a_valid_file_runs_the_active_version() {
    let redis = Redis::start().await;
    let one = Node::start_in(folder(&redis, "")).await;
    let first = digest(&one.get(PATH).await);
    let without = folder(&redis, "");
    fs::remove_file(without.path().join("plugin.wasm")).expect("it was there");
    let two = Node::start_in(without).await;
    assert_eq!(digest(&two.get(PATH).await), first);
}

/// One of two plugins takes 20 s to load on the second node. The other plugin follows at once, and the node
/// reports both.
#[tokio::test]
async fn a_plugin_that_loads_slowly_delays_no_other() {
    let redis = Redis::start().await;
    let start = async |slow: &str| {
        let plugins = format!(
            "[[plugin]]\nname = \"slow\"\nfile = \"slow.wasm\"\nrooms = [\"slow\"]\n{slow}\
             [[plugin]]\nname = \"thresholds\"\nfile = \"plugin.wasm\"\nrooms = [\"tvl\"]\n"
        );
        let folder = Node::create_folder(&redis.url(), &plugins);
        fs::write(folder.path().join("plugin.wasm"), code(0)).expect("a file");
        Node::start_in(folder).await
    };
    let one = start("").await;
    let two = start("config = { init = \"loop\" }\nbudget = { call = \"2s\" }\n").await;
    let hostile = fs::read(guest("hostile")).expect("a guest");
    let (status, body) =
        Answer::called(&one.process.admin, "PUT", "/v1/plugins/slow", Some(KEY), hostile).await;
    assert_eq!(status, 200, "{body}");
    let is_loading = async || two.get("/v1/plugins/slow").await["state"] == "loading";
    eventually("a plugin that is being loaded", async || is_loading().await.then_some(())).await;

    let second = digest(&put(&one.process.admin, code(1)).await);
    runs(&two, &second).await;
    eventually("a report", async || {
        let plugin = one.get(PATH).await;
        let nodes = plugin["nodes"].as_array().unwrap_or_else(|| panic!("{plugin}"));
        (nodes.iter().filter(|node| node["sha256"] == second.as_str()).count() == 2).then_some(())
    })
    .await;
    assert!(is_loading().await, "all of that was while the plugin was being loaded");
}

/// Regression: after `FLUSHALL` the counters started again. A node that started activated its own file, the
/// others kept theirs, and every later change seemed older than what they knew.
#[tokio::test]
async fn versions_lost_by_the_store_are_rewritten_and_one_is_active_everywhere() {
    let redis = Redis::start().await;
    let one = Node::start_in(folder(&redis, "")).await;
    let two = Node::start_in(folder(&redis, "")).await;
    let second = digest(&put(&one.process.admin, code(1)).await);
    let third = digest(&put(&one.process.admin, code(2)).await);
    runs(&two, &third).await;
    redis.command(&["FLUSHALL"]).await;
    let three = Node::start_in(folder(&redis, "")).await;
    // With its code, which the store had lost too.
    runs(&three, &third).await;
    for node in [&one, &two] {
        assert_eq!(digest(&node.get(PATH).await), third);
    }
    let fourth = digest(&put(&three.process.admin, code(3)).await);
    for node in [&one, &two] {
        runs(node, &fourth).await;
    }
    let (status, body) = two.call("POST", &format!("{PATH}/rollback?to={}", &second[..20]), "").await;
    assert_eq!(status, 200, "{body}");
    for node in [&one, &three] {
        runs(node, &second).await;
    }
}

/// Regression: nodes compared only generations. A new sequence caught up with a lost one, and each node kept
/// its own version.
#[tokio::test]
async fn of_two_versions_of_one_generation_one_is_active_everywhere() {
    let redis = Redis::start().await;
    let one = Node::start_in(folder(&redis, "")).await;
    let first = digest(&one.get(PATH).await);
    one.process.signal("STOP").await;
    redis.command(&["FLUSHALL"]).await;
    let other = folder(&redis, "");
    replace_file(&other.path().join("plugin.wasm"), code(1));
    let two = Node::start_in(other).await;
    let second = digest(&two.get(PATH).await);
    assert_ne!(first, second);
    one.process.signal("CONT").await;
    runs(&one, &second).await;
    // A version that is loaded right after everything was forgotten comes after those that nodes know.
    redis.command(&["FLUSHALL"]).await;
    let third = digest(&put(&two.process.admin, code(2)).await);
    runs(&one, &third).await;
    assert_eq!(digest(&two.get(PATH).await), third);
}

/// The same plugin, larger by this many bytes.
fn large_code(n: u8, size: usize) -> Vec<u8> {
    let mut module = code(n);
    let mut section = vec![4, b'l', b'o', b'a', b'd'];
    section.resize(size, n);
    // The length as LEB128, with at most 28 bits.
    let length =
        [0, 7, 14, 21].map(|bits| (section.len() >> bits) as u8 & 0x7f | if bits < 21 { 0x80 } else { 0 });
    module.push(0);
    module.extend(length);
    module.extend(section);
    module
}

/// Regression: all the code of a plugin was sent in one command, and that of all its versions when a store
/// had forgotten them. Whatever took longer than a command's time limit was cut off and started again every 5
/// s, and all other commands waited behind it.
#[tokio::test]
async fn slow_uploads_of_code_complete_and_block_nothing() {
    const SIZE: usize = 6 << 20;
    let redis = Redis::start().await;
    let proxy = Proxy::start(&redis).await;
    let one = Node::start_in(folder(&redis, "")).await;
    // Each version takes 2 s in both directions, and a command may take 1.5 s.
    let slow = folder(&redis, "");
    let file = slow.path().join("switchyard.toml");
    let text = fs::read_to_string(&file).expect("a configuration");
    fs::write(&file, text.replace(&redis.url(), &proxy.url())).expect("a configuration");
    let two = Node::start_in(slow).await;
    let first = digest(&two.get(PATH).await);
    runs(&one, &first).await;
    proxy.slow(3 << 20);

    // Throughout, a publishing client gets each answer soon.
    let meanwhile = async |what: &str, done: &Cell<bool>| {
        let (mut slowest, body) = (Duration::ZERO, json!({"room": "free", "data": 1}).to_string());
        while !done.get() {
            let asked = Instant::now();
            let (status, answer) = two.call("POST", "/v1/publish", &body).await;
            assert_eq!(status, 200, "{answer}");
            slowest = slowest.max(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(slowest < Duration::from_millis(1500), "{what}: {slowest:?}");
    };
    let is_done = Cell::new(false);
    let versions = async {
        let second = digest(&put(&two.process.admin, large_code(1, SIZE)).await);
        let third = digest(&put(&two.process.admin, large_code(2, SIZE)).await);
        is_done.set(true);
        (second, third)
    };
    let ((second, third), ()) = tokio::join!(versions, meanwhile("while it is written", &is_done));
    runs(&one, &third).await;

    // Of the nodes that know what was forgotten, only the distant one is running.
    one.process.signal("STOP").await;
    is_done.set(false);
    redis.command(&["FLUSHALL"]).await;
    let kept = async |sha256: &str| {
        redis.command(&["STRLEN", &format!("switchyard:{{/plugins}}:code:thresholds:{sha256}")]).await
    };
    let restored = async {
        eventually_within(Duration::from_secs(20), "both versions", async || {
            let sizes = (kept(&second).await, kept(&third).await);
            (sizes.0 == sizes.1 && sizes.0.parse::<usize>().ok()? > SIZE).then_some(())
        })
        .await;
        is_done.set(true);
    };
    tokio::join!(restored, meanwhile("while it is written again", &is_done));
    // What a killed node had in flight stays for a minute. By then it has written the small first version as
    // well.
    eventually("the first version", async || (kept(&first).await != "0").then_some(())).await;
    let nothing_on_its_way = async || {
        eventually("nothing is left of what was on its way", async || {
            redis.command(&["KEYS", "*upload*"]).await.is_empty().then_some(())
        })
        .await;
    };
    nothing_on_its_way().await;
    one.process.signal("CONT").await;
    // From the store, over the slow connection: this node has compiled neither.
    drop(two);
    let other = folder(&redis, "");
    let file = other.path().join("switchyard.toml");
    let text = fs::read_to_string(&file).expect("a configuration");
    fs::write(&file, text.replace(&redis.url(), &proxy.url())).expect("a configuration");
    let three = Node::start_in(other).await;
    runs(&three, &third).await;
    // The node that has just resumed may check whether it has to write anything.
    nothing_on_its_way().await;
}

/// Once, only the node of the publisher knew who it was. On the others, such messages quarantined the whole room.
#[tokio::test]
async fn a_message_that_makes_a_plugin_fail_counts_against_its_publisher_on_every_node() {
    let redis = Redis::start().await;
    let hostile = plugin("hostile", r#"["bad:*"]"#, "{}") + &Server::more_keys();
    let one = Node::start(&redis.url(), &hostile).await;
    let two = Node::start(&redis.url(), &hostile).await;
    let connect =
        async |node: &Node, key: &str| Client::connect_at(&node.url, json!({"auth": {"apiKey": key}})).await;
    let [mallory, alice, bob] = MORE_KEYS;
    let mut members = [connect(&two, alice).await, connect(&two, bob).await];
    for (n, member) in members.iter_mut().enumerate() {
        member.subscribe(json!([{"room": "bad:a", "filter": {"n": n}}])).await;
    }
    let mut publisher = connect(&one, mallory).await;
    let poison = json!({"do": "panic", "in": "matches"});
    for offset in 2..=9 {
        publisher.publish("bad:a", poison.clone()).await;
        for member in &mut members {
            assert_eq!(member.expect("gap").await["offset"], offset);
        }
    }
    let hostile = two.get("/v1/plugins/hostile").await;
    assert_eq!(hostile["state"], "active", "{hostile}");
    assert!(hostile["principals_quarantined"].as_u64() >= Some(1), "{hostile}");
    let mut other = connect(&one, alice).await;
    other.publish("bad:a", json!({"n": 1})).await;
    for member in &mut members {
        assert_eq!(member.expect("message").await["data"], json!({"n": 1}));
    }
}

/// Once, only the memory store knew what it had stored, and with Redis a repetition took from a bucket again.
#[tokio::test]
async fn a_repetition_that_the_node_has_stored_is_answered_without_asking_the_plugin() {
    let redis = Redis::start().await;
    let keeper = plugin("keeper", r#"["kept:*"]"#, "{}");
    let [one, two] = [Node::start(&redis.url(), &keeper).await, Node::start(&redis.url(), &keeper).await];
    let request =
        json!({"type": "publish", "room": "kept:a", "data": {"take": "wallet", "burst": 1}, "key": "k"});
    let mut publisher = one.client().await;
    let first = publisher.ask(request.clone()).await;
    assert_eq!(first["duplicate"], Value::Null, "{first}");
    let calls = async |node: &Node| node.get("/v1/plugins/keeper").await["calls"]["publish.check"][0].clone();
    for _ in 0..2 {
        let again = publisher.ask(request.clone()).await;
        assert_eq!((&again["offset"], &again["duplicate"]), (&first["offset"], &json!(true)), "{again}");
    }
    assert_eq!(calls(&one).await, 1);
    // Another node does not know it, so it asks. Redis does.
    let again = two.client().await.ask(request).await;
    assert_eq!((&again["offset"], &again["duplicate"]), (&first["offset"], &json!(true)), "{again}");
    assert_eq!(calls(&two).await, 1);
}
