//! `/v1/plugins…`: the active versions, loading a version over HTTP, and rolling back.

use serde_json::{Value, json};
use std::{fs, path::PathBuf};
use switchyard_tests::{Client, KEY, MORE_KEYS, Server, guest};

const PATH: &str = "/v1/plugins/thresholds";

fn configuration(file: PathBuf) -> String {
    format!("[[plugin]]\nname = \"thresholds\"\nfile = \"{}\"\nrooms = [\"tvl\"]\n", file.display())
}

fn shown(plugins: &Value) -> &Value {
    let list = plugins.as_array().or(plugins["plugins"].as_array()).unwrap_or_else(|| panic!("{plugins}"));
    list.iter().find(|plugin| plugin["name"] == "thresholds").unwrap_or_else(|| panic!("{plugins}"))
}

/// The only text of 64 hexadecimal digits, which identifies the active version.
fn version(plugins: &Value) -> String {
    let plugin = shown(plugins);
    let sha256 = plugin.pointer("/plugin/sha256").or(plugin.get("sha256"));
    sha256.and_then(Value::as_str).unwrap_or_else(|| panic!("{plugin}")).to_owned()
}

/// The same plugin as a component: another file with the same behaviour.
fn other() -> Vec<u8> {
    let module = fs::read(guest("threshold_filter")).expect("a guest");
    wit_component::ComponentEncoder::default()
        .module(&module)
        .expect("a module")
        .encode()
        .expect("a component")
}

/// The same plugin with a custom section: one of many files with the same behaviour.
fn another(n: u8) -> Vec<u8> {
    let mut module = fs::read(guest("threshold_filter")).expect("a guest");
    module.extend([0, 3, 1, b'n', n]);
    module
}

