//! Plugins in other languages than Rust do the same through the same contract. Compiling a language engine
//! takes seconds, so each language has one test.

use serde_json::{Value, json};
use switchyard_tests::{Client, Server, language_guest};

const ROOM: &str = "tvl_changes";

/// A node with a room that the example plugin governs. With `strict`, an event without a change raises an
/// exception.
async fn server(language: &str) -> Server {
    let file = language_guest(language);
    // A generous budget for a busy machine, because this does not test budgets.
    Server::start(&format!(
        "[[plugin]]\nname = \"{language}\"\nfile = \"{}\"\nrooms = [\"{ROOM}\"]\nconfig = {{ strict = true }}\n\
         budget = {{ call = \"500ms\", memory = \"64MiB\" }}",
        file.display()
    ))
    .await
}

/// The status of the node's only plugin.
async fn plugin(server: &Server) -> Value {
    server.get("/v1/plugins").await["plugins"][0].clone()
}

async fn member(server: &Server, filter: Value) -> Client {
    let mut client = Client::connect(server).await;
    client.subscribe(json!([{"room": ROOM, "filter": filter}])).await;
    client
}

/// Publishes a message that passes every filter here except the one that passes nothing. A room keeps its
/// order, so everything before it has been decided when it arrives.
async fn mark(publisher: &mut Client) -> u64 {
    let answer = publisher.publish(ROOM, json!({"change": 1e9, "chain": "base"})).await;
    answer["offset"].as_u64().expect("a number")
}

/// The offsets that a member received before this one.
async fn before(client: &mut Client, mark: u64) -> Vec<u64> {
    let mut offsets = vec![];
    loop {
        match client.expect("message").await["offset"].as_u64().expect("a number") {
            offset if offset == mark => return offsets,
            offset => offsets.push(offset),
        }
    }
}

async fn filters(language: &str) {
    let server = server(language).await;
    let mut large = member(&server, json!({"minChange": 5})).await;
    let mut same = member(&server, json!({"minChange": 5.0})).await;
    let mut chains = member(&server, json!({"chains": ["Base", "ethereum", "base"], "minChange": 0.5})).await;
    let mut all = member(&server, json!({})).await;
    let mut none = member(&server, json!({"chains": []})).await;
    let status = plugin(&server).await;
    assert_eq!(
        (&status["state"], &status["plugin"]["package"]),
        (&json!("active"), &json!(format!("{language}-filter")))
    );
    assert_eq!(status["filters"], 4, "equal filters are one: {status}");

    let mut publisher = Client::connect(&server).await;
    for data in [
        json!({"change": 5, "chain": "base"}),
        json!({"change": -7.5, "chain": "polygon"}),
        json!({"change": 4.99, "chain": "BASE"}),
        json!({"change": 0.4, "chain": "ethereum"}),
        json!({"change": 6}),
    ] {
        publisher.publish(ROOM, data).await;
    }
    let marked = mark(&mut publisher).await;
    for (member, expected) in [
        (&mut large, &[1, 2, 5][..]),
        (&mut same, &[1, 2, 5]),
        (&mut chains, &[1, 3]),
        (&mut all, &[1, 2, 3, 4, 5]),
    ] {
        assert_eq!(before(member, marked).await, expected);
    }
    none.round_trip().await;

    // More filters than fit into one word of answers.
    let mut many = vec![];
    for n in 0..66 {
        many.push(member(&server, json!({"minChange": 100 + n})).await);
    }
    publisher.publish(ROOM, json!({"change": 164})).await;
    let marked = mark(&mut publisher).await;
    for (n, member) in many.iter_mut().enumerate() {
        assert_eq!(before(member, marked).await.len(), usize::from(n <= 64), "the member {n}");
    }
    drop(many);
    assert_eq!(before(&mut large, marked).await, [7]);

    for (filter, says) in [
        (json!({"minChange": -1}), "minChange must be a number, 0 or more, got -1"),
        (json!({"minChange": "5"}), "minChange must be a number, 0 or more, got \"5\""),
        (json!({"chains": "base"}), "chains must be a list of strings, e.g. [\"base\"], got \"base\""),
        (json!({"least": 5}), "unknown field \"least\" in the filter; expected minChange or chains"),
    ] {
        let wish = json!({"type": "subscribe", "rooms": [{"room": ROOM, "filter": filter}]});
        let error = &publisher.ask(wish).await["results"][0]["error"];
        assert_eq!(error["code"], "filter_invalid", "{error}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains(says)), "{says}: {error}");
    }
    assert_eq!(plugin(&server).await["last_failure"], Value::Null, "an answer is no failure");

    // An exception fails one call. Members whose filters were not evaluated are told, and the next instance
    // has all filters.
    publisher.publish(ROOM, json!({"change": "none"})).await;
    assert_eq!(large.expect("gap").await["room"], ROOM);
    let status = plugin(&server).await;
    let failure = status["last_failure"].as_str().unwrap_or_else(|| panic!("{status}"));
    for part in
        ["deliver.matches for room 'tvl_changes' (panic)", "TypeError: change must be a number, got \"none\""]
    {
        assert!(failure.contains(part), "{part} is not in: {failure}");
    }
    publisher.publish(ROOM, json!({"change": 1})).await;
    let marked = mark(&mut publisher).await;
    assert_eq!(before(&mut large, marked).await, [0; 0]);
    server.stop().await;
}

#[tokio::test]
async fn javascript_filters_a_room() {
    filters("javascript").await;
}

#[tokio::test]
async fn python_filters_a_room() {
    filters("python").await;
}
