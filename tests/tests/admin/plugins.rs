//! `/v1/plugins…`: what runs, another version over HTTP, and the way back.

use serde_json::{Value, json};
use std::{fs, path::PathBuf};
use switchyard_tests::{Client, KEY, Server, guest};

const PATH: &str = "/v1/plugins/thresholds";

fn configuration(file: PathBuf) -> String {
    format!("[[plugin]]\nname = \"thresholds\"\nfile = \"{}\"\nrooms = [\"tvl\"]\n", file.display())
}

fn shown(plugins: &Value) -> &Value {
    let list = plugins.as_array().or(plugins["plugins"].as_array()).unwrap_or_else(|| panic!("{plugins}"));
    list.iter().find(|plugin| plugin["name"] == "thresholds").unwrap_or_else(|| panic!("{plugins}"))
}

/// The only text of 64 hexadecimal digits that tells which version is in charge.
fn version(plugins: &Value) -> String {
    let plugin = shown(plugins);
    let sha256 = plugin.pointer("/plugin/sha256").or(plugin.get("sha256"));
    sha256.and_then(Value::as_str).unwrap_or_else(|| panic!("{plugin}")).to_owned()
}

/// The same plugin as a component: another file that does the same.
fn other() -> Vec<u8> {
    let module = fs::read(guest("threshold_filter")).expect("a guest");
    wit_component::ComponentEncoder::default()
        .module(&module)
        .expect("a module")
        .encode()
        .expect("a component")
}

#[tokio::test]
async fn a_version_is_put_and_rolled_back_under_live_filters() {
    let server = Server::start(&configuration(guest("threshold_filter"))).await;
    let mut client = Client::connect(&server).await;
    client.subscribe(json!([{"room": "tvl", "filter": {"minChange": 5}}])).await;
    let mut publisher = Client::connect(&server).await;
    let mut passes = async |n: u64| {
        publisher.publish("tvl", json!({"change": 1, "n": n})).await;
        publisher.publish("tvl", json!({"change": 9, "n": n})).await;
        assert_eq!(client.expect("message").await["data"], json!({"change": 9, "n": n}));
    };
    passes(1).await;
    let first = version(&server.get("/v1/plugins").await);
    let governor = server.get("/v1/rooms/tvl").await["governor"].clone();
    assert_eq!(governor, "thresholds");

    let (status, body) = server.call("PUT", PATH, Some(KEY), other()).await;
    assert!((200..300).contains(&status), "{status} {body}");
    let second = version(&server.get("/v1/plugins").await);
    assert_ne!(first, second);
    passes(2).await;

    // What is no plugin changes nothing.
    let not_wasm = b"not wasm at all".to_vec();
    for (name, bytes) in [("no Wasm", not_wasm), ("nothing", vec![]), ("cut", other()[..5000].to_vec())] {
        let (status, _) = server.refused("PUT", PATH, Some(KEY), bytes).await;
        assert!((400..500).contains(&status), "{name}: {status}");
        assert_eq!(version(&server.get("/v1/plugins").await), second, "{name}");
    }
    passes(3).await;

    let (status, body) = server.call("POST", &format!("{PATH}/rollback"), Some(KEY), "").await;
    assert!((200..300).contains(&status), "{status} {body}");
    assert_eq!(version(&server.get("/v1/plugins").await), first);
    passes(4).await;
}

#[tokio::test]
async fn what_is_not_there_cannot_be_put_or_rolled_back() {
    let server = Server::start(&configuration(guest("threshold_filter"))).await;
    let unknown = server.refused("PUT", "/v1/plugins/unknown", Some(KEY), other()).await;
    assert_eq!(unknown, (404, "not_found".into()));
    let unknown = server.refused("POST", "/v1/plugins/unknown/rollback", Some(KEY), "").await;
    assert_eq!(unknown, (404, "not_found".into()));
    let first = server.refused("POST", &format!("{PATH}/rollback"), Some(KEY), "").await;
    assert_eq!(first, (409, "conflict".into()), "there is no earlier version");
}

#[tokio::test]
async fn a_changed_file_is_another_version() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("plugin.wasm");
    fs::copy(guest("threshold_filter"), &file).expect("a copy");
    let server = Server::start_in(folder, &(Server::keys() + &configuration("plugin.wasm".into()))).await;
    let mut client = Client::connect(&server).await;
    client.subscribe(json!([{"room": "tvl", "filter": {"minChange": 5}}])).await;
    let first = version(&server.get("/v1/plugins").await);
    fs::write(server.folder().join("new"), other()).expect("a file");
    fs::rename(server.folder().join("new"), &file).expect("one step");
    switchyard_tests::eventually("another version", async || {
        (version(&server.get("/v1/plugins").await) != first).then_some(())
    })
    .await;
    let mut publisher = Client::connect(&server).await;
    publisher.publish("tvl", json!({"change": 1})).await;
    publisher.publish("tvl", json!({"change": 9})).await;
    assert_eq!(client.expect("message").await["data"]["change"], 9);
}
