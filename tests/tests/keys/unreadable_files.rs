//! Files that are temporarily unreadable are read when they become readable. What can never be read is not
//! retried again and again.

use super::tls;
use serde_json::json;
use std::{fs, time::Duration};
use switchyard_tests::{
    Answer, Certificate, Client, EVENT_TIMEOUT, Node, Process, Server, eventually, eventually_within, guest,
    replace_file,
};
use tokio::process::Command;

/// Slightly longer than the interval at which the node retries unreadable files.
const AGAIN: Duration = Duration::from_millis(5500);

/// Sets how many files the process may have open: a soft limit, which can be raised again.
async fn limit(process: &Process, files: u32) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &process.id().to_string(), &format!("--nofile={files}:")]);
    assert!(command.status().await.expect("prlimit is there").success());
}

#[tokio::test]
async fn a_certificate_and_a_plugin_are_read_once_files_can_be_opened_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path();
    fs::create_dir(place.join("plugins")).expect("a folder");
    let file = place.join("plugins/dydx.wasm");
    fs::write(&file, "no Wasm").expect("a file");
    let (first, second) = (Certificate::generate(), Certificate::generate());
    first.write_to(place);
    // Without a changed configuration, which would make the node reload everything.
    let environment = [
        ("SWITCHYARD_SERVER__LISTEN", "127.0.0.1:0"),
        ("SWITCHYARD_ADMIN__LISTEN", "127.0.0.1:0"),
        ("SWITCHYARD_SERVER__TLS__CERTIFICATE", "cert.pem"),
        ("SWITCHYARD_SERVER__TLS__KEY", "key.pem"),
    ];
    let process = Process::serve(place, &[], &environment).await;
    let key = process.startup["key"].as_str().expect("a key");
    tls::connect_to(&process.url, &first.certificate, key).await.expect("a trusted server");
    let log = || fs::read_to_string(place.join("stderr")).expect("a log");

    limit(&process, 3).await;
    replace_file(&file, fs::read(guest("orderbook")).expect("a guest"));
    replace_file(&place.join("key.pem"), &second.key);
    replace_file(&place.join("cert.pem"), &second.certificate);
    process.signal("HUP").await;
    for what in ["; the certificate stays as it was", "; plugin 'dydx' stays as it was"] {
        let is_logged =
            |log: String| log.lines().any(|line| line.contains("os error 24") && line.contains(what));
        eventually(what, async || is_logged(log()).then_some(())).await;
    }
    limit(&process, 1000).await;
    // Without any further signal.
    eventually_within(2 * EVENT_TIMEOUT, "the second certificate", async || {
        tls::connect_to(&process.url, &second.certificate, key).await
    })
    .await;
    eventually_within(6 * EVENT_TIMEOUT, "a version", async || {
        let (_, body) = Answer::called(&process.admin, "GET", "/v1/plugins/dydx", Some(key), "").await;
        body.contains("\"package\":\"orderbook\"").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_configuration_is_read_once_files_can_be_opened_again() {
    let node = Node::start("memory", "").await;
    let file = node.folder().join("switchyard.toml");
    let text = fs::read_to_string(&file).expect("a configuration");
    limit(&node.process, 3).await;
    replace_file(&file, text + &Server::key("sk_new", "new", r#"["subscribe"]"#, ""));
    eventually("a refusal", async || node.log().contains("all settings stay as they were").then_some(()))
        .await;
    limit(&node.process, 1000).await;
    eventually("the new key", async || Client::is_accepted(&node.url, "sk_new").await.then_some(())).await;
}

/// A pipe can be read only once. Retrying gives nothing new, so the node must not reload and compile what the
/// configuration names.
#[tokio::test]
async fn an_unreadable_configuration_is_tried_once_per_sighup() {
    let folder = Node::create_folder(
        "memory",
        "[[plugin]]\nname = \"text\"\nfile = \"text.wasm\"\nrooms = [\"text\"]\n",
    );
    fs::write(folder.path().join("text.wasm"), "no Wasm").expect("a file");
    let pipe = folder.path().join("switchyard.toml");
    let text = fs::read_to_string(&pipe).expect("a configuration");
    fs::remove_file(&pipe).expect("gone");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there").success());
    let writer = std::thread::spawn(move || fs::write(pipe, text).expect("somebody reads it"));
    let node = Node::start_in(folder).await;
    writer.join().expect("it was read");
    let tried = || node.log().matches("plugin 'text' stays as it was").count();
    let begun = tried();
    node.process.signal("HUP").await;
    eventually("an attempt", async || (tried() > begun).then_some(())).await;
    // Nothing reports what is not done. The pipe changed because it was read; a file that is retried would
    // have been read twice by the end.
    tokio::time::sleep(2 * AGAIN).await;
    let settled = tried();
    tokio::time::sleep(2 * AGAIN).await;
    assert_eq!(tried(), settled, "{}", node.log());
    let mut client = Client::connect_at(&node.url, json!({"auth": {"apiKey": switchyard_tests::KEY}})).await;
    client.round_trip().await;
}
