//! `switchyard serve`: starting, reloading, stopping.

use serde_json::{Value, json};
use std::{
    fs,
    time::{Duration, Instant},
};
use switchyard_tests::{Answer, Client, KEY, Process, Server, Starting, eventually};

pub const PORTS: &str = "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";

pub fn connect(key: &str) -> Value {
    json!({"auth": {"apiKey": key}})
}

async fn ready(process: &Process) -> Answer {
    let address = process.admin.strip_prefix("http://").expect("HTTP");
    Answer::of(address, "GET", "/readyz", "", b"").await
}

#[tokio::test]
async fn a_node_serves_reloads_and_stops_without_loss() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("s.toml");
    let all = r#"["subscribe", "publish"]"#;
    fs::write(&file, format!("{PORTS}{}", Server::keys())).expect("a file");
    let mut process = Process::serve(folder.path(), &["--config", "s.toml"], &[]).await;
    assert_eq!(
        process.startup.get("key").filter(|key| !key.is_null()),
        None,
        "no key but the configured ones"
    );
    let mut client = Client::open(&*process.url).await.authenticate(connect(KEY)).await;
    client.subscribe(json!(["prices"])).await;
    assert_eq!(ready(&process).await.status, 200);

    fs::write(&file, format!("{PORTS}{}{}", Server::keys(), Server::key("sk_new", "new", all, "")))
        .expect("a file");
    process.signal("HUP").await;
    let url = process.url.clone();
    let mut new = eventually("the new key", async || {
        let mut client = Client::open(&*url).await;
        let mut frame = connect("sk_new");
        frame["type"] = "connect".into();
        (client.ask(frame).await["type"] == "connected").then_some(client)
    })
    .await;
    new.publish("prices", json!(1)).await;
    assert_eq!(client.expect("message").await["data"], 1, "and nobody was dropped");

    let started = Instant::now();
    process.signal("TERM").await;
    let closed = client.closed().await;
    assert_eq!(closed.code, 4600);
    closed.reason.parse::<u64>().expect("milliseconds");
    assert_eq!(new.closed().await.code, 4600);
    assert_eq!(process.ended().await.code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let log = fs::read_to_string(folder.path().join("stderr")).expect("a log");
    let url = &process.url;
    assert!(log.contains(&format!("serving clients at {url}, and operators at http://")), "{log}");
    assert!(log.contains("configuration reloaded; changed: keys and tiers"), "{log}");
    assert!(!log.contains("there is no API key"), "{log}");
    assert!(!log.contains(KEY) && !log.contains(&client.token()) && !log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn without_a_configuration_a_node_creates_a_key_and_finds_plugins() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("plugins")).expect("a folder");
    fs::copy(switchyard_tests::guest("orderbook"), folder.path().join("plugins/dydx.wasm")).expect("a copy");
    let environment = [
        ("SWITCHYARD_SERVER__LISTEN", "127.0.0.1:0"),
        ("SWITCHYARD_ADMIN__LISTEN", "127.0.0.1:0"),
        ("SWITCHYARD_SERVER__PATH", "/elsewhere"),
        ("SWITCHYARD_KEY", "sk_of_the_command_line"),
    ];
    let mut process = Process::serve(folder.path(), &[], &environment).await;
    assert!(process.url.ends_with("/elsewhere"), "{}", process.url);
    let key = process.startup["key"].as_str().expect("a key").to_owned();
    let mut client = Client::open(&*process.url).await.authenticate(connect(&key)).await;
    let answer = client
        .ask(json!({"type": "subscribe", "rooms": ["dydx:eth", {"room": "dydx:btc", "filter": {}}]}))
        .await;
    assert_eq!(
        answer["results"][1]["status"], "subscribed",
        "a plugin is there, as it takes a filter: {answer}"
    );
    // The node watches the folder: a new version becomes active as soon as its file is there. This one
    // accepts other filters.
    let (new, file) = (folder.path().join("plugins/new"), folder.path().join("plugins/dydx.wasm"));
    fs::copy(switchyard_tests::guest("threshold_filter"), &new).expect("a copy");
    fs::rename(new, file).expect("one step");
    client.ask(json!({"type": "unsubscribe", "rooms": ["dydx:btc"]})).await;
    eventually("the new version", async || {
        let url = process.url.clone();
        let mut client = Client::open(&*url).await.authenticate(connect(&key)).await;
        let answer = client
            .ask(json!({"type": "subscribe", "rooms": [{"room": "dydx:btc", "filter": {"minChange": 1}}]}))
            .await;
        (answer["results"][0]["status"] == "subscribed").then_some(())
    })
    .await;
    process.signal("INT").await;
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_node_without_any_key_says_that_nobody_can_connect() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("s.toml"), PORTS).expect("a file");
    let mut process = Process::serve(folder.path(), &["--config", "s.toml"], &[]).await;
    process.signal("TERM").await;
    assert_eq!(process.ended().await.code(), Some(0));
    let log = fs::read_to_string(folder.path().join("stderr")).expect("a log");
    let warning =
        "there is no API key, so nobody can connect: run `switchyard key new` and put the [[key]] section";
    assert!(log.contains(warning), "{log}");
}

