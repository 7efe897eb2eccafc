//! Plugins that operators add, configure and remove over HTTP: they hold on all nodes that share the store, also on
//! one that was down or stopped meanwhile, and nothing opens a room by mistake.

mod handover;
mod trials;

use serde_json::{Value, json};
use std::{fs, time::Duration};
use switchyard_tests::{Answer, KEY, Live, Node, Redis, Server, eventually, guest, plugin, replace_file};

const NAME: &str = "thresholds";

/// How long a change may take if a node is silent: its report has to expire.
const SILENT_NODE_TIMEOUT: Duration = Duration::from_secs(60);

async fn call(node: &Node, method: &str, path: &str, body: impl Into<Vec<u8>>) -> (u16, Value) {
    let (status, body) = Answer::called(&node.process.admin, method, path, Some(KEY), body.into()).await;
    (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}")))
}

/// Stages the code of a plugin.
async fn stage(node: &Node, name: &str) {
    let code = fs::read(guest("threshold_filter")).expect("a guest");
    let (status, staged) = call(node, "PUT", &format!("/v1/plugins/{name}"), code).await;
    assert_eq!((status, &staged["state"]), (200, &json!("staged")), "{staged}");
}

async fn put_slot(node: &Node, name: &str, query: &str, slot: Value) -> (u16, Value) {
    call(node, "PUT", &format!("/v1/plugins/{name}/slot{query}"), slot.to_string()).await
}

/// Adds a plugin that governs these rooms.
async fn add(node: &Node, name: &str, rooms: Value) {
    stage(node, name).await;
    let (status, added) = put_slot(node, name, "", json!({"rooms": rooms})).await;
    assert_eq!((status, &added["state"]), (200, &json!("active")), "{added}");
}

