//! Compiling a plugin stays within the node's limits, ends when nobody waits for it, and does not delay a
//! rollback.

use serde_json::json;
use std::fs;
use switchyard_tests::{Node, eventually, guest};

const PATH: &str = "/v1/plugins/thresholds";

fn configuration() -> String {
    let file = guest("threshold_filter");
    format!("[[plugin]]\nname = \"thresholds\"\nfile = \"{}\"\nrooms = [\"tvl\"]\n", file.display())
}

fn leb(mut n: usize) -> Vec<u8> {
    let mut bytes = vec![];
    loop {
        let byte = (n & 0x7f) as u8;
        n >>= 7;
        bytes.push(if n == 0 { byte } else { byte | 0x80 });
        if n == 0 {
            return bytes;
        }
    }
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id], &*leb(content.len()), content].concat()
}

/// A component with this many functions, each of which adds a number this many times.
fn component(functions: usize, additions: usize) -> Vec<u8> {
    let add = [0x20, 0, 0x41, 7, 0x6a, 0x21, 0];
    let body = [&[1, 1, 0x7f][..], &add.repeat(additions), &[0x0b]].concat();
    let body = [leb(body.len()), body].concat();
    let types = section(1, &[1, 0x60, 0, 0]);
    let declared = section(3, &[leb(functions), vec![0; functions]].concat());
    let code = section(10, &[leb(functions), body.repeat(functions)].concat());
    let module = [b"\0asm\x01\0\0\0".as_slice(), &types, &declared, &code].concat();
    [b"\0asm\x0d\0\x01\0".as_slice(), &section(1, &module)].concat()
}

/// Child processes of the node that are still running.
fn children(node: &Node) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", node.process.id())).into_iter().flatten();
    let of =
        |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("children")).ok();
    tasks.filter_map(of).map(|children| children.split_whitespace().count()).sum()
}

/// Sends raw bytes, because the body is not text.
async fn put(node: &Node, body: Vec<u8>) -> (u16, String) {
    let key = Some(switchyard_tests::KEY);
    switchyard_tests::Answer::called(&node.process.admin, "PUT", PATH, key, body).await
}

#[tokio::test]
async fn a_small_file_with_too_many_functions_is_rejected_before_compiling() {
    let node = Node::start("memory", &configuration()).await;
    let file = component(100_000, 0);
    assert!(file.len() < 700_000);
    let (before, (status, body)) = (node.process.memory(), put(&node, file).await);
    assert!(status == 400 && body.contains("has 100000 functions"), "{status}: {body}");
    let grown = node.process.memory().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes for a file that was not compiled");
    assert_eq!(node.get(PATH).await["state"], "active");
}

#[tokio::test]
async fn a_rollback_does_not_wait_for_a_compilation_and_disconnecting_cancels_one() {
    let node = Node::start("memory", &configuration()).await;
    let mut other = fs::read(guest("threshold_filter")).expect("a guest");
    other.extend([0, 3, 1, b'n', 1]);
    let (status, body) = put(&node, other).await;
    assert_eq!(status, 200, "{body}");
    let second = node.get(PATH).await["plugin"]["sha256"].clone();
    // Within all limits, and a minute of compiling.
    let heavy = component(50_000, 40);
    let (admin, key) = (node.process.admin.clone(), Some(switchyard_tests::KEY));
    let loading =
        tokio::spawn(async move { switchyard_tests::Answer::called(&admin, "PUT", PATH, key, heavy).await });
    eventually("a process that compiles", async || (children(&node) > 0).then_some(())).await;
    let (status, body) = node.call("POST", &format!("{PATH}/rollback"), "").await;
    assert_eq!(status, 200, "{body}");
    assert!(children(&node) > 0 && !loading.is_finished(), "it is compiled still");
    assert_ne!(node.get(PATH).await["plugin"]["sha256"], second);
    loading.abort();
    eventually("the end of what nobody waits for", async || (children(&node) == 0).then_some(())).await;
    let plugin = eventually("nothing under way", async || {
        let plugin = node.get(PATH).await;
        let versions = plugin["versions"].as_array().expect("a list").clone();
        versions.iter().all(|version| version["state"] != "loading").then_some(plugin)
    })
    .await;
    assert_eq!(plugin["state"], json!("active"));
}
