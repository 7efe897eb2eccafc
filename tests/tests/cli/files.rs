//! Files and variables in the forms in which they occur in practice.

use super::{serve::PORTS, stderr, stdout};
use serde_json::json;
use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
    process::Stdio,
};
use switchyard_tests::{
    Answer, Certificate, Client, EVENT_TIMEOUT, KEY, Process, Server, command, eventually, guest, run,
};
use tokio::time::timeout;

const MARK: &str = "\u{feff}";

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("stderr")).expect("a log")
}

#[tokio::test]
async fn a_byte_order_mark_is_ignored() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), format!("{MARK}{text}")).expect("a file")
    };
    let generated = Certificate::generate();
    write("cert.pem", &generated.certificate);
    write("key.pem", &generated.key);
    let tls = "tls = { certificate = \"cert.pem\", key = \"key.pem\" }\n[admin]";
    write("s.toml", &format!("{}{}", PORTS.replace("[admin]", tls), Server::keys()));
    write("key", &format!("{KEY}\r\n"));
    write(
        "feed",
        "{\"time\":0,\"room\":\"prices\",\"data\":1}\n{\"time\":0,\"room\":\"prices\",\"data\":2}\n",
    );
    let process = Process::serve(folder.path(), &["--config", "s.toml"], &[]).await;
    let publish = [
        "publish",
        "--url",
        &process.url,
        "--ca",
        "cert.pem",
        "--key-file",
        "key",
        "--from",
        "feed",
        "--speed",
        "max",
    ];
    let published = run(folder.path(), &publish, &[]).await;
    assert!(published.status.success(), "{}", stderr(&published));
    let body = format!("{MARK}{{\"room\":\"prices\",\"data\":3}}");
    let (status, answer) = Answer::called(&process.admin, "POST", "/v1/publish", Some(KEY), body).await;
    assert_eq!(status, 200, "{answer}");
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["offset"], 3, "nothing of the feed was left out");
}

#[tokio::test]
async fn a_file_that_is_not_a_plugin_does_not_prevent_a_start() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("plugins")).expect("a folder");
    for name in ["orderbook.wasm", "orderbook (1).wasm"] {
        fs::copy(guest("orderbook"), folder.path().join("plugins").join(name)).expect("a copy");
    }
    let ports = [("SWITCHYARD_SERVER__LISTEN", "127.0.0.1:0"), ("SWITCHYARD_ADMIN__LISTEN", "127.0.0.1:0")];
    let process = Process::serve(folder.path(), &[], &ports).await;
    let key = process.startup["key"].as_str().expect("a key").to_owned();
    let (_, plugins) = Answer::called(&process.admin, "GET", "/v1/plugins", Some(&key), "").await;
    assert!(plugins.contains("\"orderbook\"") && !plugins.contains("(1)"), "{plugins}");
    assert!(log(folder.path()).contains("orderbook (1).wasm is not loaded"), "{}", log(folder.path()));
}

