//! Which plugins run if signatures are required: from files, over HTTP, and when the trusted keys change.

use serde_json::Value;
use std::{fs, path::Path};
use switchyard_plugin::SecretKey;
use switchyard_tests::{Answer, Client, KEY, Node, Server, eventually, guest};

const PATH: &str = "/v1/plugins/thresholds";

fn text(keys: &[&SecretKey]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| format!("\"{}\"", key.public())).collect();
    format!(
        "{}[[plugin]]\nname = \"thresholds\"\nfile = \"plugin.wasm\"\nrooms = [\"tvl\"]\n\
         [signatures]\nkeys = [{}]\nrequire = true\n",
        Server::keys(),
        keys.join(", ")
    )
}

fn key() -> SecretKey {
    SecretKey::generate().expect("random numbers")
}

/// Replaces a file atomically.
fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    fs::write(folder.join("new"), bytes).expect("a file");
    fs::rename(folder.join("new"), folder.join(name)).expect("one step");
}

/// A folder with the plugin, and the plugin's bytes.
fn folder() -> (tempfile::TempDir, Vec<u8>) {
    let (folder, bytes) = (tempfile::tempdir().expect("a folder"), fs::read(guest("threshold_filter")));
    let bytes = bytes.expect("a guest");
    write(folder.path(), "plugin.wasm", &bytes);
    (folder, bytes)
}

async fn shown(server: &Server) -> Value {
    server.get("/v1/plugins").await["plugins"][0].clone()
}

async fn signed_by(server: &Server, key: &SecretKey) {
    eventually("a version of that key", async || {
        (shown(server).await["plugin"]["signed_by"] == key.public().to_string()).then_some(())
    })
    .await;
}