#[tokio::test]
async fn a_version_is_loaded_and_rolled_back_while_filters_are_in_use() {
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

    // A file that is not a plugin changes nothing.
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

/// The state of each version, by digest.
async fn states(server: &Server) -> Vec<(String, String)> {
    let plugin = server.get(PATH).await;
    let text = |version: &Value, field: &str| {
        version[field].as_str().unwrap_or_else(|| panic!("{plugin}")).to_owned()
    };
    let versions = plugin["versions"].as_array().unwrap_or_else(|| panic!("{plugin}"));
    versions.iter().map(|version| (text(version, "sha256"), text(version, "state"))).collect()
}

#[tokio::test]
async fn each_rollback_goes_one_version_back_or_to_the_named_version() {
    let server = Server::start(&configuration(guest("threshold_filter"))).await;
    let mut put = vec![version(&server.get("/v1/plugins").await)];
    for n in 1..=3 {
        let (status, body) = server.call("PUT", PATH, Some(KEY), another(n)).await;
        assert_eq!(status, 200, "{body}");
        let listed: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((&listed["state"], &listed["generation"]), (&json!("probation"), &json!(n + 1)));
        put.push(listed["plugin"]["sha256"].as_str().expect("a digest").to_owned());
    }
    let back = async |to: &str| server.call("POST", &format!("{PATH}/rollback{to}"), Some(KEY), "").await;
    for n in [2, 1, 0] {
        let (status, body) = back("").await;
        assert_eq!((status, version(&server.get("/v1/plugins").await)), (200, put[n].clone()), "{body}");
    }
    assert_eq!(back("").await.0, 409, "that was the first");
    let (status, body) = back(&format!("?to={}", &put[3][..16])).await;
    assert_eq!((status, version(&server.get("/v1/plugins").await)), (200, put[3].clone()), "{body}");
    let expected: Vec<_> =
        put.iter().rev().cloned().zip(["active", "kept", "kept", "kept"].map(str::to_owned)).collect();
    assert_eq!(states(&server).await, expected);
    let (status, body) = back("?to=00").await;
    assert!(status == 409 && body.contains("begins with '00'"), "{status} {body}");
    // A file that is not a plugin is listed with the reason, next to the version that stays active.
    let (status, _) = server.call("PUT", PATH, Some(KEY), &other()[..5000]).await;
    assert_eq!(status, 400);
    let plugin = server.get(PATH).await;
    assert_eq!(
        (&plugin["state"], &plugin["versions"][0]["state"]),
        (&json!("active"), &json!("failed")),
        "{plugin}"
    );
    assert!(plugin["versions"][0]["reason"].as_str().expect("a reason").contains("is damaged or truncated"));
}

/// A version that works when it is loaded and fails on messages.
#[tokio::test]
async fn a_version_that_fails_on_probation_is_rolled_back() {
    let plugin = configuration(guest("threshold_filter"));
    let server = Server::start_with(&format!("{}{}{plugin}", Server::keys(), Server::more_keys())).await;
    let first = version(&server.get("/v1/plugins").await);
    let hostile = fs::read(guest("hostile")).expect("a guest");
    let (status, body) = server.call("PUT", PATH, Some(KEY), hostile).await;
    assert!(status == 200 && body.contains("\"state\":\"probation\""), "{status} {body}");
    let mut client = Client::connect(&server).await;
    client.subscribe(json!([{"room": "tvl", "filter": {"minChange": 5}}])).await;
    let fails = async |client: &mut Client| {
        let answer = client.ask(json!({"type": "publish", "room": "tvl", "data": {"do": "panic"}})).await;
        assert_eq!(answer["error"]["code"], "plugin_failed", "{answer}");
    };
    // One tenant alone cannot make the node withdraw a new version.
    for _ in 0..8 {
        fails(&mut client).await;
    }
    let plugin = server.get(PATH).await;
    assert!(plugin["state"] == "probation" && plugin["plugin"]["sha256"] != first.as_str(), "{plugin}");
    // After failures for three tenants, the previous version answers the next message.
    for key in &MORE_KEYS[..2] {
        fails(&mut Client::connect_as(&server, key).await).await;
    }
    let plugin = switchyard_tests::eventually("the version before", async || {
        let plugin = server.get(PATH).await;
        (plugin["plugin"]["sha256"] == first.as_str()).then_some(plugin)
    })
    .await;
    assert_eq!(plugin["state"], "active");
    let withdrawn = &plugin["versions"][0];
    let reason = withdrawn["reason"].as_str().unwrap_or_else(|| panic!("{plugin}"));
    assert!(withdrawn["state"] == "failed" && reason.contains("was rolled back automatically"), "{reason}");
    assert!(reason.contains("misdeed.rs:"), "where it panicked: {reason}");
    // The filters moved to the previous version.
    let mut publisher = Client::connect(&server).await;
    publisher.publish("tvl", json!({"change": 1})).await;
    publisher.publish("tvl", json!({"change": 9})).await;
    assert_eq!(client.expect("message").await["data"]["change"], 9);
    // That version has no predecessor, so it is quarantined like any other.
    assert_eq!(server.call("POST", &format!("{PATH}/rollback"), Some(KEY), "").await.0, 409);
}

#[tokio::test]
async fn a_shadow_candidate_gets_the_same_calls_and_its_answers_are_only_compared() {
    let server = Server::start(&configuration(guest("threshold_filter"))).await;
    let shadow = format!("{PATH}/shadow");
    assert_eq!(server.refused("GET", &shadow, Some(KEY), "").await, (404, "not_found".into()));
    let hostile = fs::read(guest("hostile")).expect("a guest");
    let (status, body) = server.call("PUT", &shadow, Some(KEY), hostile.clone()).await;
    assert_eq!(status, 200, "{body}");
    let first = version(&server.get("/v1/plugins").await);
    let mut client = Client::connect(&server).await;
    client.subscribe(json!([{"room": "tvl", "filter": {"minChange": 5}}])).await;
    let mut publisher = Client::connect(&server).await;
    // The candidate passes everything and panics on the last message. No client notices.
    publisher.publish("tvl", json!({"change": 1})).await;
    publisher.publish("tvl", json!({"change": 9})).await;
    publisher.publish("tvl", json!({"change": 8, "do": "panic", "in": "matches"})).await;
    for change in [9, 8] {
        assert_eq!(client.expect("message").await["data"]["change"], change);
    }
    let deliver = switchyard_tests::eventually("three messages", async || {
        let compared = server.get(&shadow).await["hooks"]["deliver"].clone();
        let sum: u64 =
            ["same", "different", "failed"].iter().filter_map(|count| compared[count].as_u64()).sum();
        (sum == 3).then_some(compared)
    })
    .await;
    assert_eq!([&deliver["same"], &deliver["different"], &deliver["failed"]], [1, 1, 1], "{deliver}");
    let sample = &deliver["samples"][0];
    assert_eq!(sample["asked"]["data"]["change"], 1, "{sample}");
    let verdict = |of: &str| sample[of].as_object().expect("filters").values().next().cloned();
    assert_eq!((verdict("active"), verdict("candidate")), (Some(json!(false)), Some(json!(true))));
    assert_eq!(version(&server.get("/v1/plugins").await), first, "it is not active");

    let (status, body) = server.call("POST", &format!("{shadow}/promote"), Some(KEY), "").await;
    assert_eq!(status, 200, "{body}");
    let plugin = server.get(PATH).await;
    assert_eq!(plugin["versions"][0]["how"], "promotion", "{plugin}");
    publisher.publish("tvl", json!({"change": 2})).await;
    assert_eq!(client.expect("message").await["data"]["change"], 2, "now it decides");
    assert_eq!(server.refused("DELETE", &shadow, Some(KEY), "").await, (409, "conflict".into()));
    server.call("PUT", &shadow, Some(KEY), hostile).await;
    assert_eq!(server.call("DELETE", &shadow, Some(KEY), "").await.0, 200);
}

/// Copies slowly, as over a network. The node must not read the incomplete file.
#[tokio::test]
async fn a_plugin_file_is_not_read_while_it_is_being_written() {
    use std::io::Write;
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("plugin.wasm");
    fs::copy(guest("threshold_filter"), &place).expect("a copy");
    let server = Server::start_in(folder, &(Server::keys() + &configuration("plugin.wasm".into()))).await;
    let first = version(&server.get("/v1/plugins").await);
    let other = other();
    let mut file = fs::File::create(&place).expect("a file");
    for part in other.chunks(other.len() / 3 + 1) {
        file.write_all(part).expect("a part");
        file.sync_all().expect("on disk");
        // Longer than a node waits for further writes after a change.
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        let plugin = server.get(PATH).await;
        assert_eq!(plugin["versions"].as_array().map(Vec::len), Some(1), "nothing was tried: {plugin}");
        assert_eq!(version(&server.get("/v1/plugins").await), first);
    }
    drop(file);
    switchyard_tests::eventually("the whole file", async || {
        (version(&server.get("/v1/plugins").await) != first).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_unknown_plugin_cannot_be_loaded_or_rolled_back() {
    let server = Server::start(&configuration(guest("threshold_filter"))).await;
    let unknown = server.refused("PUT", "/v1/plugins/unknown", Some(KEY), other()).await;
    assert_eq!(unknown, (409, "conflict".into()), "the memory store would forget it");
    let unknown = server.refused("POST", "/v1/plugins/unknown/rollback", Some(KEY), "").await;
    assert_eq!(unknown, (404, "not_found".into()));
    let first = server.refused("POST", &format!("{PATH}/rollback"), Some(KEY), "").await;
    assert_eq!(first, (409, "conflict".into()), "there is no earlier version");
}

#[tokio::test]
async fn a_changed_file_is_a_new_version() {
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