#[tokio::test]
async fn a_variable_that_is_not_utf8_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let latin = OsStr::from_bytes(b"caf\xe9");
    let ended = async |arguments: &[&str], name: &str| {
        let mut command = command(folder.path(), arguments, &[]);
        command.env(name, latin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("a process");
        timeout(EVENT_TIMEOUT, child.wait_with_output()).await.expect("an end in time").expect("a status")
    };
    // A variable that the node does not use.
    let output = ended(&["check"], "CAFE").await;
    assert!(output.status.success(), "{}", stderr(&output));
    let output = ended(&["check"], "SWITCHYARD_STORE__PREFIX").await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "switchyard: SWITCHYARD_STORE__PREFIX: the value of this variable is not valid UTF-8\n"
    );
    let output = ended(&["listen", "--url", "ws://127.0.0.1:1/", "prices"], "SWITCHYARD_KEY").await;
    assert!(stderr(&output).contains("SWITCHYARD_KEY: not valid UTF-8"), "{}", stderr(&output));
    let output = ended(&["check"], "RUST_LOG").await;
    assert!(
        output.status.success() && stderr(&output).contains("RUST_LOG is not valid UTF-8"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn an_invalid_log_level_is_reported_and_the_default_applies() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("s.toml"), format!("{PORTS}{}", Server::keys())).expect("a file");
    let _process = Process::serve(folder.path(), &["--config", "s.toml"], &[("RUST_LOG", "inf")]).await;
    // The log is written by a thread of its own, perhaps after the addresses are printed.
    eventually("a warning, and lines of the default level", async || {
        let log = log(folder.path());
        (log.contains("RUST_LOG 'inf'") && log.contains(" INFO ")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn probable_mistakes_are_warnings_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    Certificate::generate().write_to(folder.path());
    let open = |name: &str, mode| {
        fs::set_permissions(folder.path().join(name), Permissions::from_mode(mode)).expect("a mode")
    };
    let tls = "tls = { certificate = \"cert.pem\", key = \"key.pem\" }";
    let text =
        format!("[server]\nlisten = \"0.0.0.0:0\"\n[admin]\nlisten = \"0.0.0.0:0\"\n{}", Server::keys());
    let warnings = async |text: &str| {
        fs::write(folder.path().join("s.toml"), text).expect("a file");
        let _process = Process::serve(folder.path(), &["--config", "s.toml"], &[]).await;
        log(folder.path())
            .lines()
            .filter(|line| line.contains(" WARN "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let plain = warnings(&text).await;
    assert_eq!(plain.len(), 2, "{plain:#?}");
    assert!(
        plain[0].contains("travel in plain text") && plain[1].contains("admin.listen is 0.0.0.0:0"),
        "{plain:#?}"
    );
    open("key.pem", 0o644);
    let with_key =
        warnings(&text.replace("[admin]", &format!("{tls}\n[admin]")).replace("0.0.0.0", "127.0.0.1")).await;
    assert_eq!(with_key.len(), 1, "{with_key:#?}");
    assert!(with_key[0].contains("key.pem") && with_key[0].contains("chmod o="), "{with_key:#?}");
    open("key.pem", 0o600);
    let good =
        warnings(&text.replace("[admin]", &format!("{tls}\n[admin]")).replace("0.0.0.0", "127.0.0.1")).await;
    assert!(good.is_empty(), "{good:#?}");
    // `check` reports the same, and rejects none of it.
    fs::write(folder.path().join("s.toml"), "[store]\nurl = \"redis://:secret@127.0.0.1/0\"\n")
        .expect("a file");
    open("s.toml", 0o644);
    let output = run(folder.path(), &["check", "--config", "s.toml"], &[]).await;
    assert!(output.status.success() && !stdout(&output).is_empty());
    let error = stderr(&output);
    assert!(error.contains("contains a Redis password") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn a_node_serves_without_a_writable_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    // Nobody can create a folder there, not even root.
    let text = format!("{PORTS}{}[cache]\nfolder = \"/proc/none/cache\"\n", Server::keys());
    fs::write(folder.path().join("s.toml"), text).expect("a file");
    let process = Process::serve(folder.path(), &["--config", "s.toml"], &[]).await;
    let mut client = Client::connect_at(&process.url, json!({"auth": {"apiKey": KEY}})).await;
    client.publish("prices", json!(1)).await;
    assert!(
        log(folder.path()).contains("cache.folder: /proc/none/cache cannot be written to"),
        "{}",
        log(folder.path())
    );
}

/// The store contains a key that expires later than any calendar date.
#[tokio::test]
async fn keys_are_listed_whatever_the_store_contains() {
    let folder = tempfile::tempdir().expect("a folder");
    let redis = switchyard_tests::Redis::start().await;
    fs::write(folder.path().join("s.toml"), format!("[store]\nurl = \"{}\"\n", redis.url())).expect("a file");
    let add = ["key", "add", "--config", "s.toml", "--principal", "acme", "--scope", "publish", "--expires"];
    for (expires, says) in [("8000y", "at most 100 years"), ("10M", "10months")] {
        let refused = run(folder.path(), &[&add[..], &[expires]].concat(), &[]).await;
        assert!(!refused.status.success() && stderr(&refused).contains(says), "{}", stderr(&refused));
    }
    let added = run(folder.path(), &[&add[..], &["90d"]].concat(), &[]).await;
    assert!(added.status.success(), "{}", stderr(&added));
    let digest = format!("sha256:{}", "0".repeat(64));
    let stored = format!(r#"1:{{"principal":"old","scopes":["publish"],"expires":{}}}"#, 1u64 << 60);
    let fields = redis.command(&["HGETALL", "switchyard:{/keys}:all"]).await;
    let example = fields.lines().find(|line| line.contains("acme")).expect("the key that was added");
    // In the same form as the others.
    let stored = match example.split_once('{') {
        Some((before, _)) => format!("{before}{}", &stored[2..]),
        None => stored,
    };
    redis.command(&["HSET", "switchyard:{/keys}:all", &digest, &stored]).await;
    for more in [&[][..], &["--json"]] {
        let listed =
            run(folder.path(), &[&["key", "list", "--config", "s.toml"][..], more].concat(), &[]).await;
        assert!(listed.status.success(), "{}", stderr(&listed));
        let keys = stdout(&listed);
        assert!(
            keys.contains("acme") && keys.contains("old") && keys.contains("after the year 9999"),
            "{keys}"
        );
    }
}
