//! A file system that does not answer holds up only what is on it.

use serde_json::json;
use std::{
    fs,
    time::{Duration, Instant},
};
use switchyard_tests::{
    Client, EVENT_TIMEOUT, Node, READER, Server, Stall, eventually, eventually_within, guest, replace_file,
};

const PATH: &str = "/v1/plugins/thresholds";

fn configuration(node: &Node) -> String {
    fs::read_to_string(node.folder().join("switchyard.toml")).expect("a configuration")
}

fn reconfigure(node: &Node, text: impl AsRef<[u8]>) {
    replace_file(&node.folder().join("switchyard.toml"), text);
}

/// A node with an invalid plugin file, on a file system that stops answering.
async fn stalled() -> Option<(Node, Stall)> {
    if !Stall::is_possible().await {
        return None;
    }
    let more: String =
        ["one", "two", "three"].map(|key| Server::key(key, key, r#"["subscribe"]"#, "")).concat();
    let plugin = "[[plugin]]\nname = \"thresholds\"\nfile = \"far/plugin.wasm\"\nrooms = [\"tvl\"]\n";
    let folder = Node::create_folder("memory", &(more + plugin));
    let far = folder.path().join("far");
    fs::create_dir(&far).expect("a folder");
    fs::write(far.join("plugin.wasm"), "no Wasm").expect("a file");
    let node = Node::start_mounting(folder).await;
    let stall = Stall::over(&far, &node.process).await;
    stall.holds(&node.process, "the thread that", EVENT_TIMEOUT).await;
    Some((node, stall))
}

/// A truncated plugin, which is rejected at once and for another reason than a file that is not a plugin.
fn cut() -> Vec<u8> {
    fs::read(guest("orderbook")).expect("a guest")[..9000].to_vec()
}

async fn reads_it(node: &Node) {
    eventually_within(Duration::from_secs(60), "the new file", async || {
        let (_, body) = node.call("GET", "/readyz", "").await;
        body.contains("is damaged or truncated").then_some(())
    })
    .await;
}

#[tokio::test]
async fn keys_are_revoked_although_a_plugins_file_system_does_not_answer() {
    let Some((node, stall)) = stalled().await else { return };
    for key in ["one", "two"] {
        let mut client = Client::connect_at(&node.url, json!({"auth": {"apiKey": key}})).await;
        let digest = switchyard_store::key::Digest::of(key).to_string();
        let text = configuration(&node);
        let blocks: Vec<_> = text.split("[[key]]").filter(|block| !block.contains(&digest)).collect();
        let began = Instant::now();
        reconfigure(&node, blocks.join("[[key]]"));
        node.process.signal("HUP").await;
        assert_eq!(client.closed().await.code, 4410);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    assert!(Client::is_accepted(&node.url, READER).await);
    // Nothing is lost when it answers again.
    replace_file(&node.folder().join("far/plugin.wasm"), cut());
    stall.end().await;
    reads_it(&node).await;
}

#[tokio::test]
async fn operators_are_answered_although_a_plugin_file_cannot_be_read() {
    let Some((node, stall)) = stalled().await else { return };
    node.process.signal("HUP").await;
    stall.holds(&node.process, "reads a plugin", Duration::from_secs(90)).await;
    for _ in 0..2 {
        let (status, body) = node.call("PUT", PATH, "no Wasm either").await;
        assert!(status == 400 && body.contains("is not WebAssembly"), "{status} {body}");
        let (status, body) = node.call("POST", &format!("{PATH}/rollback"), "").await;
        assert!(status == 409 && body.contains("no earlier version"), "{status} {body}");
    }
    // The error is reported, and disappears when the file can be read.
    let reasons = async || node.call("GET", "/readyz", "").await.1;
    eventually_within(Duration::from_secs(60), "a reason", async || {
        reasons().await.contains("far/plugin.wasm: timed out: a file system does not respond").then_some(())
    })
    .await;
    stall.end().await;
    eventually_within(Duration::from_secs(60), "what is wrong with the file", async || {
        reasons().await.contains("is not WebAssembly").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_plugin_that_moves_off_a_stalled_file_system_is_watched() {
    let Some((node, stall)) = stalled().await else { return };
    let near = node.folder().join("near.wasm");
    fs::write(&near, "no Wasm").expect("a file");
    let text = configuration(&node).replace("far/plugin.wasm", "near.wasm");
    reconfigure(&node, text + &Server::key("sk_new", "new", r#"["subscribe"]"#, ""));
    eventually("the new key", async || Client::is_accepted(&node.url, "sk_new").await.then_some(())).await;
    // The node could not watch the new file, and does so as soon as the file system answers.
    eventually("a word", async || node.log().contains("a file system does not answer").then_some(())).await;
    stall.end().await;
    replace_file(&near, cut());
    reads_it(&node).await;
}
