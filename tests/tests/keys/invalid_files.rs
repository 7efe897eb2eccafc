//! Files that are truncated, empty or invalid: the node keeps what it has, and reports that.

use serde_json::Value;
use std::fs;
use switchyard_tests::{
    Answer, Certificate, Client, KEY, Node, READER, Redis, Server, eventually, replace_file, run,
};

fn configuration(node: &Node) -> String {
    fs::read_to_string(node.folder().join("switchyard.toml")).expect("a configuration")
}

/// Replaces the configuration of a node.
fn reconfigure(node: &Node, text: impl AsRef<[u8]>) {
    replace_file(&node.folder().join("switchyard.toml"), text);
}

async fn reasons(node: &Node) -> Vec<String> {
    let (status, body) = node.call("GET", "/readyz", "").await;
    assert_eq!(status, 200, "it serves as before: {body}");
    let readiness: Value = serde_json::from_str(&body).expect("JSON");
    let reasons = readiness["reasons"].as_array().unwrap_or_else(|| panic!("{body}")).iter();
    reasons.map(|reason| reason.as_str().expect("text").to_owned()).collect()
}

/// Waits until the node says why it rejected its configuration.
async fn refuses(node: &Node, why: &str) {
    shows_reason(node, "the configuration", why).await;
}

async fn shows_reason(node: &Node, what: &str, why: &str) {
    eventually(why, async || {
        let (reasons, begin) = (reasons(node).await, format!("{what} was rejected: "));
        reasons.iter().any(|r| r.starts_with(&begin) && r.contains(why)).then_some(())
    })
    .await;
}

async fn is_content(node: &Node) {
    eventually("a good configuration", async || reasons(node).await.is_empty().then_some(())).await;
}

