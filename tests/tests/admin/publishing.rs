//! `POST /v1/publish` and `/v1/broadcast`.

use serde_json::{Value, json};
use switchyard_tests::{Client, KEY, Server};

async fn post(server: &Server, path: &str, body: &str) -> Value {
    let (status, answer) = server.call("POST", path, Some(KEY), body).await;
    assert_eq!(status, 200, "{body}: {answer}");
    serde_json::from_str(&answer).expect("JSON")
}

#[tokio::test]
async fn one_message_is_published() {
    let server = Server::start("").await;
    let mut member = Client::connect(&server).await;
    let joined = member.subscribe(json!(["prices"])).await;
    let answer =
        post(&server, "/v1/publish", r#"{"room":"prices","event":"tick","data":[1],"unknown":{}}"#).await;
    assert_eq!(answer, json!({"room": "prices", "epoch": joined["results"][0]["epoch"], "offset": 1}));
    let message = member.expect("message").await;
    assert_eq!((&message["event"], &message["data"]), (&json!("tick"), &json!([1])));
    let answer = post(&server, "/v1/publish", r#"{"room":"@acme","data":null}"#).await;
    assert_eq!((&answer["room"], &answer["offset"]), (&json!("@acme"), &json!(1)));
    assert_eq!(member.expect("message").await["room"], "@acme");
    let answer = post(&server, "/v1/broadcast", r#"{"event":"news","data":{"a":1}}"#).await;
    assert_eq!((&answer["room"], &answer["offset"]), (&json!("*"), &json!(1)));
    let message = member.expect("message").await;
    assert_eq!(
        (&message["room"], &message["event"], &message["data"]),
        (&json!("*"), &json!("news"), &json!({"a": 1}))
    );
}

#[tokio::test]
async fn each_message_of_a_list_succeeds_or_fails_alone() {
    let keys = Server::keys() + &Server::key("sk_pub", "pub", r#"["publish"]"#, "");
    let server = Server::start_with(&(keys + "[session]\nmessage = \"1KiB\"")).await;
    let large = "x".repeat(1024);
    let list = json!([
        {"room": "a", "data": 1, "key": "k"},
        {"room": "a::b", "data": 1},
        {"room": "*", "data": 1},
        {"room": "a"},
        7,
        {"room": "a", "data": large},
        {"room": "a", "data": 2, "key": "k"},
        ["a", "tick", 1],
        {"room": "a", "data": 2},
    ]);
    let (status, answer) = server.call("POST", "/v1/publish", Some("sk_pub"), list.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let answer: Vec<Value> = serde_json::from_str(&answer).expect("a list");
    let short = |entry: &Value| match entry["error"]["code"].as_str() {
        Some(code) => code.to_owned(),
        None => format!("{} {}", entry["offset"], entry.get("duplicate").is_some()),
    };
    let expected = [
        "1 false",
        "room_invalid",
        "forbidden",
        "invalid_request",
        "invalid_request",
        "message_too_large",
        "1 true",
        "invalid_request",
        "2 false",
    ];
    assert_eq!(answer.iter().map(short).collect::<Vec<_>>(), expected);
    assert_eq!(post(&server, "/v1/publish", "[]").await, json!([]));
}

#[tokio::test]
async fn a_list_has_at_most_a_thousand_messages_of_any_size() {
    let server = Server::start("[session]\nmessage = \"1KiB\"").await;
    let list = |count: usize| {
        json!(vec![json!({"room": "a", "event": "e".repeat(64), "data": "x".repeat(1022)}); count])
    };
    let answer = post(&server, "/v1/publish", &list(1000).to_string()).await;
    let answers = answer.as_array().expect("a list");
    assert_eq!((answers.len(), &answers[999]["offset"]), (1000, &json!(1000)));
    let small = json!(vec![json!({"room": "a", "data": 1}); 1001]);
    let (status, _) = server.refused("POST", "/v1/publish", Some(KEY), small.to_string()).await;
    assert!([400, 413].contains(&status), "{status}");
    let room = server.get("/v1/rooms/a").await;
    assert_eq!(room["offset"], 1000, "nothing of a refused list is published");
}

#[tokio::test]
async fn invalid_bodies_are_rejected() {
    let server = Server::start("[session]\nmessage = \"1KiB\"").await;
    let long = format!(r#"{{"room":"a","data":"{}"}}"#, "x".repeat(1023));
    let deep = format!(r#"{{"room":"a","data":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let array = r#"["publish",null,null,null,null,"a",null,1,null,null,null,null,null]"#;
    for (body, status, code) in [
        ("", 400, "invalid_request"),
        ("{", 400, "invalid_request"),
        ("7", 400, "invalid_request"),
        (r#"{"room":"a"}"#, 400, "invalid_request"),
        (r#"{"data":1}"#, 400, "invalid_request"),
        (r#"{"room":"a::","data":1}"#, 400, "room_invalid"),
        (r#"{"room":"a","data":1,"event":7}"#, 400, "invalid_request"),
        (&*long, 413, "message_too_large"),
        (&*deep, 400, "invalid_request"),
    ] {
        let refused = server.refused("POST", "/v1/publish", Some(KEY), body).await;
        assert_eq!(refused, (status, code.into()), "{}", &body[..body.len().min(60)]);
    }
    assert_eq!(server.refused("POST", "/v1/publish", Some(KEY), b"\"\xff\"").await.0, 400);
    let answer = post(&server, "/v1/publish", &format!("[{array}]")).await;
    assert_eq!(answer[0]["error"]["code"], "invalid_request", "a message is an object: {answer}");
    for body in ["", "7", "[]", r#"{"event":"x"}"#, r#"{"data":1,"event":7}"#] {
        let refused = server.refused("POST", "/v1/broadcast", Some(KEY), body).await;
        assert_eq!(refused, (400, "invalid_request".into()), "{body}");
    }
    // The body is not read if it is larger than any list may be.
    let huge = "x".repeat(16 << 20);
    assert_eq!(server.refused("POST", "/v1/publish", Some(KEY), huge).await.0, 413);
}
