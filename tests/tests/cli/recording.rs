//! Recording what a plugin of a running node is asked, and replaying it.

use super::{stderr, stdout};
use serde_json::{Value, json};
use std::{path::Path, process::Stdio};
use switchyard_tests::{Client, KEY, READER, Server, command, guest, next_line, plugin, run};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout},
};

/// A node with the plugin `stamp`, which decides about everything in the room `s`.
async fn node() -> Server {
    Server::start(&plugin("stamp", r#"["s", "S"]"#, "{}")).await
}

/// `plugin record stamp`, which has begun: this has read its first line.
async fn recording(server: &Server, arguments: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    recording_with(server, KEY, arguments).await
}

async fn recording_with(
    server: &Server,
    key: &str,
    arguments: &[&str],
) -> (Child, Lines<BufReader<ChildStdout>>) {
    let arguments = [&["plugin", "record", "stamp", "--admin", &server.admin], arguments].concat();
    let mut command = command(server.folder(), &arguments, &[("SWITCHYARD_KEY", key)]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let head = next(&mut lines).await;
    assert_eq!(
        (&head["recording"]["plugin"], &head["recording"]["package"]),
        (&json!("stamp"), &json!("stamp"))
    );
    (child, lines)
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Value {
    serde_json::from_str(&next_line(lines).await.expect("a line")).expect("JSON")
}

/// Another version: it filters other messages.
fn other_version(folder: &Path) -> String {
    let mut code = std::fs::read(guest("stamp")).expect("a plugin");
    let at = code.windows(7).position(|bytes| bytes == b"stamp=A").expect("the stamp");
    code[at + 6] = b'B';
    std::fs::write(folder.join("other.wasm"), code).expect("a file");
    "other.wasm".to_owned()
}

#[tokio::test]
async fn what_hooks_are_asked_is_recorded_and_replayed_on_another_version() {
    let server = node().await;
    let (child, mut lines) = recording(&server, &["--for", "1h", "--data"]).await;
    let mut client = Client::connect(&server).await;
    let connect = next(&mut lines).await;
    assert_eq!(connect["ask"]["connect"]["principal"]["id"], "acme", "{connect}");
    assert_eq!(connect["answer"], json!({ "limits": {} }));
    client.subscribe(json!([{"room": "S", "filter": {"g": 1}}])).await;
    let room = next(&mut lines).await;
    assert_eq!(room["ask"], json!({"room": {"principal": "acme", "room": "S"}}));
    assert_eq!(room["answer"], json!({"canonical": "s"}));
    let subscribe = next(&mut lines).await;
    let asked = &subscribe["ask"]["subscribe"];
    assert_eq!((&asked["room"], &asked["filter"]), (&json!("s"), &json!({"g": 1})), "{subscribe}");
    assert_eq!(subscribe["answer"], json!({"filter": "{\"g\":1}", "limits": {}}));
    client.publish("s", json!({"n": 1})).await;
    client.publish("s", json!({"n": 2})).await;
    let mut calls = vec![head(), connect, room, subscribe];
    while calls.iter().filter(|call| !call["ask"]["deliver"].is_null()).count() < 2 {
        calls.push(next(&mut lines).await);
    }
    let publish = calls.iter().find(|call| !call["ask"]["publish"].is_null()).expect("a publish");
    let message = json!({"room": "s", "bytes": 7, "data": {"n": 1}});
    let asked = &publish["ask"]["publish"];
    assert_eq!((&asked["principal"]["id"], &asked["via"]), (&json!("acme"), &json!("websocket")), "{asked}");
    assert_eq!(asked["message"], message);
    assert_eq!(publish["answer"], json!({"verdict": "pass"}));
    let deliver = calls.iter().find(|call| !call["ask"]["deliver"].is_null()).expect("a delivery");
    assert_eq!(deliver["ask"]["deliver"], json!({"filters": ["{\"g\":1}"], "message": message}));

    // Another version ends the recording.
    let other = other_version(server.folder());
    let load = ["plugin", "load", "stamp", &other, "--admin", &server.admin];
    let loaded = run(server.folder(), &load, &[("SWITCHYARD_KEY", KEY)]).await;
    assert!(loaded.status.success(), "{}", stderr(&loaded));
    let end = loop {
        let line = next(&mut lines).await;
        if line["ask"].is_null() {
            break line;
        }
        calls.push(line);
    };
    let recorded = calls.len() - 1;
    assert_eq!(end, json!({"end": {"reason": "version", "calls": recorded, "skipped": 0}}));
    let ended = child.wait_with_output().await.expect("an end");
    assert!(ended.status.success());
    assert!(
        stderr(&ended).ends_with("; it ended early, because another version became active\n"),
        "{}",
        stderr(&ended)
    );

    let folder = server.folder();
    calls.push(end);
    let text: String = calls.iter().map(|call| format!("{call}\n")).collect();
    std::fs::write(folder.join("calls.ndjson"), text).expect("a file");
    let active = guest("stamp").display().to_string();
    let test = async |file: &str, more: &[&str]| {
        run(folder, &[&["plugin", "test", file, "--from", "calls.ndjson"], more].concat(), &[]).await
    };
    let same = test(&active, &[]).await;
    assert_eq!((same.status.code(), &*stdout(&same)), (Some(0), ""), "{}", stderr(&same));
    assert!(stderr(&same).contains(&format!("replayed {recorded} calls\n")), "{}", stderr(&same));

    // The other version passes the other message.
    let different = test(&other, &[]).await;
    let printed = stdout(&different);
    assert_eq!(different.status.code(), Some(1), "{printed}");
    assert_eq!(printed.lines().count(), 2, "{printed}");
    for line in printed.lines() {
        assert!(line.contains("  deliver  s  expected {\"passes\":["), "{line}");
    }
    assert!(
        stderr(&different).contains(&format!("2 of {recorded} answers are different")),
        "{}",
        stderr(&different)
    );

    // Its answers can be what is expected.
    let verdicts = stdout(&test(&other, &["--json"]).await);
    std::fs::write(folder.join("verdicts.ndjson"), &verdicts).expect("a file");
    let expected = test(&other, &["--expect", "verdicts.ndjson"]).await;
    assert_eq!(expected.status.code(), Some(0), "{}", stdout(&expected));
    assert_eq!(test(&active, &["--expect", "verdicts.ndjson"]).await.status.code(), Some(1));
    let missing: String = verdicts.lines().skip(1).map(|line| format!("{line}\n")).collect();
    std::fs::write(folder.join("verdicts.ndjson"), missing).expect("a file");
    let output = stdout(&test(&other, &["--expect", "verdicts.ndjson"]).await);
    assert!(output.starts_with("line 2  connect  expected no answer, got "), "{output}");
    std::fs::write(folder.join("verdicts.ndjson"), verdicts + "{\"line\":99,\"answer\":{}}\n")
        .expect("a file");
    let output = stderr(&test(&other, &["--expect", "verdicts.ndjson"]).await);
    assert!(
        output.contains("an answer for line 99 of calls.ndjson, where no call could be replayed"),
        "{output}"
    );
}

fn head() -> Value {
    json!({"recording": {}})
}

#[tokio::test]
async fn a_recording_has_a_length_and_no_data_unless_it_is_asked_for() {
    let server = node().await;
    let (child, mut lines) = recording(&server, &["--for", "2s"]).await;
    let again = ["plugin", "record", "stamp", "--admin", &server.admin];
    let error = stderr(&run(server.folder(), &again, &[("SWITCHYARD_KEY", KEY)]).await);
    assert!(error.contains("plugin 'stamp' is being recorded on this node"), "{error}");
    let mut client = Client::connect(&server).await;
    client.publish("s", json!({"n": 1, "secret": true})).await;
    let (mut text, mut end) = (String::new(), Value::Null);
    while let Some(line) = next_line(&mut lines).await {
        end = serde_json::from_str(&line).expect("JSON");
        text += &format!("{line}\n");
    }
    assert!(text.contains("\"publish\"") && !text.contains("secret"), "{text}");
    assert_eq!(end["end"]["reason"], "time", "{text}");
    assert!(child.wait_with_output().await.expect("an end").status.success());

    // Only what has no data can be replayed.
    std::fs::write(server.folder().join("calls.ndjson"), text).expect("a file");
    let active = guest("stamp").display().to_string();
    let test = ["plugin", "test", &active, "--from", "calls.ndjson"];
    let output = run(server.folder(), &test, &[]).await;
    assert!(stderr(&output).contains("; skipped 1 call recorded without data"), "{}", stderr(&output));

    // The next one can begin, and needs the scope admin.
    drop(recording(&server, &[]).await);
    for (key, path, expected) in [
        (READER, "/v1/plugins/stamp/record", (403, "forbidden")),
        (KEY, "/v1/plugins/nobody/record", (404, "not_found")),
        (KEY, "/v1/plugins/stamp/record?for=2h", (400, "invalid_request")),
        (KEY, "/v1/plugins/stamp/record?for=0s", (400, "invalid_request")),
        (KEY, "/v1/plugins/stamp/record?data=yes", (400, "invalid_request")),
    ] {
        let refused = server.refused("GET", path, Some(key), "").await;
        assert_eq!((refused.0, &*refused.1), expected, "{path}");
    }
}

/// Regression: it went on for up to an hour.
#[tokio::test]
async fn a_recording_ends_when_its_principal_is_banned() {
    let operator = Server::key("sk_ops", "ops", r#"["admin"]"#, "id = \"ops\"");
    let server = Server::start(&format!("{}{operator}", plugin("stamp", r#"["s"]"#, "{}"))).await;
    let (child, mut lines) = recording_with(&server, "sk_ops", &["--for", "1h"]).await;
    let ban = server.call("PUT", "/v1/principals/ops/ban", Some(KEY), r#"{"for":"1h"}"#).await;
    assert_eq!(ban.0, 200, "{}", ban.1);
    assert_eq!(next(&mut lines).await["end"]["reason"], "refused", "although nothing is recorded");
    let ended = child.wait_with_output().await.expect("an end");
    assert!(stderr(&ended).contains("its principal was banned"), "{}", stderr(&ended));
}

/// Regression for build pipelines: an error of the author, and one of whoever wrote the pipeline, differ.
#[tokio::test]
async fn exit_codes_tell_findings_from_wrong_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (stamp, hostile) = (guest("stamp").display().to_string(), guest("hostile").display().to_string());
    std::fs::write(folder.join("nothing.ndjson"), "{\"recording\":{}}\n").expect("a file");
    std::fs::write(folder.join("wrong.ndjson"), "{\"time\":1}\n").expect("a file");
    for (code, arguments) in [
        (0, &["plugin", "check", &*stamp][..]),
        (1, &["plugin", "check", &stamp, "--config", "{\"a\":1}"]),
        (1, &["plugin", "check", "gone.wasm"]),
        (2, &["plugin", "check"]),
        (2, &["plugin", "check", &stamp, "--config", "{"]),
        (0, &["plugin", "run", &stamp, "--room", "s", "{\"n\":1}"]),
        // A rejected message is an answer; a failed call is not.
        (0, &["plugin", "run", &stamp, "--room", "s", "{}"]),
        (1, &["plugin", "run", &hostile, "--config", "{\"publish\":\"panic\"}", "--room", "s", "1"]),
        (1, &["plugin", "run", &stamp, "--room", "s", "--filter", "{}", "{\"n\":1}"]),
        (2, &["plugin", "run", &stamp, "--room", "s"]),
        (2, &["plugin", "run", &stamp, "--room", "s", "--counts", "1,2", "{\"n\":1}"]),
        (1, &["plugin", "test", &stamp, "--from", "gone.ndjson"]),
        (1, &["plugin", "test", &stamp, "--from", "nothing.ndjson"]),
        (1, &["plugin", "test", &stamp, "--from", "wrong.ndjson"]),
        (2, &["plugin", "test", &stamp]),
        (1, &["check", "--config", "gone.toml"]),
        (2, &["check", "--confg", "gone.toml"]),
    ] {
        let output = run(folder, arguments, &[]).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
    }
}

#[tokio::test]
async fn a_replayed_call_and_a_recorded_message_have_their_own_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let clock = guest("first_contract").display().to_string();
    let call = json!({
        "time": 1_700_000_000_123_u64,
        "ask": {"publish": {"principal": {"id": "acme"}, "message": {"room": "a", "event": "stamp", "bytes": 1, "data": 1}}},
        "answer": {},
    });
    std::fs::write(folder.join("calls.ndjson"), format!("{call}\n")).expect("a file");
    let output = run(folder, &["plugin", "test", &clock, "--from", "calls.ndjson", "--json"], &[]).await;
    assert!(stdout(&output).contains("1700000000123"), "{}{}", stdout(&output), stderr(&output));
    let message = json!({"time": 1_700_000_000_123_u64, "room": "a", "event": "stamp", "data": 1});
    std::fs::write(folder.join("feed.ndjson"), format!("{message}\n")).expect("a file");
    let output = run(folder, &["plugin", "run", &clock, "--from", "feed.ndjson"], &[]).await;
    assert!(stdout(&output).contains("1700000000123"), "{}{}", stdout(&output), stderr(&output));
}

#[tokio::test]
async fn counts_are_what_the_hook_subscribe_sees() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = guest("first_contract").display().to_string();
    let subscribe = async |counts: &str| {
        let arguments = ["plugin", "run", &file, "--room", "a", "--counts", counts, "{}"];
        let output = run(folder.path(), &arguments, &[]).await;
        (output.status.code(), stdout(&output) + &stderr(&output))
    };
    let (code, printed) = subscribe("1001,1001,1000").await;
    assert!(code == Some(0) && printed.contains("a  pass  1\n"), "{printed}");
    let (code, printed) = subscribe("0,0,1001").await;
    assert!(
        code == Some(1) && printed.contains("the subscription is rejected: the room is full"),
        "{printed}"
    );
}