#[tokio::test]
async fn the_environment_overrides_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let text =
        format!("{PORTS}{}[session]\nmessage = \"1KiB\"\n[rooms]\nungoverned = \"open\"", Server::keys());
    fs::write(folder.path().join("s.toml"), text).expect("a file");
    let environment = [
        ("SWITCHYARD_SESSION__MESSAGE", "2KiB"),
        ("SWITCHYARD_SESSION__HEARTBEAT__INTERVAL", "7s"),
        ("SWITCHYARD_ROOMS__UNGOVERNED", "closed"),
    ];
    let process = Process::serve(folder.path(), &["--config", "s.toml"], &environment).await;
    let mut client = Client::open(&*process.url).await.authenticate(connect(KEY)).await;
    assert_eq!(client.connected["limits"]["messageBytes"], 2048);
    assert_eq!(client.connected["heartbeat"], json!({"interval": 7000, "timeout": 10_000}));
    let answer = client.ask(json!({"type": "subscribe", "rooms": ["a"]})).await;
    assert_eq!(answer["results"][0]["error"]["code"], "room_rejected");
}

/// A plugin that fails closes its rooms; everything else is served.
#[tokio::test]
async fn a_node_starts_with_a_plugin_that_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("text.wasm"), "no Wasm").expect("a file");
    let plugin = "[[plugin]]\nname = \"text\"\nfile = \"text.wasm\"\nrooms = [\"text:*\"]\n";
    fs::write(folder.path().join("s.toml"), format!("{PORTS}{}{plugin}", Server::keys())).expect("a file");
    let process = Process::serve(folder.path(), &["--config", "s.toml"], &[]).await;
    let mut client = Client::open(&*process.url).await.authenticate(connect(KEY)).await;
    let answer = client.ask(json!({"type": "subscribe", "rooms": ["text:a", "open"]})).await;
    assert_eq!(answer["results"][0]["error"]["code"], "plugin_failed", "{answer}");
    assert_eq!(answer["results"][1]["status"], "subscribed");
    assert!(ready(&process).await.body.contains("text"));
    // Repaired while the node runs.
    fs::copy(switchyard_tests::guest("orderbook"), folder.path().join("text.wasm")).expect("a copy");
    eventually("a plugin that works", async || {
        let url = process.url.clone();
        let mut client = Client::open(&*url).await.authenticate(connect(KEY)).await;
        let answer = client.ask(json!({"type": "subscribe", "rooms": ["text:a"]})).await;
        (answer["results"][0]["status"] == "subscribed").then_some(())
    })
    .await;
}

/// As with `--config <(vault …)` while vault does not answer.
#[tokio::test]
async fn a_start_that_waits_for_its_configuration_can_be_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("s.toml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there").success());
    let mut starting = Starting::serve(folder.path(), &["--config", "s.toml"], &[]);
    let status = format!("/proc/{}/status", starting.child.id().expect("it runs"));
    // Until the node handles the signal, it ends any process.
    eventually("a process that awaits SIGTERM", async || {
        let status = fs::read_to_string(&status).expect("Linux");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?.trim();
        (u64::from_str_radix(caught, 16).expect("signals") & (1 << 14) != 0).then_some(())
    })
    .await;
    starting.signal("TERM").await;
    let ended = tokio::time::timeout(Duration::from_secs(5), starting.child.wait()).await;
    assert_eq!(ended.expect("an end").expect("a status").code(), Some(0), "{}", starting.log());

    // Another pipe, into which somebody finally writes.
    let starting = Starting::serve(folder.path(), &["--config", "s.toml"], &[]);
    let text = format!("{PORTS}{}", Server::keys());
    let writer = std::thread::spawn(move || fs::write(pipe, text).expect("somebody reads it"));
    let process = starting.until_serving().await;
    writer.join().expect("it was read");
    Client::open(&*process.url).await.authenticate(connect(KEY)).await.round_trip().await;
}