/// Status and message of a PUT.
async fn put(server: &Server, bytes: &[u8], signature: Option<&str>) -> (u16, String) {
    let address = server.admin.strip_prefix("http://").expect("plain HTTP");
    let signature = signature.map_or(String::new(), |text| format!("X-Signature: {text}\r\n"));
    let headers = format!("Authorization: Bearer {KEY}\r\n{signature}");
    let answer = Answer::of(address, "PUT", PATH, &headers, bytes).await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn rooms_stay_closed_until_the_file_is_signed() {
    let (key, (folder, bytes)) = (key(), folder());
    let server = Server::start_in(folder, &text(&[&key])).await;
    let plugin = shown(&server).await;
    let failed = plugin["failed"].as_str().unwrap_or_else(|| panic!("{plugin}"));
    for part in ["plugin 'thresholds' is not signed", "signatures.require", "plugin sign", "plugin.wasm"] {
        assert!(failed.contains(part), "{part}: {failed}");
    }
    let mut client = Client::connect(&server).await;
    let join = serde_json::json!({"type": "subscribe", "rooms": ["tvl"]});
    assert_eq!(client.ask(join).await["results"][0]["error"]["code"], "plugin_failed");

    // The signature file next to the plugin is watched too.
    write(server.folder(), "plugin.wasm.sig", key.sign(b"something else"));
    let signature = key.sign(&bytes);
    write(server.folder(), "plugin.wasm.sig", &signature);
    signed_by(&server, &key).await;
    client.subscribe(serde_json::json!(["tvl"])).await;

    // With one more byte it is another file: the node rejects it, and the valid version continues.
    write(server.folder(), "plugin.wasm", [&bytes[..], &[0, 1, 0]].concat());
    let (status, body) = put(&server, &[&bytes[..], &[0, 1, 0]].concat(), Some(&signature)).await;
    assert!(status == 400 && body.contains("matches no key in signatures.keys"), "{status} {body}");
    signed_by(&server, &key).await;
}

#[tokio::test]
async fn a_version_over_http_needs_a_signature_header() {
    let (key, stranger, (folder, bytes)) = (key(), key(), folder());
    write(folder.path(), "plugin.wasm.sig", key.sign(&bytes) + "\n");
    let server = Server::start_in(folder, &text(&[&key])).await;
    let next = fs::read(guest("protocol_rooms")).expect("a guest");
    let orderbook = fs::read(guest("orderbook")).expect("a guest");
    for (signature, expected) in [
        (None, "X-Signature"),
        (Some(stranger.sign(&orderbook)), "matches no key in signatures.keys"),
        (Some(key.sign(&next)), "matches no key in signatures.keys"),
        (Some("ed25519:short".into()), "expected one line"),
        (Some(String::new()), "expected one line"),
    ] {
        let (status, body) = put(&server, &orderbook, signature.as_deref()).await;
        assert!(status == 400 && body.contains(expected), "{signature:?}: {status} {body}");
        assert_eq!(shown(&server).await["plugin"]["package"], "threshold-filter");
    }
    let (status, body) = put(&server, &orderbook, Some(&key.sign(&orderbook))).await;
    assert_eq!(status, 200, "{body}");
    let plugin = shown(&server).await["plugin"].clone();
    assert_eq!(plugin["package"], "orderbook");
    assert_eq!(plugin["signed_by"], key.public().to_string());
}

#[tokio::test]
async fn changed_trusted_keys_apply_without_a_restart() {
    let (first, second, (folder, bytes)) = (key(), key(), folder());
    write(folder.path(), "plugin.wasm.sig", first.sign(&bytes));
    let server = Server::start_in(folder, &text(&[&first])).await;
    signed_by(&server, &first).await;
    let orderbook = fs::read(guest("orderbook")).expect("a guest");

    // The signer of the file is no longer trusted. The version stays, but nothing signed with that key can be
    // loaded.
    server.reconfigure(&text(&[&second]));
    eventually("the new key", async || {
        let (status, _) = put(&server, &orderbook, Some(&second.sign(&orderbook))).await;
        (status == 200).then_some(())
    })
    .await;
    let (status, body) = put(&server, &orderbook, Some(&first.sign(&orderbook))).await;
    assert!(status == 400 && body.contains("matches no key"), "{status} {body}");
    let (status, body) = server.call("POST", &format!("{PATH}/rollback"), Some(KEY), "").await;
    assert!(status == 409 && body.contains("no longer in signatures.keys"), "{status} {body}");
    write(server.folder(), "plugin.wasm.sig", second.sign(&bytes));
    eventually("the file", async || {
        (shown(&server).await["plugin"]["package"] == "threshold-filter").then_some(())
    })
    .await;
    signed_by(&server, &second).await;
}

/// A signature is verified before anything looks into the file, so these need not be plugins.
#[tokio::test]
async fn a_removed_signer_is_not_trusted_even_if_a_plugin_is_removed_too() {
    let (good, bad, bytes) = (key(), key(), b"no Wasm");
    let plugin =
        |name: &str| format!("[[plugin]]\nname = \"{name}\"\nfile = \"a.wasm\"\nrooms = [\"{name}:*\"]\n");
    let trusts = |keys: &[&SecretKey]| {
        let keys: Vec<_> = keys.iter().map(|key| format!("\"{}\"", key.public())).collect();
        format!("[signatures]\nkeys = [{}]\n", keys.join(", "))
    };
    let both = trusts(&[&good, &bad]);
    // Otherwise removing a plugin would open its rooms, which an operator has to confirm.
    let closed = "[rooms]\nungoverned = \"closed\"\n";
    let folder =
        Node::create_folder("memory", &format!("{}{}{both}{closed}", plugin("stays"), plugin("goes")));
    write(folder.path(), "a.wasm", bytes);
    let node = Node::start_in(folder).await;
    let address = node.process.admin.strip_prefix("http://").expect("plain HTTP");
    let put = async |name: &str, signer: &SecretKey| {
        let headers = format!("Authorization: Bearer {KEY}\r\nX-Signature: {}\r\n", signer.sign(bytes));
        Answer::of(address, "PUT", &format!("/v1/plugins/{name}"), &headers, bytes).await.body
    };
    assert!(put("stays", &bad).await.contains("is not WebAssembly"), "it is trusted at first");

    let file = node.folder().join("switchyard.toml");
    let text = fs::read_to_string(&file).expect("a configuration");
    let next = text.replace(&both, &trusts(&[&good])).replace(&plugin("goes"), "");
    write(node.folder(), "switchyard.toml", next + &plugin("new"));
    for name in ["stays", "new"] {
        eventually("a refusal", async || {
            put(name, &bad).await.contains("matches no key in signatures.keys").then_some(())
        })
        .await;
        assert!(put(name, &good).await.contains("is not WebAssembly"));
    }
    eventually("the removal", async || {
        put("goes", &good).await.contains("no plugin 'goes' is configured here").then_some(())
    })
    .await;
}
