//! The admin listener: every call, and what each rejects.

mod health;
mod hosts;
mod plugins;
mod publishing;
mod scrapes;
mod slow;
mod versions;

use serde_json::{Value, json};
use switchyard_tests::{Client, KEY, READER, Server};

#[tokio::test]
async fn rooms_are_listed_and_shown() {
    let server = Server::start("").await;
    let mut client = Client::connect_as(&server, READER).await;
    let joined = client.subscribe(json!(["prices", "uniswap-v3:ethereum"])).await;
    let mut publisher = Client::connect(&server).await;
    for n in 1..=3 {
        publisher.publish("prices", json!(n)).await;
    }
    let mut room = server.get("/v1/rooms/prices").await;
    assert_eq!(room["room"], "prices");
    assert_eq!(room["epoch"], joined["results"][0]["epoch"]);
    assert_eq!((&room["offset"], &room["members"]), (&json!(3), &json!(1)), "{room}");
    assert!(room.get("governor").is_some_and(Value::is_null), "{room}");
    for path in ["/v1/rooms/uniswap-v3:ethereum", "/v1/rooms/uniswap-v3%3Aethereum"] {
        assert_eq!(server.get(path).await["room"], "uniswap-v3:ethereum");
    }
    assert_eq!(server.get("/v1/rooms/%2A").await["members"], 2);
    assert_eq!(server.get("/v1/rooms/@zed").await["members"], 1);

    let all = server.get("/v1/rooms").await;
    let names = |page: &Value| -> Vec<String> {
        page["rooms"]
            .as_array()
            .unwrap()
            .iter()
            .map(|room| room["room"].as_str().unwrap().to_owned())
            .collect()
    };
    let expected = names(&all);
    assert_eq!(expected, ["*", "@acme", "@zed", "prices", "uniswap-v3:ethereum"]);
    let policy = room.as_object_mut().expect("a room").remove("policy");
    assert_eq!(policy.expect("its policy")["members"], "subscribe");
    assert_eq!(all["rooms"][3], room, "a list has no policies");
    // Page by page.
    let (mut seen, mut cursor) = (vec![], String::new());
    loop {
        let page = server.get(&format!("/v1/rooms?limit=2&after={cursor}")).await;
        assert!(names(&page).len() <= 2);
        seen.extend(names(&page));
        match page["next"].as_str() {
            Some(next) => cursor = next.replace('@', "%40"),
            None => break,
        }
    }
    assert_eq!(seen, expected);

    assert_eq!(server.refused("GET", "/v1/rooms/unknown", Some(KEY), "").await, (404, "not_found".into()));
    assert_eq!(server.refused("GET", "/v1/rooms/a::b", Some(KEY), "").await, (400, "room_invalid".into()));
}

#[tokio::test]
async fn history_is_shown_in_pages() {
    let server = Server::start("").await;
    let mut publisher = Client::connect(&server).await;
    let mut epoch = Value::Null;
    for n in 1..=5 {
        epoch = publisher.publish("prices", json!(n)).await["epoch"].clone();
    }
    let epoch = epoch.as_str().expect("an epoch");
    let whole = server.get("/v1/rooms/prices/history").await;
    assert_eq!(
        (&whole["room"], &whole["epoch"], &whole["more"]),
        (&json!("prices"), &json!(epoch), &json!(false))
    );
    let entry = &whole["messages"][4];
    assert_eq!(entry, &json!({"room": "prices", "offset": 5, "time": entry["time"], "data": 5}));
    let page = server.get(&format!("/v1/rooms/prices/history?epoch={epoch}&offset=2&limit=2")).await;
    assert_eq!((&page["messages"][0]["offset"], &page["more"]), (&json!(3), &json!(true)), "{page}");
    let lost = server.get("/v1/rooms/prices/history?epoch=other&offset=2").await;
    assert_eq!((&lost["recovered"], lost["messages"].as_array().map(Vec::len)), (&json!(false), Some(5)));
    assert_eq!(
        server.refused("GET", "/v1/rooms/never/history", Some(KEY), "").await,
        (404, "not_found".into())
    );
}

#[tokio::test]
async fn receipts_count_members_and_acknowledgements() {
    let server = Server::start("").await;
    let (mut publisher, mut member) = (Client::connect(&server).await, Client::connect(&server).await);
    member.subscribe(json!(["prices"])).await;
    publisher.publish("prices", json!(1)).await;
    publisher.publish("prices", json!(2)).await;
    member.send(json!({"type": "ack", "room": "prices", "offset": 1})).await;
    member.expect("message").await;
    member.expect("message").await;
    member.round_trip().await;
    for (offset, acknowledged) in [(1, 1), (2, 0)] {
        let receipt = server.get(&format!("/v1/rooms/prices/messages/{offset}/receipt")).await;
        assert_eq!(receipt, json!({"members": 1, "acknowledged": acknowledged}));
    }
    for path in [
        "/v1/rooms/prices/messages/3/receipt",
        "/v1/rooms/prices/messages/0/receipt",
        "/v1/rooms/x/messages/1/receipt",
    ] {
        assert_eq!(server.refused("GET", path, Some(KEY), "").await, (404, "not_found".into()), "{path}");
    }
    member.send(json!({"type": "unsubscribe", "rooms": ["prices"]})).await;
    member.expect("unsubscribed").await;
    let receipt = server.get("/v1/rooms/prices/messages/1/receipt").await;
    assert_eq!(receipt, json!({"members": 0, "acknowledged": 0}), "receipts are as of the asking");
}

