//! Plugins that are added, removed, reordered and given other rooms while a node runs. Rooms change their
//! governor between two messages: nothing is lost or repeated, and nobody is in a room that its plugin would not
//! have granted.

use serde_json::{Value, json};
use std::time::Duration;
use switchyard_tests::{Client, Live, Node, Server, eventually, guest, plugin, replace_file};

const ROOMS: &str = r#"["uniswap-v3:*", "curve:*"]"#;

/// `protocol_rooms`, which knows only `uniswap-v3`.
fn protocol_rooms() -> String {
    plugin("protocol_rooms", ROOMS, r#"{ protocols = ["uniswap-v3"], chains = ["ethereum"] }"#)
}

/// A plugin under this name with filters on the size of changes.
fn thresholds(name: &str, rooms: &str) -> String {
    plugin("threshold_filter", rooms, "{}")
        .replace("name = \"threshold_filter\"", &format!("name = \"{name}\""))
}

fn closed() -> String {
    "[rooms]\nungoverned = \"closed\"\n".to_owned()
}

/// Reconfigures a node, and waits until it says that a room has this governor.
async fn reconfigure(server: &Server, plugins: &str, room: &str, governor: Option<&str>) {
    server.reconfigure(&format!("{}\n{plugins}", Server::keys()));
    governed_by(server, room, governor).await;
}

async fn governed_by(server: &Server, room: &str, governor: Option<&str>) {
    eventually("another governor", async || {
        let plugin = server.get(&format!("/v1/rooms/{room}")).await["governor"].clone();
        (plugin.as_str() == governor).then_some(())
    })
    .await;
}

/// Publishes 1, 2, 3… as fast as it is answered, and again what is refused for a moment. Returns how many when
/// told to stop.
async fn publish_numbers(
    url: String,
    room: &'static str,
    mut stop: tokio::sync::oneshot::Receiver<()>,
) -> u64 {
    let publisher = Live::connect(&url).await;
    let mut next = 1;
    while stop.try_recv().is_err() {
        let answer = publisher.ask(json!({"type": "publish", "room": room, "data": {"n": next}})).await;
        match answer["type"] == "published" {
            true => next += 1,
            false => assert!(answer["error"]["retryAfter"].is_u64(), "{answer}"),
        }
    }
    next - 1
}

/// Publishes a message in a room that may still be handed over to another plugin, and again when the node says that it may.
async fn publish_when_open(publisher: &mut Client, room: &str, data: Value) {
    loop {
        let answer = publisher.ask(json!({"type": "publish", "room": room, "data": data})).await;
        match answer["error"]["retryAfter"].as_u64() {
            Some(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
            None => return assert_eq!(answer["type"], "published", "{answer}"),
        }
    }
}

/// The numbers that a member of a room received, in order.
fn numbers(member: &Live, room: &str) -> Vec<u64> {
    let frames = member.frames();
    let messages = frames.iter().filter(|frame| frame["type"] == "message" && frame["room"] == room);
    messages.map(|frame| frame["data"]["n"].as_u64().expect("a number")).collect()
}

/// Waits until a client is told that it had to leave a room, and returns the error.
async fn removed(member: &Live, room: &str) -> Value {
    let frame = member.wait_for_frame("unsubscribed", |frame| frame["type"] == "unsubscribed").await;
    assert!(frame.get("id").is_none(), "{frame}");
    let [result] = &frame["results"].as_array().expect("results")[..] else { panic!("{frame}") };
    assert_eq!((&result["room"], &result["status"]), (&json!(room), &json!("removed")), "{frame}");
    result["error"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_is_added_judges_the_members_and_loses_no_message() {
    let server = Server::start("").await;
    let [stays, goes] = [Live::connect(&server.url).await, Live::connect(&server.url).await];
    stays.subscribe(json!(["uniswap-v3:ethereum"])).await;
    goes.subscribe(json!(["curve:ethereum", "other"])).await;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let publishing = tokio::spawn(publish_numbers(server.url.clone(), "uniswap-v3:ethereum", stopped));
    stays.message("uniswap-v3:ethereum", 3).await;

    reconfigure(&server, &protocol_rooms(), "curve:ethereum", Some("protocol_rooms")).await;
    let error = removed(&goes, "curve:ethereum").await;
    assert_eq!(error["code"], "room_invalid", "{error}");
    assert!(error["message"].as_str().unwrap().contains("unknown protocol 'curve'"), "{error}");
    let before = numbers(&stays, "uniswap-v3:ethereum").len() as u64;
    stays.message("uniswap-v3:ethereum", before + 5).await;
    stop.send(()).unwrap();
    let last = publishing.await.unwrap();
    stays.message("uniswap-v3:ethereum", last).await;
    assert_eq!(numbers(&stays, "uniswap-v3:ethereum"), (1..=last).collect::<Vec<_>>());

    // The session does not have the room any more.
    let token = goes.token();
    goes.cut();
    let again = Live::resume(&server.url, &token).await;
    assert!(again.resumed("other").is_some() && again.resumed("curve:ethereum").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_is_kept_when_another_plugin_takes_the_room_over() {
    let server = Server::start(&thresholds("one", r#"["tvl"]"#)).await;
    let [filtered, all] = [Live::connect(&server.url).await, Live::connect(&server.url).await];
    filtered.subscribe(json!([{"room": "tvl", "filter": {"minChange": 5}}])).await;
    all.subscribe(json!(["tvl"])).await;
    let mut publisher = Client::connect(&server).await;
    for change in [1, 9] {
        publisher.publish("tvl", json!({"change": change})).await;
    }
    all.message("tvl", 2).await;

    let two = thresholds("two", r#"["tvl"]"#);
    reconfigure(&server, &(two.clone() + &thresholds("one", r#"["tvl"]"#)), "tvl", Some("two")).await;
    for change in [2, 8] {
        publish_when_open(&mut publisher, "tvl", json!({"change": change})).await;
    }
    all.message("tvl", 4).await;
    // Its rooms stay with it when the other plugin goes.
    publisher.subscribe(json!(["tvl2"])).await;
    reconfigure(&server, &(two + &thresholds("three", r#"["tvl*"]"#)), "tvl2", Some("three")).await;
    for change in [3, 7] {
        publish_when_open(&mut publisher, "tvl", json!({"change": change})).await;
    }
    all.message("tvl", 6).await;
    filtered.message("tvl", 6).await;
    assert_eq!(filtered.offsets("tvl"), [2, 4, 6]);
    assert_eq!(all.offsets("tvl"), [1, 2, 3, 4, 5, 6]);
    let names: Vec<_> = server.get("/v1/plugins").await["plugins"].as_array().unwrap().clone();
    let names: Vec<_> = names.iter().map(|plugin| plugin["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["two", "three"], "in the order of the configuration");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_leave_rooms_that_no_plugin_governs_any_more_if_such_rooms_are_closed() {
    let both = thresholds("one", r#"["tvl", "volume"]"#);
    let server = Server::start(&(both + &closed())).await;
    let member = Live::connect(&server.url).await;
    member.subscribe(json!(["tvl", "volume"])).await;
    reconfigure(&server, &(thresholds("one", r#"["volume"]"#) + &closed()), "tvl", None).await;
    assert_eq!(removed(&member, "tvl").await["code"], "room_rejected");
    let mut publisher = Client::connect(&server).await;
    let refused = publisher.refused(json!({"type": "publish", "room": "tvl", "data": 1})).await;
    assert_eq!(refused, "room_rejected");
    publish_when_open(&mut publisher, "volume", json!({"change": 1})).await;
    member.message("volume", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_of_a_plugin_that_cannot_be_loaded_are_closed_and_their_members_can_come_back() {
    let server = Server::start("").await;
    let member = Live::connect(&server.url).await;
    member.subscribe(json!(["tvl"])).await;
    let mut publisher = Client::connect(&server).await;
    let epoch = publisher.publish("tvl", json!({"change": 1})).await["epoch"].clone();
    member.message("tvl", 1).await;
    let file = server.folder().join("later.wasm");
    let plugin = format!("[[plugin]]\nname = \"late\"\nfile = \"{}\"\nrooms = [\"tvl\"]\n", file.display());
    reconfigure(&server, &plugin, "tvl", Some("late")).await;
    assert_eq!(removed(&member, "tvl").await["code"], "plugin_failed");
    let refused = publisher.refused(json!({"type": "publish", "room": "tvl", "data": {"change": 2}})).await;
    assert_eq!(refused, "plugin_failed");

    std::fs::copy(guest("threshold_filter"), &file).unwrap();
    eventually("the plugin", async || {
        (server.get("/v1/plugins/late").await["state"] == "active").then_some(())
    })
    .await;
    let since = json!({"offset": 1, "epoch": epoch});
    publish_when_open(&mut publisher, "tvl", json!({"change": 3})).await;
    member.subscribe(json!([{"room": "tvl", "since": since}])).await;
    member.message("tvl", 2).await;
    assert_eq!(member.offsets("tvl"), [1, 2]);
}

/// A file that lost its end must not open rooms.
#[tokio::test]
async fn a_reload_that_would_open_rooms_needs_a_second_sighup() {
    let both = thresholds("one", r#"["tvl"]"#) + &thresholds("two", r#"["volume"]"#);
    let node = Node::start("memory", &both).await;
    let mut client = node.client().await;
    let file = node.folder().join("switchyard.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let plugins = async || node.get("/v1/plugins").await["plugins"].as_array().unwrap().len();

    replace_file(&file, text.replace(&thresholds("two", r#"["volume"]"#), ""));
    eventually("a refusal", async || {
        node.log().contains("open 'volume' to everybody, because rooms.ungoverned is open").then_some(())
    })
    .await;
    assert_eq!(plugins().await, 2);
    node.process.signal("HUP").await;
    eventually("the first SIGHUP", async || {
        node.log().contains("to confirm, send SIGHUP again").then_some(())
    })
    .await;
    assert_eq!(plugins().await, 2);
    node.process.signal("HUP").await;
    eventually("the second SIGHUP", async || (plugins().await == 1).then_some(())).await;
    client.subscribe(json!(["volume"])).await;
    assert!(node.get("/v1/rooms/volume").await["governor"].is_null());

    replace_file(&file, text.replace(&both, ""));
    eventually("a refusal", async || node.log().contains("remove the only plugin, 'one'").then_some(()))
        .await;
    assert_eq!(plugins().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_from_before_is_read_through_the_new_plugin() {
    let server = Server::start(&thresholds("one", r#"["tvl"]"#)).await;
    let member = Live::connect(&server.url).await;
    member.subscribe(json!([{"room": "tvl", "filter": {"minChange": 5}}])).await;
    let mut publisher = Client::connect(&server).await;
    for change in [1, 9, 2, 8] {
        publisher.publish("tvl", json!({"change": change})).await;
    }
    member.message("tvl", 4).await;
    // This version reads the size of a change from another field.
    let two = thresholds("two", r#"["tvl"]"#)
        .replace("config = {}", "config = { fields = { change = \"other\" } }");
    assert!(two.contains("other"));
    reconfigure(&server, &two, "tvl", Some("two")).await;
    let history = member.ask(json!({"type": "history", "room": "tvl", "limit": 10})).await;
    assert_eq!(history["messages"], json!([]), "no event has that field: {history}");
}
