//! Clients and operators see one system, whichever node they use.

use serde_json::{Value, json};
use switchyard_tests::{Client, KEY, Node, Process, READER, Redis, eventually, guest};

async fn two(extra: &str) -> (Redis, Node, Node) {
    let redis = Redis::start().await;
    let url = redis.url();
    let (one, two) = tokio::join!(Node::start(&url, extra), Node::start(&url, extra));
    (redis, one, two)
}

#[tokio::test]
async fn messages_reach_every_node_in_order_and_filters_apply_there() {
    let file = guest("threshold_filter").display().to_string();
    let plugin = format!("[[plugin]]\nname = \"thresholds\"\nfile = \"{file}\"\nrooms = [\"tvl\"]");
    let (_redis, one, two) = two(&plugin).await;
    let (mut here, mut there, mut filtered) = (one.client().await, two.client().await, two.client().await);
    for client in [&mut here, &mut there] {
        client.subscribe(json!(["prices", "tvl"])).await;
    }
    filtered.subscribe(json!([{"room": "tvl", "filter": {"minChange": 0.5}}])).await;
    let (mut a, mut b) = (one.client().await, two.client().await);
    for n in 0..200 {
        let publisher = if n % 3 == 0 { &mut a } else { &mut b };
        publisher.publish("prices", json!([n, "  spaced  "])).await;
    }
    for client in [&mut here, &mut there] {
        for n in 0..200 {
            let message = client.expect("message").await;
            assert_eq!((&message["offset"], &message["data"][0]), (&json!(n + 1), &json!(n)));
        }
    }
    for change in [0.1, 0.9, 0.2, 0.7] {
        a.publish("tvl", json!({"change": change})).await;
    }
    let all = vec![1, 2, 3, 4];
    for (client, expected) in [(&mut here, all.clone()), (&mut there, all), (&mut filtered, vec![2, 4])] {
        for offset in expected {
            assert_eq!(client.expect("message").await["offset"], offset);
        }
        client.round_trip().await;
    }
    // All principals, and one principal, wherever they are connected.
    a.send(json!({"type": "publish", "room": "*", "data": "all"})).await;
    for client in [&mut here, &mut there, &mut filtered] {
        assert_eq!(client.expect("message").await["room"], "*");
    }
    let (status, body) = two.call("POST", "/v1/publish", r#"{"room":"@acme","data":"you"}"#).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(here.expect("message").await["room"], "@acme");
}

#[tokio::test]
async fn members_receipts_and_rooms_cover_all_nodes() {
    let (_redis, one, two) = two("").await;
    let (mut here, mut there) = (one.client().await, two.client().await);
    let mut other = Client::connect_at(&two.url, json!({"auth": {"apiKey": READER}})).await;
    for client in [&mut here, &mut there, &mut other] {
        client.subscribe(json!(["prices"])).await;
    }
    let members = here.ask(json!({"type": "members", "room": "prices"})).await;
    assert_eq!((&members["count"], &members["principals"]), (&json!(3), &json!(["acme", "zed"])));
    one.call("POST", "/v1/publish", r#"{"room":"prices","data":1}"#).await;
    for client in [&mut here, &mut there] {
        let offset = client.expect("message").await["offset"].clone();
        client.send(json!({"type": "ack", "room": "prices", "offset": offset})).await;
    }
    for node in [&one, &two] {
        let receipt = json!({"members": 3, "acknowledged": 2});
        eventually("a receipt", async || {
            (node.get("/v1/rooms/prices/messages/1/receipt").await == receipt).then_some(())
        })
        .await;
        let room = node.get("/v1/rooms/prices").await;
        assert_eq!((&room["members"], &room["offset"], &room["messages"]), (&json!(3), &json!(1), &json!(1)));
    }
    for name in ["a", "b", "c"] {
        one.call("POST", "/v1/publish", &format!(r#"{{"room":"{name}","data":1}}"#)).await;
    }
    let names = |page: &Value| -> Vec<String> {
        let rooms = page["rooms"].as_array().expect("rooms").iter();
        rooms.map(|room| room["room"].as_str().expect("a name").to_owned()).collect()
    };
    let listed = eventually("all rooms", async || {
        let page = two.get("/v1/rooms?limit=4").await;
        (names(&page).len() == 4 && page["next"] == "a").then_some(page)
    })
    .await;
    assert_eq!(names(&listed), ["*", "@acme", "@zed", "a"]);
    assert_eq!(names(&two.get("/v1/rooms?limit=10&after=a").await), ["b", "c", "prices"]);
    here.ask(json!({"type": "unsubscribe", "rooms": ["prices"]})).await;
    two.has_members("prices", 2).await;
}

#[tokio::test]
async fn a_session_resumes_on_another_node_and_can_be_taken_over_from_there() {
    let (_redis, one, two) = two("").await;
    let mut client = one.client().await;
    client.subscribe(json!(["prices", "left"])).await;
    client.ask(json!({"type": "unsubscribe", "rooms": ["left"]})).await;
    let mut publisher = two.client().await;
    for n in 1..=3 {
        publisher.publish("prices", json!(n)).await;
        client.expect("message").await;
    }
    client.send(json!({"type": "ack", "room": "prices", "offset": 2})).await;
    client.round_trip().await;
    eventually("an acknowledgement", async || {
        let receipt = two.get("/v1/rooms/prices/messages/2/receipt").await;
        (receipt["acknowledged"] == 1).then_some(())
    })
    .await;
    // The old connection is alive: its session is taken over.
    let token = client.token();
    let mut taken = two.resume(&token).await;
    assert_eq!(taken.connected["resumed"], true);
    let rooms: Vec<_> = taken.connected["rooms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|room| room["room"].as_str().unwrap())
        .collect();
    assert_eq!(rooms, ["*", "@acme", "prices"]);
    assert_eq!(taken.expect("message").await["offset"], 3);
    assert_eq!(client.closed().await.code, 4409);
    publisher.publish("prices", json!(4)).await;
    assert_eq!(taken.expect("message").await["offset"], 4);
    // And back again, after it was cut.
    taken.cut();
    publisher.publish("prices", json!(5)).await;
    let mut back = one.resume(&token).await;
    for offset in [3, 4, 5] {
        assert_eq!(back.expect("message").await["offset"], offset);
    }
    assert_eq!(two.members("prices").await, 1);
    // Another principal cannot use the token, on any node.
    let foreign = json!({"auth": {"apiKey": READER}, "session": token});
    assert_eq!(Client::connect_at(&two.url, foreign).await.connected["resumed"], false);
}

#[tokio::test]
async fn a_tiers_connection_limit_applies_across_all_nodes() {
    let (_redis, one, two) = two("[tier.default]\nconnections = 3").await;
    let (_first, second) = (one.client().await, one.client().await);
    let third = two.client().await;
    let connect = json!({"type": "connect", "auth": {"apiKey": KEY}});
    for node in [&one, &two] {
        let turned = Client::rejected_connect(&node.url, connect.clone()).await;
        assert_eq!(turned, ("connection_limit".into(), 4429));
    }
    // A takeover does not count twice.
    let third = one.resume(&third.token()).await;
    drop(second);
    eventually("a place", async || {
        let mut client = Client::open(&*two.url).await;
        (client.ask(connect.clone()).await["type"] == "connected").then_some(())
    })
    .await;
    third.cut();
}

#[tokio::test]
async fn a_node_that_stops_hands_its_clients_over() {
    let (_redis, mut one, two) = two("").await;
    let mut client = one.client().await;
    client.subscribe(json!(["prices"])).await;
    let token = client.token();
    one.process.signal("TERM").await;
    assert_eq!(client.closed().await.code, 4600);
    assert!(one.process.ended().await.success());
    two.client().await.publish("prices", json!(1)).await;
    let mut client = two.resume(&token).await;
    assert_eq!(client.connected["resumed"], true);
    assert_eq!(client.expect("message").await["data"], 1);
    eventually("one node", async || (two.metric("switchyard_store_nodes").await == 1.0).then_some(())).await;
}

#[tokio::test]
async fn a_redis_with_another_schema_version_prevents_a_start() {
    let redis = Redis::start().await;
    redis.command(&["SET", "switchyard:schema", "99"]).await;
    let folder = Node::create_folder(&redis.url(), "");
    let output = switchyard_tests::run(folder.path(), &["serve", "--config", "switchyard.toml"], &[]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("schema 99") && error.contains("store.prefix"),
        "{error}"
    );
    // With another prefix, the node starts on the same Redis.
    let environment = [("SWITCHYARD_STORE__PREFIX", "mine")];
    let node = Process::serve(folder.path(), &["--config", "switchyard.toml"], &environment).await;
    Client::connect_at(&node.url, json!({"auth": {"apiKey": KEY}})).await.round_trip().await;
}
