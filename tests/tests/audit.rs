//! The audit log: one line for each change, and what happens when its file cannot be written.

use serde_json::{Value, json};
use std::{fs, path::Path};
use switchyard_tests::{Client, KEY, Node, Redis, Server, eventually, run};

/// The lines of an audit file.
fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// Waits for a line about an action.
async fn line(file: &Path, action: &str) -> Value {
    eventually(action, async || lines(file).into_iter().find(|line| line["action"] == action)).await
}

#[tokio::test]
async fn every_change_has_a_line_that_says_who_made_it() {
    let server = Server::start("[audit]\nfile = \"audit.ndjson\"").await;
    let file = server.folder().join("audit.ndjson");
    let client = Client::connect(&server).await;
    let connection = client.connected["connection"].as_str().unwrap();
    let (ban, revoke) = (r#"{"for":"1h"}"#, r#"{"id":"t1"}"#);
    let list = r#"[{"room":"b","data":"secret"},{"room":"a","data":1},{"room":"no room","data":1}]"#;
    for (method, path, body, action, expected) in [
        ("PUT", "/v1/principals/bob/ban", ban, "ban.principal", json!({"target": "bob", "result": "ok"})),
        ("DELETE", "/v1/principals/bob/ban", "", "unban.principal", json!({"target": "bob", "result": "ok"})),
        ("PUT", "/v1/addresses/192.0.2.1/ban", ban, "ban.address", json!({"target": "192.0.2.1"})),
        ("DELETE", "/v1/addresses/192.0.2.9/ban", "", "unban.address", json!({"result": "not_found"})),
        ("POST", "/v1/tokens/revoke", revoke, "token.revoke", json!({"target": "t1", "kind": "token"})),
        (
            "POST",
            "/v1/publish",
            list,
            "message.publish",
            json!({"target": "a b", "messages": 3, "failed": 1}),
        ),
        (
            "DELETE",
            &format!("/v1/connections/{connection}"),
            "",
            "connection.close",
            json!({"target": connection, "of": "acme"}),
        ),
        ("POST", "/v1/reload", "", "config.reload", json!({"result": "ok", "changes": []})),
    ] {
        server.call(method, path, Some(KEY), body).await;
        let line = line(&file, action).await;
        let caller = (&line["by"], &line["principal"], &line["from"]);
        assert_eq!(caller, (&json!("acme"), &json!("acme"), &json!("127.0.0.1")), "{line}");
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&line[name], value, "{name} in {line}");
        }
    }
    assert_eq!(line(&file, "config.reload").await["digest"].as_str().map(str::len), Some(64));
    assert_eq!(line(&file, "message.publish").await["digest"], switchyard_plugin::digest(list.as_bytes()));
    assert!(!fs::read_to_string(&file).unwrap().contains("secret"), "no data");

    // What nobody has called for.
    let text = fs::read_to_string(&server.file).unwrap();
    let new = Server::key("sk_new", "neo", "[]", "id = \"new\"");
    server.reconfigure(&format!("{new}{text}"));
    let added = line(&file, "key.add").await;
    assert_eq!(
        (&added["by"], &added["target"], &added["of"]),
        (&json!("config"), &json!("new"), &json!("neo"))
    );
    assert!(
        added["digest"].as_str().unwrap().starts_with("sha256:") && added.get("from").is_none(),
        "{added}"
    );
    server.reconfigure(&format!("{}{text}", new.replace("\"neo\"", "\"trinity\"")));
    assert_eq!(line(&file, "key.change").await["of"], "trinity");
    server.reconfigure(&text);
    assert_eq!(line(&file, "key.remove").await["target"], "new");
    server.reconfigure("nonsense");
    let rejected = |line: &Value| line["action"] == "config.reload" && line["result"] == "conflict";
    let rejected = eventually("a rejected file", async || lines(&file).into_iter().find(rejected)).await;
    assert!(rejected["by"] == "config" && rejected["reason"].is_string(), "{rejected}");
    server.stop().await;
}

