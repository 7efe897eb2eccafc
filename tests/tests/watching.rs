//! Whatever way a file changes, a node loads it within 5 s, even if the system does not report the change.

use serde_json::Value;
use std::{
    fs,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};
use switchyard_tests::{Client, Node, Server, eventually, guest, replace_file};

const PATH: &str = "/v1/plugins/thresholds";
const BOUND: Duration = Duration::from_secs(5);

fn plugin(file: &str) -> String {
    format!("[[plugin]]\nname = \"thresholds\"\nfile = \"{file}\"\nrooms = [\"tvl\"]\n")
}

/// Variant `n` of a plugin file. All variants have the same behaviour.
fn code(n: u8) -> Vec<u8> {
    let mut module = fs::read(guest("threshold_filter")).expect("a guest");
    module.extend([0, 3, 1, b'n', n]);
    module
}

fn configuration(node: &Node) -> String {
    fs::read_to_string(node.folder().join("switchyard.toml")).expect("a configuration")
}

/// The active version, or the plugin's state if there is none.
async fn version(node: &Node) -> Value {
    let plugin = node.get(PATH).await;
    plugin["plugin"].get("sha256").unwrap_or(&plugin["state"]).clone()
}

/// Waits until another version is active, and returns it. It must be active within the limit plus the time to
/// compile.
async fn changes(node: &Node, before: &Value) -> Value {
    let began = Instant::now();
    let loading = eventually("another version", async || {
        let plugin = node.get(PATH).await;
        let is_other = |version: &Value| version["state"] == "loading" || version["sha256"] != *before;
        let versions = plugin["versions"].as_array()?;
        versions.first().is_some_and(is_other).then(|| began.elapsed())
    })
    .await;
    assert!(loading < BOUND, "{loading:?}");
    eventually("it is active", async || Some(version(node).await).filter(|now| now != before)).await
}

async fn takes(node: &Node, key: &str) {
    let began = Instant::now();
    eventually(key, async || Client::is_accepted(&node.url, key).await.then_some(())).await;
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_missing_folder_does_not_prevent_watching_others() {
    let node = Node::start("memory", &plugin("later/plugin.wasm")).await;
    assert_eq!(version(&node).await, "failed");
    let file = node.folder().join("switchyard.toml");
    replace_file(&file, configuration(&node) + &Server::key("sk_new", "new", r#"["subscribe"]"#, ""));
    takes(&node, "sk_new").await;
    fs::create_dir(node.folder().join("later")).expect("a folder");
    fs::write(node.folder().join("later/plugin.wasm"), code(1)).expect("a file");
    let first = changes(&node, &"failed".into()).await;
    replace_file(&node.folder().join("later/plugin.wasm"), code(2));
    changes(&node, &first).await;
}

#[tokio::test]
async fn a_plugin_that_moves_is_watched_at_its_new_path() {
    let folder = Node::create_folder("memory", &plugin("plugin.wasm"));
    fs::write(folder.path().join("plugin.wasm"), code(1)).expect("a file");
    let node = Node::start_in(folder).await;
    let first = version(&node).await;
    let elsewhere = node.folder().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder");
    fs::write(elsewhere.join("other.wasm"), code(2)).expect("a file");
    replace_file(
        &node.folder().join("switchyard.toml"),
        configuration(&node).replace("plugin.wasm", "elsewhere/other.wasm"),
    );
    let second = changes(&node, &first).await;
    replace_file(&elsewhere.join("other.wasm"), code(3));
    let third = changes(&node, &second).await;
    // Its folder is renamed, and another takes its place.
    fs::create_dir(node.folder().join("next")).expect("a folder");
    fs::write(node.folder().join("next/other.wasm"), code(4)).expect("a file");
    fs::rename(&elsewhere, node.folder().join("before")).expect("one step");
    fs::rename(node.folder().join("next"), &elsewhere).expect("one step");
    let fourth = changes(&node, &third).await;
    replace_file(&elsewhere.join("other.wasm"), code(5));
    changes(&node, &fourth).await;
}

#[tokio::test]
async fn a_changed_link_target_is_a_change() {
    let folder = Node::create_folder("memory", &plugin("current/plugin.wasm"));
    for n in [1, 2] {
        let release = folder.path().join(format!("releases/{n}"));
        fs::create_dir_all(&release).expect("a folder");
        fs::write(release.join("plugin.wasm"), code(n)).expect("a file");
    }
    symlink("releases/1", folder.path().join("current")).expect("a link");
    let node = Node::start_in(folder).await;
    let first = version(&node).await;
    symlink("releases/2", node.folder().join("new")).expect("a link");
    fs::rename(node.folder().join("new"), node.folder().join("current")).expect("one step");
    changes(&node, &first).await;
}

#[tokio::test]
async fn the_target_of_a_link_is_watched() {
    let folder = Node::create_folder("memory", "");
    let (file, real) = (folder.path().join("switchyard.toml"), folder.path().join("real/s.toml"));
    fs::create_dir(folder.path().join("real")).expect("a folder");
    fs::rename(&file, &real).expect("one step");
    symlink("real/s.toml", &file).expect("a link");
    let node = Node::start_in(folder).await;
    let more = |n: u8| configuration(&node) + &Server::key(&format!("sk_{n}"), "new", r#"["subscribe"]"#, "");
    fs::write(&real, more(1)).expect("a file, in place");
    takes(&node, "sk_1").await;
    replace_file(&real, more(2));
    takes(&node, "sk_2").await;
}
