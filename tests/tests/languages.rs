//! Plugins in other languages than Rust do the same through the same contract. Compiling a language engine
//! takes seconds, so each language has one test.

use serde_json::{Value, json};
use switchyard_tests::{Client, Server, language_guest, run};
use tokio::process::Command;

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
    for part in ["deliver.matches for room 'tvl_changes' (panic)", "change must be a number, got \"none\""] {
        assert!(failure.contains(part), "{part} is not in: {failure}");
    }
    publisher.publish(ROOM, json!({"change": 1})).await;
    let marked = mark(&mut publisher).await;
    assert_eq!(before(&mut large, marked).await, [0; 0]);
    server.stop().await;
}

#[tokio::test]
async fn c_filters_a_room() {
    filters("c").await;
}

#[tokio::test]
async fn javascript_filters_a_room() {
    filters("javascript").await;
}

#[tokio::test]
async fn python_filters_a_room() {
    filters("python").await;
}

/// With the compiler that the example was built with.
#[tokio::test]
async fn c_project_of_plugin_new_builds_and_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let created = run(folder.path(), &["plugin", "new", "my-rooms", "--lang", "c"], &[]).await;
    let printed = String::from_utf8(created.stdout).expect("text");
    let folder = folder.path().join("my-rooms");
    let tools = language_guest("c").with_file_name("c/venv").canonicalize().expect("the installed compiler");
    std::os::unix::fs::symlink(tools, folder.join("venv")).expect("a link");
    let (_, commands) = printed.split_once("\nsh build.sh\n").unwrap_or_else(|| panic!("{printed}"));
    let build = || async {
        let output = Command::new("sh").arg("build.sh").current_dir(&folder).output().await.expect("a shell");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(folder.join("my_rooms.wasm")).expect("the plugin")
    };
    let built = build().await;
    assert!(built.len() < 16 << 10, "{} bytes", built.len());
    // The bindings of a new project are those that the command writes.
    std::fs::remove_dir_all(folder.join("bindings")).expect("a folder");
    let made = run(&folder, &["plugin", "bindings"], &[]).await;
    assert_eq!(String::from_utf8_lossy(&made.stdout), "wrote 4 files to bindings\n");
    assert!(build().await == built, "the same plugin");
    for (command, expected) in commands.lines().zip(["my-rooms 0.1.0 is good\n", "changes  pass  1\n"]) {
        let command = command.strip_prefix("switchyard ").unwrap_or_else(|| panic!("{command}"));
        let arguments: Vec<_> = command.split(' ').map(|word| word.trim_matches('\'')).collect();
        let output = run(&folder, &arguments, &[]).await;
        let printed = String::from_utf8(output.stdout).expect("text");
        assert!(
            printed.starts_with(expected),
            "{command}: {printed}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