/// Commands change keys in the store without a node, so each node writes what it notices.
#[tokio::test]
async fn keys_of_the_store_have_lines_on_every_node() {
    let (redis, audit) = (Redis::start().await, "[audit]\nfile = \"audit.ndjson\"");
    let url = redis.url();
    let (one, two) = tokio::join!(Node::start(&url, audit), Node::start(&url, audit));
    let key = async |arguments: &[&str]| {
        let arguments = [&["key"], arguments, &["--config", "switchyard.toml"]].concat();
        let output = run(one.folder(), &arguments, &[]).await;
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let secret = key(&["add", "--principal", "neo", "--id", "neo-1", "--scope", "publish"]).await;
    let secret = secret.lines().next().expect("a key").to_owned();
    for node in [&one, &two] {
        let added = line(&node.folder().join("audit.ndjson"), "key.add").await;
        let fields = ["by", "target", "of", "result"].map(|name| added[name].as_str().unwrap_or_default());
        assert_eq!(fields, ["store", "neo-1", "neo", "ok"], "{added}");
    }
    key(&["revoke", "neo-1"]).await;
    for node in [&one, &two] {
        let file = node.folder().join("audit.ndjson");
        assert_eq!(line(&file, "key.remove").await["target"], "neo-1");
        assert!(!fs::read_to_string(&file).unwrap().contains(&secret), "never the key");
    }
}

#[tokio::test]
async fn a_full_disk_costs_lines_and_nothing_else() {
    let server = Server::start("[audit]\nfile = \"/dev/full\"").await;
    for n in 1..=3 {
        let path = format!("/v1/principals/p{n}/ban");
        assert_eq!(server.call("PUT", &path, Some(KEY), r#"{"for":"1h"}"#).await.0, 200);
    }
    eventually("three lost lines", async || {
        let (_, metrics) = server.call("GET", "/metrics", None, "").await;
        metrics.contains("switchyard_audit_lost_total 3\n").then_some(())
    })
    .await;
    Client::connect(&server).await.round_trip().await;
    server.stop().await;
}

#[tokio::test]
async fn a_renamed_file_is_replaced_on_sighup_and_all_is_written_at_the_end() {
    let mut node = Node::start("memory", "[audit]\nfile = \"audit.ndjson\"").await;
    let (file, renamed) = (node.folder().join("audit.ndjson"), node.folder().join("audit.1"));
    let ban =
        async |name: &str| node.call("PUT", &format!("/v1/principals/{name}/ban"), r#"{"for":"1h"}"#).await.0;
    assert_eq!(ban("ann").await, 200);
    line(&file, "ban.principal").await;
    fs::rename(&file, &renamed).unwrap();
    assert_eq!(ban("bob").await, 200);
    eventually("the renamed file", async || (lines(&renamed).len() == 2).then_some(())).await;
    node.process.signal("HUP").await;
    let reload = line(&file, "config.reload").await;
    assert_eq!((&reload["by"], lines(&file).len()), (&json!("signal"), 1), "{reload}");
    assert_eq!(ban("cyd").await, 200);
    node.process.signal("TERM").await;
    node.process.ended().await;
    assert_eq!((lines(&renamed).len(), lines(&file)[1]["target"].clone()), (2, json!("cyd")));
}

#[tokio::test]
async fn a_node_does_not_start_without_its_audit_file() {
    let folder = Node::create_folder("memory", "[audit]\nfile = \"missing/audit.ndjson\"");
    for command in ["check", "serve"] {
        let output = run(folder.path(), &[command, "--config", "switchyard.toml"], &[]).await;
        let error = String::from_utf8(output.stderr).expect("text");
        assert!(!output.status.success(), "{command}");
        assert!(
            error.contains("audit.file: missing/audit.ndjson: No such file or directory"),
            "{command}: {error}"
        );
    }
}
