//! Joining and leaving rooms, their names, their members and their history.

use serde_json::{Value, json};
use switchyard_tests::{Client, READER, Server};

fn codes(answer: &Value) -> Vec<String> {
    let results = answer["results"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let code = |result: &Value| match result["error"]["code"].as_str() {
        Some(code) => {
            assert_eq!(result["status"], "rejected", "{result}");
            assert!(result["error"]["message"].is_string(), "{result}");
            code.to_owned()
        }
        None => result["status"].as_str().unwrap_or_else(|| panic!("{result}")).to_owned(),
    };
    results.iter().map(code).collect()
}

fn named(answer: &Value) -> Vec<&str> {
    answer["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|result| result["room"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn each_room_succeeds_or_fails_alone_in_the_order_requested() {
    let server = Server::start("[tier.default]\nrooms = 3").await;
    let mut client = Client::connect(&server).await;
    client.publish("c", json!(1)).await;
    let rooms = json!(["b", "a::b", {"room": "c"}, "*", "@acme", {"room": "d", "filter": {"x": 1}},
        {"room": "e", "filter": [1]}, {"room": "f", "since": {"epoch": 1}}, "b", {"room": "a"}, "g"]);
    let answer = client.ask(json!({"type": "subscribe", "id": 2, "rooms": rooms})).await;
    assert_eq!((&answer["type"], &answer["id"]), (&json!("subscribed"), &json!(2)));
    let expected = ["b", "a::b", "c", "*", "@acme", "d", "e", "f", "b", "a", "g"];
    assert_eq!(named(&answer), expected);
    let expected = [
        "subscribed",
        "room_invalid",
        "subscribed",
        "forbidden",
        "forbidden",
        "filter_invalid",
        "filter_invalid",
        "invalid_request",
        "invalid_request",
    ];
    assert_eq!(codes(&answer)[..9], expected, "{answer}");
    assert_eq!(
        answer["results"][8]["error"]["message"],
        "another entry of this request is for room 'b'; name it once"
    );
    let result = &answer["results"][2];
    assert_eq!(result, &json!({"room": "c", "status": "subscribed", "epoch": result["epoch"], "offset": 1}));
    assert!(result["epoch"].is_string(), "{result}");

    // Rooms that were rejected do not count towards the limit.
    let mut client = Client::connect(&server).await;
    let answer = client.ask(json!({"type": "subscribe", "rooms": ["a", "a::", "b", "*", "c", "d"]})).await;
    let expected = ["subscribed", "room_invalid", "subscribed", "forbidden", "subscribed", "room_limit"];
    assert_eq!(codes(&answer), expected);
    assert_eq!(codes(&client.ask(json!({"type": "subscribe", "rooms": ["d"]})).await), ["room_limit"]);
    assert_eq!(codes(&client.ask(json!({"type": "unsubscribe", "rooms": ["a"]})).await), ["unsubscribed"]);
    assert_eq!(
        codes(&client.ask(json!({"type": "subscribe", "rooms": ["d", "a"]})).await),
        ["subscribed", "room_limit"]
    );
}

#[tokio::test]
async fn requests_without_rooms_are_invalid() {
    let server = Server::start("").await;
    let mut client = Client::connect(&server).await;
    for kind in ["subscribe", "unsubscribe"] {
        for rooms in [Value::Null, json!([]), json!("a"), json!({"room": "a"})] {
            assert_eq!(
                client.refused(json!({"type": kind, "rooms": rooms})).await,
                "invalid_request",
                "{kind} {rooms}"
            );
        }
        assert_eq!(client.refused(json!({"type": kind})).await, "invalid_request");
    }
}

#[tokio::test]
async fn room_names_follow_the_grammar_everywhere() {
    let server = Server::start("").await;
    let mut client = Client::connect(&server).await;
    let long = "a".repeat(128);
    for good in ["a", "uniswap-v3:ethereum", "A.b_c-9:x:y", ".", "-", &long] {
        assert_eq!(
            codes(&client.ask(json!({"type": "subscribe", "rooms": [good]})).await),
            ["subscribed"],
            "{good}"
        );
        let answer = client.ask(json!({"type": "unsubscribe", "rooms": [good]})).await;
        assert_eq!((codes(&answer), named(&answer)), (vec!["unsubscribed".into()], vec![good]));
    }
    let longer = "a".repeat(129);
    for bad in [
        "", ":", "a:", ":a", "a::b", "a b", "é", "a*", "**", "a@b", "@", "@a:b", "a/b", "a\n", "a\u{0}",
        &longer,
    ] {
        let answer = client.ask(json!({"type": "subscribe", "rooms": [bad, "ok"]})).await;
        assert_eq!(codes(&answer), ["room_invalid", "subscribed"], "{bad:?}");
        assert_eq!(named(&answer), [&bad[..bad.len().min(128)], "ok"], "as far as a name may be");
        assert_eq!(
            codes(&client.ask(json!({"type": "unsubscribe", "rooms": [bad]})).await),
            ["room_invalid"],
            "{bad:?}"
        );
        for request in [
            json!({"type": "publish", "room": bad, "data": 1}),
            json!({"type": "members", "room": bad}),
            json!({"type": "history", "room": bad}),
        ] {
            assert_eq!(client.refused(request.clone()).await, "room_invalid", "{request}");
        }
    }
}

#[tokio::test]
async fn leaving_is_answered_room_by_room_and_ends_deliveries() {
    let server = Server::start("").await;
    let (mut client, mut publisher) = (Client::connect(&server).await, Client::connect(&server).await);
    client.subscribe(json!(["a", "b"])).await;
    let rooms = json!(["never", "a", "*", "@acme", "@zed", "a"]);
    let answer = client.ask(json!({"type": "unsubscribe", "id": 3, "rooms": rooms})).await;
    assert_eq!((&answer["type"], &answer["id"]), (&json!("unsubscribed"), &json!(3)));
    let expected =
        ["not_subscribed", "unsubscribed", "forbidden", "forbidden", "forbidden", "not_subscribed"];
    assert_eq!(codes(&answer), expected);
    assert_eq!(answer["results"][1], json!({"room": "a", "status": "unsubscribed"}));
    publisher.publish("a", json!("unheard")).await;
    publisher.publish("b", json!("heard")).await;
    assert_eq!(client.expect("message").await["data"], "heard");
    for kind in ["members", "history"] {
        assert_eq!(client.refused(json!({"type": kind, "room": "a"})).await, "not_subscribed");
    }
    // A room that was left is no longer in the session either.
    let token = client.token();
    client.cut();
    let client = Client::resume(&server, &token).await;
    let mut rooms: Vec<_> =
        client.connected["rooms"].as_array().unwrap().iter().map(|room| room["room"].clone()).collect();
    rooms.sort_by_key(Value::to_string);
    assert_eq!(rooms, [json!("*"), json!("@acme"), json!("b")]);
}

#[tokio::test]
async fn broadcast_and_inbox_are_joined_automatically() {
    let server = Server::start("[rooms]\nungoverned = \"closed\"").await;
    let (mut acme, mut zed) = (Client::connect(&server).await, Client::connect_as(&server, READER).await);
    assert_eq!(codes(&zed.ask(json!({"type": "subscribe", "rooms": ["a"]})).await), ["room_rejected"]);
    assert_eq!(acme.refused(json!({"type": "publish", "room": "a", "data": 1})).await, "room_rejected");
    acme.publish("@zed", json!("to zed")).await;
    acme.publish("*", json!("to all")).await;
    assert_eq!(acme.expect("message").await["data"], "to all");
    let mut messages = [zed.expect("message").await, zed.expect("message").await];
    messages.sort_by_key(|message| message["room"].to_string());
    assert_eq!((&messages[0]["room"], &messages[0]["data"]), (&json!("*"), &json!("to all")));
    assert_eq!((&messages[1]["room"], &messages[1]["data"]), (&json!("@zed"), &json!("to zed")));
    let members =
        async |client: &mut Client, room: &str| client.ask(json!({"type": "members", "room": room})).await;
    assert_eq!(members(&mut zed, "@zed").await["count"], 1);
    // All principals, which only an operator's key may list.
    assert_eq!(members(&mut acme, "*").await["count"], 2);
    assert_eq!(members(&mut zed, "*").await["error"]["code"], "forbidden");
    for room in ["*", "@zed"] {
        let history = zed.ask(json!({"type": "history", "room": room})).await;
        assert_eq!(history["messages"].as_array().map(Vec::len), Some(1), "{history}");
    }
    assert_eq!(zed.refused(json!({"type": "history", "room": "@acme"})).await, "not_subscribed");
    assert_eq!(zed.refused(json!({"type": "members", "room": "@acme"})).await, "not_subscribed");
}

#[tokio::test]
async fn members_lists_a_hundred_names_and_says_if_there_are_more() {
    let keys: String = (0..101)
        .map(|n| Server::key(&format!("sk_{n}"), &format!("p{n:03}"), r#"["subscribe"]"#, ""))
        .collect();
    let server = Server::start_with(&keys).await;
    let mut clients = vec![];
    for n in 0..101 {
        let mut client = Client::connect_as(&server, &format!("sk_{n}")).await;
        client.subscribe(json!(["busy"])).await;
        clients.push(client);
        if n == 1 {
            let members = clients[0].ask(json!({"type": "members", "id": 5, "room": "busy"})).await;
            let expected = json!({"type": "members", "id": 5, "room": "busy", "count": 2, "principals": ["p000", "p001"]});
            assert_eq!(members, expected);
        }
        if n == 99 {
            let members = clients[0].ask(json!({"type": "members", "room": "busy"})).await;
            assert_eq!((&members["count"], members.get("more")), (&json!(100), None));
        }
    }
    // Sessions are counted individually, but each principal is named once.
    let mut second = Client::connect_as(&server, "sk_7").await;
    second.subscribe(json!(["busy"])).await;
    let members = second.ask(json!({"type": "members", "room": "busy"})).await;
    assert_eq!((&members["count"], &members["more"]), (&json!(102), &json!(true)));
    let mut names: Vec<_> = members["principals"].as_array().unwrap().iter().map(Value::to_string).collect();
    names.dedup();
    assert_eq!(names.len(), 100);
}

#[tokio::test]
async fn history_is_read_in_pages() {
    let server = Server::start("[rooms]\nhistory = { messages = 150, age = \"10m\" }").await;
    let mut publisher = Client::connect(&server).await;
    let mut client = Client::connect(&server).await;
    assert_eq!(client.refused(json!({"type": "history", "room": "prices"})).await, "not_subscribed");
    let joined = client.subscribe(json!(["prices"])).await;
    let epoch = joined["results"][0]["epoch"].clone();
    for n in 1..=200 {
        publisher.publish("prices", json!(n)).await;
        client.expect("message").await;
    }
    let mut read = async |since: Option<(&Value, u64)>, limit: Option<u64>| {
        let mut frame = json!({"type": "history", "id": 6, "room": "prices"});
        if let Some((epoch, offset)) = since {
            frame["since"] = json!({"epoch": epoch, "offset": offset});
        }
        if let Some(limit) = limit {
            frame["limit"] = limit.into();
        }
        let answer = client.ask(frame).await;
        let entries = answer["messages"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let span =
            (entries.first().map(|e| e["offset"].clone()), entries.last().map(|e| e["offset"].clone()));
        (span, entries.len(), answer["more"].clone(), answer.get("recovered").cloned(), answer)
    };
    let span = |from: u64, to: u64| (Some(json!(from)), Some(json!(to)));
    let (seen, count, more, recovered, answer) = read(None, None).await;
    assert_eq!((seen, count, more, recovered), (span(51, 150), 100, json!(true), None));
    assert_eq!((&answer["id"], &answer["room"], &answer["epoch"]), (&json!(6), &json!("prices"), &epoch));
    let entry = &answer["messages"][0];
    assert_eq!(entry, &json!({"room": "prices", "offset": 51, "time": entry["time"], "data": 51}));
    let (seen, _, more, recovered, _) = read(Some((&epoch, 150)), None).await;
    assert_eq!((seen, more, recovered), (span(151, 200), json!(false), None));
    let (seen, _, more, _, _) = read(Some((&epoch, 50)), Some(1000)).await;
    assert_eq!((seen, more), (span(51, 200), json!(false)));
    let (seen, _, more, _, _) = read(Some((&epoch, 198)), Some(1)).await;
    assert_eq!((seen, more), (span(199, 199), json!(true)));
    let (_, count, more, recovered, _) = read(Some((&epoch, 200)), None).await;
    assert_eq!((count, more, recovered), (0, json!(false), None));
    for (epoch, offset) in [(&epoch, 10), (&json!("other"), 100), (&epoch, 201)] {
        let (_, count, _, recovered, answer) = read(Some((epoch, offset)), None).await;
        assert_eq!((count, recovered), (100, Some(json!(false))), "{epoch} {offset}: {answer}");
    }
    for limit in [json!(0), json!(1001), json!(-1), json!("9"), json!(1.5)] {
        let code = client.refused(json!({"type": "history", "room": "prices", "limit": limit})).await;
        assert_eq!(code, "invalid_request", "{limit}");
    }
    let since = json!({"epoch": epoch, "offset": "1"});
    assert_eq!(
        client.refused(json!({"type": "history", "room": "prices", "since": since})).await,
        "invalid_request"
    );
}

#[tokio::test]
async fn invalid_acknowledgements_change_nothing_and_are_answered_only_with_an_id() {
    let server = Server::start("").await;
    let (mut publisher, mut client) = (Client::connect(&server).await, Client::connect(&server).await);
    client.subscribe(json!(["prices"])).await;
    publisher.publish("prices", json!(1)).await;
    client.expect("message").await;
    for mut ack in [
        json!({"type": "ack", "room": "elsewhere", "offset": 1}),
        json!({"type": "ack", "room": "prices", "offset": 2}),
        json!({"type": "ack", "room": "prices", "offset": "1"}),
        json!({"type": "ack", "room": "prices", "offset": -1}),
        json!({"type": "ack", "room": "prices", "offset": 0.5}),
        json!({"type": "ack", "offsets": {"elsewhere": 1}}),
        json!({"type": "ack", "offsets": {"prices": 2}}),
        json!({"type": "ack", "offsets": {"prices": "1"}}),
        json!({"type": "ack", "offsets": [1]}),
        json!({"type": "ack", "room": "a b", "offset": 1}),
        json!({"type": "ack"}),
    ] {
        client.send(ack.clone()).await;
        client.round_trip().await;
        ack["id"] = 9.into();
        let answer = client.ask(ack.clone()).await;
        assert_eq!(
            (&answer["id"], &answer["error"]["code"]),
            (&json!(9), &json!("invalid_request")),
            "{ack}"
        );
    }
    let receipt = server.get("/v1/rooms/prices/messages/1/receipt").await;
    assert_eq!(receipt, json!({"members": 1, "acknowledged": 0}));
    client.send(json!({"type": "ack", "id": 1, "room": "prices", "offset": 1})).await;
    client.round_trip().await;
    let receipt = server.get("/v1/rooms/prices/messages/1/receipt").await;
    assert_eq!(receipt, json!({"members": 1, "acknowledged": 1}));
}

/// Regression: 32,000 names in a frame of 128 kB were answered with 5.4 MB, which waited for a connection
/// that reads nothing.
#[tokio::test]
async fn an_answer_is_not_much_longer_than_its_request() {
    let server = Server::start("").await;
    let mut client = Client::connect(&server).await;
    for kind in ["subscribe", "unsubscribe"] {
        let answer = client.ask(json!({"type": kind, "rooms": vec!["!"; 32_000]})).await;
        let message = "rooms names 32000 rooms; a frame may name at most 1000, so send several frames";
        assert_eq!(answer["error"], json!({"code": "invalid_request", "message": message}));
        for name in ["\u{1}".repeat(20), "!".repeat(120), "é".repeat(55)] {
            let rooms: Vec<_> = (0..1000).map(|n| format!("{name}{n}")).collect();
            let request = json!({"type": kind, "rooms": rooms});
            let answer = client.ask(request.clone()).await;
            assert_eq!(answer["results"].as_array().map(Vec::len), Some(1000));
            let (asked, answered) = (request.to_string().len(), answer.to_string().len());
            assert!(answered < 512 << 10, "{answered} bytes for {asked}");
        }
    }
    let long = "a".repeat(100_000);
    let answer = client.ask(json!({"type": "subscribe", "rooms": [long]})).await;
    assert_eq!(answer["results"][0]["room"], "a".repeat(128), "as far as a name may be");
    client.round_trip().await;
}