async fn reloads(node: &Node, result: &str) -> u64 {
    let (_, text) = node.call("GET", "/metrics", "").await;
    let series = format!("switchyard_reloads_total{{result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&*series)?.parse().ok()).unwrap_or(0)
}

/// Sends SIGHUP and waits until the node has handled it.
async fn hangup(node: &Node, result: &str) {
    let before = reloads(node, result).await;
    node.process.signal("HUP").await;
    eventually(result, async || (reloads(node, result).await > before).then_some(())).await;
}

#[tokio::test]
async fn an_empty_or_invalid_file_changes_nothing() {
    let node = Node::start("memory", "").await;
    let mut client = node.client().await;
    let (file, good) = (node.folder().join("switchyard.toml"), configuration(&node));
    fs::write(&file, "").expect("an empty file");
    refuses(&node, "the file is empty").await;
    hangup(&node, "refused").await;
    reconfigure(&node, "# everything is a comment\n\n");
    hangup(&node, "refused").await;
    fs::remove_file(&file).expect("gone");
    refuses(&node, "No such file").await;
    fs::create_dir(&file).expect("a folder");
    refuses(&node, "found a folder").await;
    fs::remove_dir(&file).expect("gone");
    let made = std::process::Command::new("mkfifo").arg(&file).status().expect("mkfifo is there");
    assert!(made.success());
    refuses(&node, "found a pipe").await;
    // Again and again, because nothing confirms it.
    hangup(&node, "refused").await;
    hangup(&node, "refused").await;
    client.round_trip().await;
    assert!(Client::is_accepted(&node.url, READER).await);
    reconfigure(&node, good + &Server::key("sk_new", "new", r#"["subscribe"]"#, ""));
    eventually("the next good file", async || Client::is_accepted(&node.url, "sk_new").await.then_some(()))
        .await;
    is_content(&node).await;
    assert!(reloads(&node, "applied").await > 0);
    client.round_trip().await;
}

#[tokio::test]
async fn removing_all_keys_takes_a_second_sighup() {
    let node = Node::start("memory", "").await;
    let mut client = node.client().await;
    let good = configuration(&node);
    let without = good.split("[[key]]").next().expect("what comes before keys").to_owned();
    reconfigure(&node, &without);
    refuses(&node, "it would remove all 2 keys; if this is intended, send SIGHUP twice").await;
    hangup(&node, "refused").await;
    refuses(&node, "it would remove all 2 keys; to confirm, send SIGHUP again").await;
    // Another text needs its own confirmation.
    reconfigure(&node, format!("{without}# cut off\n"));
    refuses(&node, "if this is intended, send SIGHUP twice").await;
    hangup(&node, "refused").await;
    client.round_trip().await;
    assert!(Client::is_accepted(&node.url, READER).await);
    hangup(&node, "applied").await;
    assert_eq!(client.closed().await.code, 4410);
    assert!(!Client::is_accepted(&node.url, READER).await);
    let log = node.log();
    assert!(log.contains("it would remove all 2 keys"), "{log}");
}

#[tokio::test]
async fn a_truncated_file_removes_at_most_half_of_the_keys() {
    let more: String = ["one", "two"].map(|name| Server::key(name, name, r#"["subscribe"]"#, "")).concat();
    let node = Node::start("memory", &more).await;
    let mut client = Client::connect_at(&node.url, serde_json::json!({"auth": {"apiKey": "two"}})).await;
    let good = configuration(&node);
    let end = |n: usize| good.match_indices("[[key]]").nth(n).map_or(good.len(), |(at, _)| at);
    // One key of four remains, so three would be removed.
    reconfigure(&node, &good[..end(1)]);
    refuses(&node, "it would remove 3 of 4 keys").await;
    client.round_trip().await;
    assert!(Client::is_accepted(&node.url, KEY).await);
    // Removing one key takes effect at once.
    reconfigure(&node, &good[..end(3)]);
    assert_eq!(client.closed().await.code, 4410);
    is_content(&node).await;
}

/// Keys in the store have a tier of the configuration.
#[tokio::test]
async fn a_file_truncated_before_a_tier_revokes_no_key_in_the_store() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url(), "[tier.gold]\nconnections = 7\n").await;
    let add = ["key", "add", "--principal", "neo", "--scope", "subscribe", "--tier", "gold", "--json"];
    let arguments = [&add[..], &["--config", "switchyard.toml"]].concat();
    let added = run(node.folder(), &arguments, &[]).await;
    assert!(added.status.success(), "{added:?}");
    let made: Value = serde_json::from_slice(&added.stdout).expect("JSON");
    let key = made["key"].as_str().unwrap_or_else(|| panic!("{made}"));
    eventually("the key", async || Client::is_accepted(&node.url, key).await.then_some(())).await;
    let mut client = Client::connect_at(&node.url, serde_json::json!({"auth": {"apiKey": key}})).await;
    let good = configuration(&node);
    let cut = good.replace("[tier.gold]\nconnections = 7\n", "");
    assert_ne!(cut, good);
    reconfigure(&node, &cut);
    refuses(&node, "it would revoke the only key in the store, because it lacks the tier 'gold'; if this")
        .await;
    hangup(&node, "refused").await;
    client.round_trip().await;
    assert!(Client::is_accepted(&node.url, key).await);
    reconfigure(&node, &good);
    is_content(&node).await;
    reconfigure(&node, &cut);
    refuses(&node, "send SIGHUP twice").await;
    hangup(&node, "refused").await;
    hangup(&node, "applied").await;
    assert_eq!(client.closed().await.code, 4410);
    assert!(Client::is_accepted(&node.url, KEY).await, "the others stay");
}

/// Changes that weaken a node need confirmation, as those that remove keys do.
#[tokio::test]
async fn a_truncated_file_weakens_neither_trust_nor_expiry() {
    let signer = switchyard_plugin::SecretKey::generate().expect("random numbers").public();
    let ends = "expires = 2099-01-01T00:00:00Z\n";
    let more = format!(
        "{}[signatures]\nkeys = [\"{signer}\"]\nrequire = true\n",
        Server::key("sk_ends", "ends", r#"["subscribe"]"#, ends)
    );
    let node = Node::start("memory", &more).await;
    let good = configuration(&node);
    reconfigure(&node, good.split("[signatures]").next().expect("what comes before"));
    refuses(&node, "it would remove the only key of signatures.keys and turn off signatures.require").await;
    reconfigure(&node, good.replace("require = true\n", ""));
    refuses(&node, "it would turn off signatures.require; if this is intended, send SIGHUP twice").await;
    let endless = good.replace(ends, "");
    assert_ne!(endless, good);
    reconfigure(&node, &endless);
    refuses(&node, "it would remove the expiry of 1 key").await;
    hangup(&node, "refused").await;
    hangup(&node, "applied").await;
    is_content(&node).await;
    // It is active from now on and needs no further confirmation.
    hangup(&node, "applied").await;
    assert!(Client::is_accepted(&node.url, "sk_ends").await);
}

/// A pipe can be read only once, so it cannot be confirmed.
#[tokio::test]
async fn a_configuration_from_a_pipe_stays_until_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let text =
        format!("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n{}", Server::keys());
    let pipe = folder.path().join("switchyard.toml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there");
    assert!(made.success());
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::write(pipe, text).expect("somebody reads it")
    });
    let node = Node::start_in(folder).await;
    writer.join().expect("it was read");
    let mut client = node.client().await;
    assert!(node.log().contains("it is a pipe, which cannot be read again"), "{}", node.log());
    hangup(&node, "refused").await;
    refuses(&node, "found a pipe").await;
    client.round_trip().await;
    assert!(Client::is_accepted(&node.url, READER).await);
}

/// In a node's folder, with `wss`: what an empty certificate or an empty plugin signature changes.
#[tokio::test]
async fn an_empty_certificate_changes_nothing_and_is_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let generated = Certificate::generate();
    generated.write_to(folder.path());
    let text =
        format!("{}\n[server]\ntls = {{ certificate = \"cert.pem\", key = \"key.pem\" }}", Server::keys());
    let server = Server::start_in(folder, &text).await;
    for (file, good) in [("cert.pem", &generated.certificate), ("key.pem", &generated.key)] {
        fs::write(server.folder().join(file), "").expect("an empty file");
        shows(&server, Some("the certificate was rejected: ")).await;
        fs::write(server.folder().join(file), good).expect("a good file");
        shows(&server, None).await;
    }
}