/// Adds a plugin with the command line, which waits as long as it takes. The error is what it printed.
async fn add_by_command(node: &Node, code: &str, name: &str, room: &str, config: &str) -> Result<(), String> {
    let file = guest(code).to_string_lossy().into_owned();
    let arguments = ["plugin", "add", name, &file, "--rooms", room, "--config", config];
    let environment = [("SWITCHYARD_KEY", KEY), ("SWITCHYARD_ADMIN", &*node.process.admin)];
    let mut command = switchyard_tests::command(node.folder(), &arguments, &environment);
    let output = tokio::time::timeout(SILENT_NODE_TIMEOUT, command.output()).await.expect("an end in time");
    let output = output.expect("a process");
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Runs the command `plugin` with these arguments, which must succeed. Returns what it printed.
pub(super) async fn run_command(node: &Node, arguments: &[&str]) -> String {
    let environment = [("SWITCHYARD_KEY", KEY), ("SWITCHYARD_ADMIN", &*node.process.admin)];
    let arguments: Vec<_> = ["plugin"].iter().chain(arguments).copied().collect();
    let output = switchyard_tests::command(node.folder(), &arguments, &environment).output().await;
    let output = output.expect("a process");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The names of the plugins of a node that are active, in the order of the node.
async fn active(node: &Node) -> Vec<String> {
    let (_, list) = call(node, "GET", "/v1/plugins", "").await;
    let plugins = list["plugins"].as_array().expect("plugins").iter();
    let active = plugins.filter(|plugin| plugin["state"] == "active");
    active.map(|plugin| plugin["name"].as_str().expect("a name").to_owned()).collect()
}

async fn has(node: &Node, names: &[&str]) {
    eventually("these plugins", async || (active(node).await == names).then_some(())).await;
}

fn error(answer: &Value) -> String {
    let (code, message) = (&answer["error"]["code"], &answer["error"]["message"]);
    format!("{}: {}", code.as_str().unwrap_or_default(), message.as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_added_configured_and_removed_on_all_nodes() {
    let redis = Redis::start().await;
    let [one, two] = [Node::start(&redis.url(), "").await, Node::start(&redis.url(), "").await];
    let [on_one, on_two] = [Live::connect(&one.url).await, Live::connect(&two.url).await];
    for member in [&on_one, &on_two] {
        member.subscribe(json!(["tvl", "prices"])).await;
    }
    let publish = async |room: &str, change: u64| {
        let message = json!({"type": "publish", "room": room, "data": {"change": change}});
        let answer = on_one.ask(message).await;
        assert_eq!(answer["type"], "published", "{answer}");
    };
    publish("tvl", 1).await;
    on_two.message("tvl", 1).await;

    let (status, refused) = put_slot(&one, NAME, "", json!({"rooms": ["tvl"]})).await;
    assert_eq!(status, 409, "{refused}");
    assert!(
        error(&refused).contains("has no code: send it with PUT /v1/plugins/thresholds first"),
        "{refused}"
    );
    stage(&one, NAME).await;
    let slot = json!({"rooms": ["tvl"], "budget": {"call": "20ms"}});
    let (status, preview) = put_slot(&one, NAME, "?dry_run=true", slot.clone()).await;
    assert_eq!(status, 200, "{preview}");
    assert_eq!(
        (&preview["members"], &preview["removed"], &preview["complete"]),
        (&json!(1), &json!(0), &json!(true))
    );
    let room = json!({"room": "tvl", "from": null, "to": NAME, "members": 1, "removed": 0});
    assert_eq!(preview["rooms"], json!([room]));
    assert_eq!(active(&one).await, [""; 0], "a dry run changes nothing");

    let (status, added) = put_slot(&one, NAME, "", slot).await;
    assert_eq!(
        (status, &added["state"], &added["origin"]),
        (200, &json!("active"), &json!("store")),
        "{added}"
    );
    assert_eq!(
        (&added["slot"]["settings"], &added["slot"]["by"]),
        (&json!({"budget": {"call": "20ms"}}), &json!("acme"))
    );
    // The answer came when all nodes had done their part.
    assert_eq!(active(&two).await, [NAME]);
    on_two.subscribe(json!([{"room": "tvl", "filter": {"minChange": 5}}])).await;
    publish("tvl", 2).await;
    publish("tvl", 9).await;
    let last = on_two.wait_for_frame("a message", |frame| frame["data"]["change"] == 9).await;
    assert!(!on_two.frames().iter().any(|frame| frame["data"]["change"] == 2), "filtered");
    assert_eq!(last["room"], "tvl");
    on_one.wait_for_frame("a message without a filter", |frame| frame["data"]["change"] == 2).await;

    // A node that starts later has it, too.
    let three = Node::start(&redis.url(), "").await;
    assert_eq!(active(&three).await, [NAME]);

    // Other rooms and settings, from another node.
    let (_, shown) = call(&two, "GET", "/v1/plugins/thresholds", "").await;
    let revision = &shown["slot"]["revision"];
    let (status, refused) =
        put_slot(&two, NAME, "", json!({"rooms": ["prices"], "revision": revision})).await;
    assert_eq!(status, 409, "{refused}");
    assert!(error(&refused).starts_with("conflict: this would open 'tvl' to everybody"), "{refused}");
    let both = json!({"rooms": ["tvl", "prices"], "revision": revision});
    let (status, changed) = put_slot(&two, NAME, "", both.clone()).await;
    assert_eq!((status, &changed["rooms"]), (200, &json!(["tvl", "prices"])), "{changed}");
    let (status, refused) = put_slot(&one, NAME, "", both).await;
    assert_eq!(status, 409, "the revision is an older one");
    assert!(error(&refused).contains("was changed by acme at the same time"), "{refused}");
    for node in [&one, &two, &three] {
        let (_, room) = call(node, "GET", "/v1/rooms/prices", "").await;
        assert!(room["governor"].is_null() || room["governor"] == NAME, "{room}");
    }
    on_two.subscribe(json!([{"room": "prices", "filter": {"minChange": 5}}])).await;
    publish("prices", 3).await;
    publish("prices", 8).await;
    on_two.wait_for_frame("a message", |frame| frame["data"]["change"] == 8).await;
    assert!(!on_two.frames().iter().any(|frame| frame["data"]["change"] == 3), "filtered");

    let (status, refused) = call(&three, "DELETE", "/v1/plugins/thresholds", "").await;
    assert_eq!(status, 409, "{refused}");
    assert!(error(&refused).contains("this would open 'tvl' and 'prices' to everybody"), "{refused}");
    let (status, preview) = call(&two, "DELETE", "/v1/plugins/thresholds?dry_run=true", "").await;
    assert_eq!((status, &preview["members"], &preview["removed"]), (200, &json!(2), &json!(2)), "{preview}");
    assert_eq!(
        preview["refused"][0]["error"]["code"], "filter_invalid",
        "rooms without a plugin have no filters"
    );
    let (status, removed) = call(&three, "DELETE", "/v1/plugins/thresholds?open=true", "").await;
    assert_eq!((status, &removed["state"]), (200, &json!("removed")), "{removed}");
    for node in [&one, &two, &three] {
        has(node, &[]).await;
    }
    let left = on_two.wait_for_frame("removed", |frame| frame["type"] == "unsubscribed").await;
    assert_eq!(
        (&left["results"][0]["status"], &left["results"][0]["error"]["code"]),
        (&json!("removed"), &json!("filter_invalid"))
    );
    publish("tvl", 4).await;
    on_one.wait_for_frame("a message", |frame| frame["data"]["change"] == 4).await;
    // Its versions are gone with it.
    let (status, refused) = put_slot(&one, NAME, "", json!({"rooms": ["tvl"]})).await;
    assert!(status == 409 && error(&refused).contains("has no code"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_down_has_what_was_changed_meanwhile() {
    let redis = Redis::start().await;
    let one = Node::start(&redis.url(), "").await;
    let mut two = Node::start(&redis.url(), "").await;
    add(&one, "x", json!(["x:*"])).await;
    assert_eq!(active(&two).await, ["x"]);
    two.process.signal("TERM").await;
    two.process.ended().await;
    add(&one, "y", json!(["y:*"])).await;
    let (status, _) = call(&one, "DELETE", "/v1/plugins/x?open=true", "").await;
    assert_eq!(status, 200);
    two = Node::start(&redis.url(), "").await;
    assert_eq!(active(&two).await, ["y"]);
    let client = Live::connect(&two.url).await;
    let joined = client
        .ask(json!({"type": "subscribe", "rooms": [{"room": "y:a", "filter": {"minChange": 1}}]}))
        .await;
    assert_eq!(joined["results"][0]["status"], "subscribed", "{joined}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_at_once_end_in_one_set() {
    let redis = Redis::start().await;
    let [one, two] = [Node::start(&redis.url(), "").await, Node::start(&redis.url(), "").await];
    let add = async |node: &Node, name: &str, room: &str| {
        add_by_command(node, "threshold_filter", name, room, "{}").await
    };
    let (x1, x2, y, z) =
        tokio::join!(add(&one, "x", "one"), add(&two, "x", "two"), add(&one, "y", "y"), add(&two, "z", "z"));
    assert!(y.is_ok() && z.is_ok(), "{y:?} {z:?}");
    let [first, second] = [x1.is_ok(), x2.is_ok()];
    assert!(first != second, "{x1:?} {x2:?}");
    let refused = x1.and(x2).unwrap_err();
    assert!(
        refused.contains("was changed by acme at the same time") || refused.contains("is there already"),
        "{refused}"
    );
    let expected = if first { json!(["one"]) } else { json!(["two"]) };
    for node in [&one, &two] {
        let (_, x) = call(node, "GET", "/v1/plugins/x", "").await;
        assert_eq!((&x["rooms"], &x["state"]), (&expected, &json!("active")), "{x}");
        let mut names = active(node).await;
        names.sort();
        assert_eq!(names, ["x", "y", "z"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_in_a_file_or_in_the_store() {
    let redis = Redis::start().await;
    let thresholds = plugin("threshold_filter", r#"["tvl"]"#, "{}");
    let one = Node::start(&redis.url(), &thresholds).await;
    let (status, refused) = put_slot(&one, "threshold_filter", "", json!({"rooms": ["tvl"]})).await;
    assert_eq!(status, 409, "{refused}");
    assert!(error(&refused).contains("is in the configuration of "), "{refused}");
    let (status, refused) = call(&one, "DELETE", "/v1/plugins/threshold_filter?open=true", "").await;
    assert!(status == 409 && error(&refused).contains("change it there"), "{refused}");

    add(&one, "x", json!(["x:*"])).await;
    // It starts with a name that the store has for other rooms: both are closed on this node.
    let named_x = plugin("threshold_filter", r#"["file:*"]"#, "{}")
        .replace("name = \"threshold_filter\"", "name = \"x\"");
    let two = Node::start(&redis.url(), &(thresholds.clone() + &named_x)).await;
    let client = Live::connect(&two.url).await;
    for room in ["x:a", "file:a"] {
        let joined = client.ask(json!({"type": "subscribe", "rooms": [room]})).await;
        assert_eq!(joined["results"][0]["error"]["code"], "plugin_failed", "{joined}");
    }
    let joined = client.ask(json!({"type": "subscribe", "rooms": ["tvl"]})).await;
    assert_eq!(joined["results"][0]["status"], "subscribed", "{joined}");
    let client = Live::connect(&one.url).await;
    let joined = client.ask(json!({"type": "subscribe", "rooms": ["x:a"]})).await;
    assert_eq!(joined["results"][0]["status"], "subscribed", "the other node has its code: {joined}");
    let (_, ready) = Answer::called(&two.process.admin, "GET", "/readyz", None, "").await;
    assert!(ready.contains("plugin 'x' is in the configuration of this node and in the store"), "{ready}");

    // A reload that brings such a name is refused as a whole.
    let file = one.folder().join("switchyard.toml");
    let text = fs::read_to_string(&file).expect("a configuration");
    replace_file(&file, text + &named_x);
    one.process.signal("HUP").await;
    eventually("a rejected reload", async || {
        let (_, ready) = Answer::called(&one.process.admin, "GET", "/readyz", None, "").await;
        ready.contains("rename it here, or remove the one in the store").then_some(())
    })
    .await;
    // When it is gone from the store, a reload brings the file's.
    let (status, removed) = call(&one, "DELETE", "/v1/plugins/x?open=true", "").await;
    assert_eq!(status, 200, "{removed}");
    let file_room = async || {
        let client = Live::connect(&two.url).await;
        let joined = client.ask(json!({"type": "subscribe", "rooms": ["file:a"]})).await;
        joined["results"][0]["status"].clone()
    };
    assert_ne!(file_room().await, "subscribed", "nobody has loaded the file's plugin yet");
    for node in [&one, &two] {
        node.process.signal("HUP").await;
        has(node, &["threshold_filter", "x"]).await;
    }
    eventually("an open room", async || (file_room().await == "subscribed").then_some(())).await;
}

#[tokio::test]
async fn without_a_shared_store_plugins_are_in_the_file() {
    let server = Server::start("").await;
    let (status, body) = server.call("PUT", "/v1/plugins/x/slot", Some(KEY), r#"{"rooms":["x"]}"#).await;
    assert_eq!(status, 409, "{body}");
    assert!(body.contains("put the plugin into the configuration file"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_adds_configures_and_removes_plugins() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), "").await;
    let member = Live::connect(&node.url).await;
    member.subscribe(json!(["tvl"])).await;
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(guest("threshold_filter"), folder.path().join("t.wasm")).expect("a copy");
    let environment = [("SWITCHYARD_KEY", KEY), ("SWITCHYARD_ADMIN", &*node.process.admin)];
    let run = async |arguments: &str| {
        let arguments: Vec<_> = arguments.split(' ').collect();
        let output = switchyard_tests::run(folder.path(), &arguments, &environment).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, _, error) = run("plugin add t t.wasm").await;
    assert_eq!(code, Some(2), "the command line is invalid");
    assert!(error.contains("--rooms is missing"), "{error}");
    let (code, shown, error) = run("plugin add t t.wasm --rooms tvl,prices --dry-run").await;
    assert_eq!(code, Some(0), "{error}");
    assert!(shown.contains("tvl  no plugin -> t  1 member, 0 removed"), "{shown}");
    assert!(error.contains("nothing was changed"), "{error}");
    let (code, _, error) = run("plugin add t t.wasm --rooms tvl --budget-call 1h").await;
    assert!(code == Some(1) && error.contains("budget.call must be between 1ms and 1m, got 1h"), "{error}");
    let (code, shown, error) = run("plugin add t t.wasm --rooms tvl,prices --budget-call 20ms").await;
    assert_eq!(code, Some(0), "{error}");
    assert!(shown.starts_with("t  active"), "{shown}");
    let (code, _, error) = run("plugin add t t.wasm --rooms tvl").await;
    assert!(code == Some(1) && error.contains("plugin 't' is there already"), "{error}");

    // What is not named stays as it is.
    let (code, _, error) = run("plugin configure t --probation 5s").await;
    assert_eq!(code, Some(0), "{error}");
    let (_, t) = call(&node, "GET", "/v1/plugins/t", "").await;
    assert_eq!(t["rooms"], json!(["tvl", "prices"]));
    assert_eq!(t["slot"]["settings"], json!({"budget": {"call": "20ms"}, "probation": "5s"}));
    let (code, _, error) = run("plugin configure t --rooms tvl").await;
    assert!(code == Some(1) && error.contains("this would open 'prices' to everybody"), "{error}");
    let (code, _, error) = run("plugin configure t --rooms tvl --open").await;
    assert_eq!(code, Some(0), "{error}");

    let (code, shown, error) = run("plugin remove t --dry-run").await;
    assert_eq!(code, Some(0), "{error}");
    assert!(
        shown.starts_with("without a plugin: tvl\ntvl  t -> no plugin  1 member, 0 removed\n"),
        "{shown}"
    );
    let (code, shown, error) = run("plugin remove t --open").await;
    assert_eq!(
        (code, &*shown),
        (Some(0), "t  removed, with its versions and its state (0 shared values)\n"),
        "{error}"
    );
    let (code, _, error) = run("plugin remove t").await;
    assert!(code == Some(1) && error.contains("there is no plugin 't'"), "{error}");
}

/// Once, such a node wrote the old versions back, and went on with them.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_was_removed_and_added_again_while_a_node_was_stopped_is_the_new_one_everywhere() {
    let redis = Redis::start().await;
    let [one, two] = [Node::start(&redis.url(), "").await, Node::start(&redis.url(), "").await];
    add(&one, NAME, json!(["tvl"])).await;
    has(&two, &[NAME]).await;
    two.process.signal("STOP").await;
    // The commands wait for the silent node until its report expires.
    run_command(&one, &["remove", NAME, "--open"]).await;
    let mut code = fs::read(guest("threshold_filter")).expect("a guest");
    // A custom section makes it another version.
    code.extend([0, 2, 1, b'x']);
    let file = one.folder().join("other.wasm");
    fs::write(&file, &code).expect("a file");
    run_command(&one, &["add", NAME, &file.to_string_lossy(), "--rooms", "tvl"]).await;
    let sha256 = call(&one, "GET", "/v1/plugins/thresholds", "").await.1["plugin"]["sha256"].clone();
    two.process.signal("CONT").await;
    let three = Node::start(&redis.url(), "").await;
    for node in [&one, &two, &three] {
        eventually("the new version", async || {
            let (_, plugin) = call(node, "GET", "/v1/plugins/thresholds", "").await;
            (plugin["state"] == "active" && plugin["plugin"]["sha256"] == sha256).then_some(())
        })
        .await;
    }
    let (_, plugin) = call(&two, "GET", "/v1/plugins/thresholds", "").await;
    assert_eq!(plugin["versions"].as_array().map(Vec::len), Some(1), "{plugin}");
}