#[tokio::test]
async fn connections_are_listed_and_shown() {
    let server = Server::start("").await;
    let mut clients = vec![];
    for n in 0..5 {
        let mut client = Client::connect_as(&server, if n % 2 == 0 { KEY } else { READER }).await;
        client.subscribe(json!(["prices"])).await;
        clients.push(client);
    }
    let mut expected: Vec<_> = clients.iter().map(|client| client.connected["connection"].clone()).collect();
    expected.sort_by_key(Value::to_string);
    let ids = |page: &Value| -> Vec<Value> {
        page["connections"].as_array().unwrap().iter().map(|connection| connection["id"].clone()).collect()
    };
    let mut all = ids(&server.get("/v1/connections").await);
    all.sort_by_key(Value::to_string);
    assert_eq!(all, expected);
    let (mut seen, mut cursor) = (vec![], String::new());
    loop {
        let page = server.get(&format!("/v1/connections?limit=2&after={cursor}")).await;
        assert!(ids(&page).len() <= 2);
        seen.extend(ids(&page));
        match page["next"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    seen.sort_by_key(Value::to_string);
    assert_eq!(seen, expected);
    let shown = server
        .get(&format!("/v1/connections/{}", clients[1].connected["connection"].as_str().unwrap()))
        .await;
    assert_eq!((&shown["principal"], &shown["rooms"]), (&json!("zed"), &json!(1)), "{shown}");
    assert!(shown["remote"].as_str().is_some_and(|remote| remote.starts_with("127.0.0.1:")), "{shown}");
    assert!(!server.get("/v1/connections").await.to_string().contains("s_"), "no session token is shown");
    for id in ["c_0000000000000000", "nonsense", "c_zz"] {
        for method in ["GET", "DELETE"] {
            let refused = server.refused(method, &format!("/v1/connections/{id}"), Some(KEY), "").await;
            assert_eq!(refused, (404, "not_found".into()), "{method} {id}");
        }
    }
}

/// Every error is the error object, with a matching status.
#[tokio::test]
async fn every_error_is_the_error_object() {
    let server = Server::start("").await;
    Client::connect(&server).await.publish("prices", json!(1)).await;
    let mut wrong = vec![];
    for (method, path, status) in [
        ("GET", "/nothing", 404),
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/publish", 405),
        ("DELETE", "/v1/rooms", 405),
        ("POST", "/v1/rooms/prices", 405),
        ("POST", "/readyz", 405),
        ("GET", "/v1/rooms?limit=0", 400),
        ("GET", "/v1/rooms?limit=1001", 400),
        ("GET", "/v1/rooms?limit=many", 400),
        ("GET", "/v1/rooms?limit=-1", 400),
        ("GET", "/v1/connections?limit=many", 400),
        ("GET", "/v1/connections?after=nonsense", 400),
        ("GET", "/v1/rooms/prices/history?limit=many", 400),
        ("GET", "/v1/rooms/prices/history?limit=1001", 400),
        ("GET", "/v1/rooms/prices/history?offset=1", 400),
        ("GET", "/v1/rooms/prices/history?epoch=x&offset=-1", 400),
        ("GET", "/v1/rooms/prices/messages/first/receipt", 400),
        ("GET", "/v1/rooms/prices/messages/-1/receipt", 400),
        ("GET", "/v1/rooms/%ff", 400),
        ("POST", "/v1/publish", 400),
        ("POST", "/v1/broadcast", 400),
    ] {
        let (found, body) = server.call(method, path, Some(KEY), "").await;
        let error: Value = serde_json::from_str(&body).unwrap_or_default();
        let is_error = error["error"]["code"].is_string() && error["error"]["message"].is_string();
        if found != status || !is_error {
            wrong.push(format!("{method} {path}: {found}, not {status}: {body}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A call that ignored a misspelt parameter would do something else than it was asked for: `?two=` instead of
/// `?to=` rolled a plugin back to another version.
#[tokio::test]
async fn unknown_and_invalid_parameters_are_named() {
    let server = Server::start("").await;
    Client::connect(&server).await.publish("prices", json!(1)).await;
    for (method, path, body, text) in [
        ("GET", "/v1/rooms?limt=5", "", "unknown field `limt`"),
        ("GET", "/v1/rooms?limit=many", "", "limit must be an integer from 1 to 1000, got 'many'"),
        ("GET", "/v1/rooms/prices/history?ofset=1", "", "unknown field `ofset`"),
        (
            "GET",
            "/v1/rooms/prices?limit=1",
            "",
            "GET /v1/rooms/{room} has no query parameters, got 'limit=1'",
        ),
        (
            "GET",
            "/v1/rooms/prices/messages/x/receipt",
            "",
            "offset must be an integer from 0 to 9007199254740991, got 'x'",
        ),
        (
            "GET",
            &format!("/v1/rooms/prices?{}", "x".repeat(1000)),
            "",
            &format!("has no query parameters, got '{}…'", "x".repeat(100)),
        ),
        ("POST", "/v1/plugins/prices/rollback?two=ab", "", "unknown field `two`"),
        ("POST", "/v1/plugins/prices/shadow/promote?to=ab", "", "has no query parameters, got 'to=ab'"),
        ("POST", "/v1/broadcast", r#"{"room":"prices","data":1}"#, "takes no room, got \"prices\""),
    ] {
        let (status, answer) = server.call(method, path, Some(KEY), body).await;
        let error: Value = serde_json::from_str(&answer).unwrap_or_default();
        let message = error["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(text), "{method} {path}: {status} {answer}");
        // Whoever may not make a call is told that, whatever is wrong with the query.
        let (status, answer) = server.call(method, path, Some(READER), body).await;
        assert_eq!(status, 403, "{method} {path}: {answer}");
    }
}
