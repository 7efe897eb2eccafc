//! Commands whose output cannot be written.

use super::{serve::PORTS, stderr};
use serde_json::json;
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Output, Stdio},
};
use switchyard_tests::{
    Answer, Client, EVENT_TIMEOUT, KEY, Process, Redis, Server, command, eventually, hold_port, next_line,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

async fn printing_to(folder: &Path, arguments: &[&str], out: impl Into<Stdio>) -> Output {
    let mut command = command(folder, arguments, &[]);
    command.stdout(out).stderr(Stdio::piped());
    let child = command.spawn().expect("a process");
    timeout(EVENT_TIMEOUT, child.wait_with_output()).await.expect("an end in time").expect("a status")
}

fn full() -> File {
    File::options().write(true).open("/dev/full").expect("/dev/full")
}

/// A pipe that nobody reads.
fn closed() -> std::io::PipeWriter {
    std::io::pipe().expect("a pipe").1
}

#[tokio::test]
async fn a_full_disk_is_reported_once_and_a_closed_pipe_silently_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let redis = Redis::start().await;
    fs::write(folder.join("s.toml"), format!("[store]\nurl = \"{}\"\n", redis.url())).expect("a file");
    let add = ["key", "add", "--config", "s.toml", "--principal", "acme", "--scope", "publish"];
    let added = switchyard_tests::run(folder, &add, &[]).await;
    assert!(added.status.success(), "{}", stderr(&added));
    let guest = switchyard_tests::guest("threshold_filter");
    let guest = guest.to_str().expect("text");
    for arguments in [
        &["key", "new", "--principal", "acme", "--scope", "publish"][..],
        &["key", "new", "--principal", "acme", "--scope", "publish", "--json"],
        &["key", "list", "--config", "s.toml"],
        &["key", "list", "--config", "s.toml", "--json"],
        &add,
        &["check", "--config", "s.toml"],
        &["plugin", "check", guest],
        &["plugin", "run", guest, "--room", "a", "1"],
    ] {
        let output = printing_to(folder, arguments, full()).await;
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert_eq!(
            error, "switchyard: cannot write to standard output: No space left on device (os error 28)\n",
            "{arguments:?}"
        );
        let output = printing_to(folder, arguments, closed()).await;
        assert_eq!((output.status.code(), &*stderr(&output)), (Some(1), ""), "{arguments:?}");
    }
    let keys = switchyard_tests::run(folder, &["key", "list", "--config", "s.toml"], &[]).await;
    assert_eq!(
        super::stdout(&keys).lines().count(),
        1,
        "a key that nobody was shown is not left in the store"
    );
}

/// As with `| head -1`.
#[tokio::test]
async fn listening_ends_silently_when_its_reader_closes_the_pipe() {
    let server = Server::start("").await;
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = ["listen", "--json", "--url", &server.url, "prices"];
    let mut command = command(folder.path(), &arguments, &[("SWITCHYARD_KEY", KEY)]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
    let mut client = Client::connect(&server).await;
    eventually("a listener", async || {
        let (status, body) = server.call("GET", "/v1/rooms/prices", Some(KEY), "").await;
        (status == 200 && body.contains(r#""members":1"#)).then_some(())
    })
    .await;
    client.publish("prices", json!(1)).await;
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(next_line(&mut lines).await.is_some());
    drop(lines);
    client.publish("prices", json!(2)).await;
    let output =
        timeout(EVENT_TIMEOUT, child.wait_with_output()).await.expect("an end in time").expect("a status");
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(1), ""));
}

/// Its addresses are known from the configuration.
#[tokio::test]
async fn a_node_serves_although_nobody_reads_its_output() {
    let folder = tempfile::tempdir().expect("a folder");
    // Full, because its reader exists but does not read.
    let (_stopped, mut pipe) = std::io::pipe().expect("a pipe");
    pipe.write_all(&[b'\n'; 64 << 10]).expect("as much as a pipe takes");
    for out in [Stdio::from(closed()), full().into(), pipe.into()] {
        let ((_server, server), (_admin, admin)) = (hold_port(), hold_port());
        let ports = format!("[server]\nlisten = \"{server}\"\n[admin]\nlisten = \"{admin}\"\n");
        fs::write(folder.path().join("s.toml"), format!("{ports}{}", Server::keys())).expect("a file");
        let mut command = command(folder.path(), &["serve", "--config", "s.toml"], &[]);
        let mut child = command.stdout(out).stderr(Stdio::null()).spawn().expect("a process");
        eventually("a listener", async || tokio::net::TcpStream::connect(server).await.ok()).await;
        let url = format!("ws://{server}/v2/realtime");
        let mut client = Client::connect_at(&url, json!({"auth": {"apiKey": KEY}})).await;
        client.publish("prices", json!(1)).await;
        assert_eq!(Answer::of(&admin.to_string(), "GET", "/readyz", "", b"").await.status, 200);
        child.kill().await.expect("a process");
    }
    // A port that is in use is reported as usual.
    fs::write(folder.path().join("s.toml"), format!("{PORTS}{}", Server::keys())).expect("a file");
    let process = Process::serve(folder.path(), &["--config", "s.toml"], &[]).await;
    let listen = [("SWITCHYARD_SERVER__LISTEN", process.address())];
    let output = switchyard_tests::run(folder.path(), &["serve", "--config", "s.toml"], &listen).await;
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("switchyard: server.listen: cannot listen on "), "{error}");
}
