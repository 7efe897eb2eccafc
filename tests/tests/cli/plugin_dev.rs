//! `plugin dev`: a folder whose plugin is built, served and loaded again whenever a file changes.

use serde_json::json;
use std::{fs, process::Stdio};
use switchyard_tests::{Client, command, guest, next_line, signal};
use tokio::io::{AsyncBufReadExt, BufReader};

/// The build copies a file, so that this needs no compiler.
#[tokio::test]
async fn a_saved_change_is_built_and_loaded_and_a_bad_one_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("mine");
    fs::create_dir_all(folder.join("src")).expect("a folder");
    let code = fs::read(guest("stamp")).expect("a plugin");
    let at = code.windows(7).position(|bytes| bytes == b"stamp=A").expect("the stamp");
    let version = |letter: u8| {
        let mut code = code.clone();
        code[at + 6] = letter;
        code
    };
    let save = |contents: &[u8]| fs::write(folder.join("src/plugin"), contents).expect("a file");
    save(b"broken");
    let build = "grep -aq -e stamp= -e refused src/plugin && cp src/plugin built.wasm";
    let arguments = ["plugin", "dev", "--rooms", "s,t", "--build", build, "--file", "built.wasm"];
    let ports = [("SWITCHYARD_SERVER__LISTEN", "127.0.0.1:0"), ("SWITCHYARD_ADMIN__LISTEN", "127.0.0.1:0")];
    let mut command = command(&folder, &arguments, &[&ports[..], &[("RUST_LOG", "off")]].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
    let mut printed = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut notes = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut note = async || {
        let line = tokio::time::timeout(switchyard_tests::EVENT_TIMEOUT, notes.next_line()).await;
        line.expect("a note in time").expect("text").expect("a note")
    };
    let failed = "switchyard: the build failed (exit status: 1); ";
    assert_eq!(note().await, format!("{failed}waiting for a change"));

    save(&version(b'A'));
    let mut line = async || next_line(&mut printed).await.expect("a line");
    let url = line().await.strip_prefix("clients    ").expect("the URL").to_owned();
    assert!(line().await.starts_with("operators  http://127.0.0.1:"));
    let key = line().await;
    let key = key.split_whitespace().nth(1).expect("the key").to_owned();
    let mut client = Client::open(&*url).await.authenticate(json!({"auth": {"apiKey": key}})).await;
    client.publish("s", json!({"n": 1})).await;
    // The calls before depend on when the first recording began.
    let publish = "publish    s  local  {\"n\":1}  {\"verdict\":\"pass\"}";
    let mut calls = vec![line().await];
    while calls.last().is_some_and(|last| last != publish) {
        calls.push(line().await);
    }

    save(&version(b'B'));
    let loaded = line().await;
    assert!(loaded.starts_with("loaded 0.1.0 "), "{loaded}");
    save(b"refused");
    let refused = note().await;
    assert!(refused.starts_with("switchyard: plugin 'mine' is not WebAssembly"), "{refused}");
    assert!(refused.ends_with("; the last good version keeps serving"), "{refused}");
    save(b"broken again");
    assert_eq!(note().await, format!("{failed}the last good version keeps serving"));
    client.publish("s", json!({"n": 2})).await;

    signal(&child, "INT").await;
    assert_eq!(child.wait().await.expect("an end").code(), Some(0));
}

#[tokio::test]
async fn a_folder_without_a_project_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("mine");
    fs::create_dir(&folder).expect("a folder");
    super::fails(&folder, &["plugin", "dev"], "no Cargo.toml, package.json or build.sh there").await;
    super::fails(&folder, &["plugin", "dev", "--build", "make"], "--file").await;
}