async fn shows(server: &Server, reason: Option<&str>) {
    eventually("what is shown", async || {
        let (status, body) = Answer::called(&server.admin, "GET", "/readyz", None, "").await;
        assert_eq!(status, 200, "{body}");
        let shown = serde_json::from_str::<Value>(&body).expect("JSON")["reasons"][0].clone();
        match reason {
            Some(reason) => shown.as_str().is_some_and(|shown| shown.starts_with(reason)),
            None => shown.is_null(),
        }
        .then_some(())
    })
    .await;
}

/// With an empty or incomplete plugin file, or an empty signature, the valid version stays active.
#[tokio::test]
async fn an_empty_plugin_or_signature_changes_nothing() {
    let key = switchyard_plugin::SecretKey::generate().expect("random numbers");
    let module = fs::read(switchyard_tests::guest("threshold_filter")).expect("a guest");
    let text = format!(
        "[[plugin]]\nname = \"thresholds\"\nfile = \"plugin.wasm\"\nrooms = [\"tvl\"]\n[signatures]\nkeys = [\"{}\"]\n",
        key.public()
    );
    let folder = Node::create_folder("memory", &text);
    fs::write(folder.path().join("plugin.wasm"), &module).expect("a file");
    fs::write(folder.path().join("plugin.wasm.sig"), key.sign(&module)).expect("a file");
    let node = Node::start_in(folder).await;
    let in_charge = async || {
        let plugin = node.get("/v1/plugins/thresholds").await;
        assert!(plugin["state"] == "active" || plugin["state"] == "probation", "{plugin}");
        plugin["plugin"]["sha256"].clone()
    };
    let good = in_charge().await;
    for (file, bytes, message) in [
        ("plugin.wasm", &b""[..], "its signature matches no key"),
        ("plugin.wasm", &module[..module.len() / 2], "its signature matches no key"),
        ("plugin.wasm.sig", b"", "its signature is malformed"),
    ] {
        let (whole, log) = (fs::read(node.folder().join(file)).expect("a file"), node.log().len());
        fs::write(node.folder().join(file), bytes).expect("a file");
        eventually(message, async || node.log()[log..].contains(message).then_some(())).await;
        shows_reason(&node, "plugin 'thresholds'", message).await;
        assert_eq!(in_charge().await, good, "{file} with {} bytes", bytes.len());
        fs::write(node.folder().join(file), whole).expect("a file");
        is_content(&node).await;
    }
    let file = node.folder().join("plugin.wasm");
    fs::remove_file(&file).expect("gone");
    shows_reason(&node, "plugin 'thresholds'", "No such file").await;
    assert_eq!(in_charge().await, good);
    fs::write(&file, &module).expect("a file");
    is_content(&node).await;
    // A configuration that the plugin rejects counts as an error of the plugin.
    let (text, other) = (configuration(&node), "0".repeat(64));
    reconfigure(
        &node,
        text.replace("name = \"thresholds\"\n", &format!("name = \"thresholds\"\nsha256 = \"{other}\"\n")),
    );
    shows_reason(&node, "plugin 'thresholds'", &format!("the configuration pins {other}")).await;
    assert_eq!(in_charge().await, good);
    reconfigure(&node, text);
    hangup(&node, "refused").await;
    refuses(&node, "it would remove the sha256 of plugin 'thresholds'").await;
    hangup(&node, "applied").await;
    is_content(&node).await;
    assert_eq!(in_charge().await, good);
}
