//! `switchyard publish` and `switchyard listen` against a node.

use super::{fails, serve::PORTS, stderr, stdout};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use switchyard_tests::{
    Certificate, Client, EVENT_TIMEOUT, KEY, Process, READER, Server, binary, eventually, guest, next_line,
    run, signal,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// A `listen` process for a room, with further arguments, and the lines that it prints.
async fn listener(server: &Server, room: &str, others: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut process = Command::new(binary())
        .args(["listen", "--url", &server.url, "--json", room])
        .args(others)
        .env("SWITCHYARD_KEY", READER)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("a process");
    let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
    eventually("a listener", async || {
        let state = server.call("GET", &format!("/v1/rooms/{room}"), Some(KEY), "").await.1;
        state.contains(r#""members":1"#).then_some(())
    })
    .await;
    (process, lines)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_is_published_and_received() {
    let server = Server::start("").await;
    let folder = tempfile::tempdir().expect("a folder");
    let (_listening, mut printed) = listener(&server, "other", &["prices"]).await;
    let mut member = Client::connect(&server).await;
    member.subscribe(json!(["prices"])).await;
    fs::write(folder.path().join("key"), format!("{KEY}\n")).expect("a file");
    let arguments = [
        "publish",
        "--url",
        &server.url,
        "--room",
        "prices",
        "--event",
        "tick",
        "--key-file",
        "key",
        r#"{"a": 1.10}"#,
    ];
    let output = run(folder.path(), &arguments, &[]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let line = next_line(&mut printed).await.expect("a line");
    let message: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&message["room"], &message["event"], &message["offset"]),
        (&json!("prices"), &json!("tick"), &json!(1))
    );
    assert!(line.contains(r#"{"a": 1.10}"#), "byte for byte: {line}");

    let output = run(
        folder.path(),
        &["publish", "--json", "--url", &server.url, "--room", "prices", "2"],
        &[("SWITCHYARD_KEY", KEY)],
    )
    .await;
    assert_eq!(lines(&stdout(&output))[0]["offset"], 2, "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_feed_keeps_its_pace() {
    let server = Server::start("").await;
    let folder = tempfile::tempdir().expect("a folder");
    let feed: String = (0..11)
        .map(|n| json!({"time": 1_760_000_000_000u64 + n * 500, "room": format!("feed:{}", n % 2), "event": "e", "data": n}).to_string() + "\n")
        .collect();
    fs::write(folder.path().join("feed.ndjson"), feed).expect("a file");
    let mut member = Client::connect(&server).await;
    member.subscribe(json!(["feed:0", "feed:1"])).await;
    let started = Instant::now();
    let arguments = ["publish", "--url", &server.url, "--from", "feed.ndjson", "--speed", "5x"];
    let output = run(folder.path(), &arguments, &[("SWITCHYARD_KEY", KEY)]).await;
    let took = started.elapsed();
    assert!(output.status.success(), "{}", stderr(&output));
    for n in 0..11 {
        let message = member.expect("message").await;
        assert_eq!((&message["data"], &message["room"]), (&json!(n), &json!(format!("feed:{}", n % 2))));
    }
    // Five seconds at five times the speed.
    assert!(took >= Duration::from_millis(950) && took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listening_filters_and_continues_after_a_lost_connection() {
    let plugin = format!(
        "[[plugin]]\nname = \"thresholds\"\nfile = \"{}\"\nrooms = [\"tvl\"]",
        guest("threshold_filter").display()
    );
    let server = Server::start(&plugin).await;
    let (_listening, mut printed) = listener(&server, "tvl", &["--filter", r#"{"minChange":5}"#]).await;
    let mut publisher = Client::connect(&server).await;
    for change in [1, 5, 2, 6] {
        publisher.publish("tvl", json!({"change": change})).await;
    }
    for change in [5, 6] {
        let line = next_line(&mut printed).await.expect("a line");
        let message: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(message["data"]["change"], change);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_one_sentence() {
    let server = Server::start("").await;
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let publish = |key: &'static str, room: &'static str, data: &'static str| {
        let url = server.url.clone();
        async move {
            let output =
                run(folder, &["publish", "--url", &url, "--room", room, data], &[("SWITCHYARD_KEY", key)])
                    .await;
            assert!(!output.status.success(), "{}", stdout(&output));
            let error = stderr(&output);
            assert!(!error.contains("panicked") && !error.contains("sk_"), "{error}");
            error
        }
    };
    assert!(publish(READER, "prices", "1").await.contains("scope"));
    publish("sk_unknown", "prices", "1").await;
    assert!(publish(KEY, "a::b", "1").await.contains("a::b"));
    publish(KEY, "prices", "{").await;
    fails(folder, &["publish", "--url", &server.url, "--room", "prices", "1"], "SWITCHYARD_KEY").await;
    fails(folder, &["listen", "--url", "http://127.0.0.1:1/", "prices"], "ws://").await;
    fails(folder, &["publish", "--url", &server.url, "--from", "gone.ndjson"], "").await;
    let no_key = ["publish", "--url", &server.url, "--room", "prices", "--key-file", "gone.key", "1"];
    let error = fails(folder, &no_key, "--key-file gone.key: No such file or directory (os error 2)").await;
    assert_eq!(error.matches("os error").count(), 1, "{error}");

    let secure = server.url.replace("ws://", "wss://");
    let listen = run(folder, &["listen", "--url", &secure, "prices"], &[("SWITCHYARD_KEY", KEY)]).await;
    let error = stderr(&listen);
    assert_eq!(error, format!("switchyard: {secure}: the server does not use TLS here; try ws://\n"));

    fs::write(folder.join("bad.ndjson"), "{\"room\":\"prices\",\"data\":1}\n{\"room\":oops}\n")
        .expect("a file");
    let feed = ["publish", "--url", &server.url, "--from", "bad.ndjson", "--speed", "max"];
    let error = stderr(&run(folder, &feed, &[("SWITCHYARD_KEY", KEY)]).await);
    assert!(error.contains("switchyard: line 2, column 9: expected value; expected {"), "{error}");
    assert!(error.contains(", 1 invalid line\n"), "{error}");
    assert!(error.ends_with("switchyard: 1 of 2 messages was not published\n"), "{error}");
}

/// A wrong scheme is the most frequent mistake with TLS. The client is told, and the operator once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_scheme_is_explained_to_the_client_and_in_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let (with_tls, without_tls) = (folder.path().join("tls"), folder.path().join("plain"));
    fs::create_dir(&with_tls).expect("a folder");
    fs::create_dir(&without_tls).expect("a folder");
    Certificate::generate().write_to(&with_tls);
    let tls = format!("{}\n[admin]", Certificate::CONFIG);
    fs::write(with_tls.join("s.toml"), PORTS.replace("[admin]", &tls) + &Server::keys()).expect("a file");
    fs::write(without_tls.join("s.toml"), PORTS.to_owned() + &Server::keys()).expect("a file");
    let secure = Process::serve(&with_tls, &["--config", "s.toml"], &[]).await;
    let plain = Process::serve(&without_tls, &["--config", "s.toml"], &[]).await;
    let run = async |arguments: &[&str]| {
        let output = run(folder.path(), arguments, &[("SWITCHYARD_KEY", KEY)]).await;
        assert!(!output.status.success(), "{arguments:?}: {}", stdout(&output));
        stderr(&output)
    };

    let url = secure.url.replace("wss://", "ws://");
    let expected = format!(
        "switchyard: {url}: the server does not answer in HTTP here, so it probably uses TLS; try wss://\n"
    );
    assert_eq!(run(&["listen", "--url", &url, "prices"]).await, expected);
    assert_eq!(run(&["publish", "--url", &url, "--room", "prices", "1"]).await, expected);
    let admin = format!("http://{}", secure.address());
    let error = run(&["plugin", "list", "--admin", &admin]).await;
    assert!(error.starts_with(&format!("switchyard: --admin {admin}: the answer is not HTTP")), "{error}");
    assert!(error.contains("the admin listener (admin.listen), which does not use TLS"), "{error}");
    let error = run(&["plugin", "list", "--admin", "https://127.0.0.1:9090"]).await;
    assert!(error.contains("the admin listener does not use TLS; write http://, not https://"), "{error}");

    let url = plain.url.replace("ws://", "wss://");
    assert!(run(&["listen", "--url", &url, "prices"]).await.ends_with("try ws://\n"));
    let url = plain.admin.replace("http://", "wss://");
    assert!(run(&["listen", "--url", &url, "prices"]).await.ends_with("try ws://\n"));

    let lines_in_log = async |folder: &Path, text: &str| {
        let log = || fs::read_to_string(folder.join("stderr")).expect("a log");
        eventually("a line in the log", async || log().contains(text).then_some(())).await;
        log().matches(text).count()
    };
    // There were three such clients.
    assert_eq!(lines_in_log(&with_tls, "clients must use wss://, not ws://").await, 1);
    assert_eq!(lines_in_log(&without_tls, "clients must use ws://, not wss://").await, 1);
    assert_eq!(lines_in_log(&without_tls, "use http://, not https://").await, 1);
}

/// Sends SIGTERM, as when a container is stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listening_acknowledges_the_last_message_when_stopped() {
    for name in ["TERM", "INT"] {
        let server = Server::start("").await;
        let (mut listening, mut printed) = listener(&server, "prices", &[]).await;
        let mut publisher = Client::connect(&server).await;
        publisher.publish("prices", json!(1)).await;
        assert!(next_line(&mut printed).await.is_some());
        signal(&listening, name).await;
        let ended =
            tokio::time::timeout(EVENT_TIMEOUT, listening.wait()).await.expect("in time").expect("a status");
        assert_eq!(ended.code(), Some(0), "{name}: {ended}");
        eventually("an acknowledgement", async || {
            let receipt = server.get("/v1/rooms/prices/messages/1/receipt").await;
            (receipt["acknowledged"] == 1).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_feed_reports_what_happened_to_its_messages() {
    let server = Server::start("").await;
    let folder = tempfile::tempdir().expect("a folder");
    let feed =
        "{\"time\":0,\"room\":\"prices\",\"data\":1}\n{\"time\":86400000,\"room\":\"prices\",\"data\":2}\n";
    fs::write(folder.path().join("feed"), feed).expect("a file");
    let arguments = ["publish", "--url", &server.url, "--from", "feed", "--json"];
    let mut command = switchyard_tests::command(folder.path(), &arguments, &[("SWITCHYARD_KEY", KEY)]);
    let mut publishing = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
    let mut printed = BufReader::new(publishing.stdout.take().expect("piped")).lines();
    let line = next_line(&mut printed).await.expect("a line");
    assert!(line.contains(r#""offset":1"#), "{line}");
    signal(&publishing, "TERM").await;
    let output = tokio::time::timeout(EVENT_TIMEOUT, publishing.wait_with_output())
        .await
        .expect("in time")
        .expect("a status");
    assert_eq!(output.status.code(), Some(1), "it was not all");
    assert!(stderr(&output).contains("interrupted"), "{}", stderr(&output));
}
