//! A system that allows no more threads: what needs one fails, and everything else works.

use serde_json::{Value, json};
use std::{
    cell::RefCell,
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
};
use switchyard_tests::{
    Answer, Client, EVENT_TIMEOUT, KEY, Process, Server, eventually, eventually_within, guest, hold_port,
};
use tempfile::TempDir;
use tokio::process::Command;

const PORTS: &str = "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";

/// A folder with a binary and a configuration that any user may run. The limit does not apply to root, and it
/// counts all threads of a user. So root runs the node as a user that nothing else uses.
struct Place {
    folder: TempDir,
    user: Option<u32>,
}

impl Place {
    fn new(user: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let is_root = folder.path().metadata().expect("its owner").uid() == 0;
        let readable = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(folder.path(), readable(0o755)).expect("a folder for all");
        let binary = folder.path().join("switchyard");
        // By a process of its own: a program that is open for writing, also in a process that another test is just
        // starting, cannot be run.
        let copied = std::process::Command::new("cp").arg(switchyard_tests::binary()).arg(&binary).status();
        assert!(copied.expect("cp is there").success());
        fs::set_permissions(&binary, readable(0o755)).expect("a program for all");
        let place = Self { folder, user: is_root.then_some(user) };
        place.put("threshold_filter");
        let plugin = "[[plugin]]\nname = \"dydx\"\nfile = \"dydx.wasm\"\nrooms = [\"dydx:*\"]\n";
        fs::write(place.path().join("s.toml"), format!("{PORTS}{}{plugin}", Server::keys())).expect("a file");
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path().join("stderr")).unwrap_or_default()
    }

    /// Atomically replaces the plugin with another version.
    fn put(&self, name: &str) {
        let (new, file): (PathBuf, _) = (self.path().join("new"), self.path().join("dydx.wasm"));
        fs::copy(guest(name), &new).expect("a copy");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).expect("a file for all");
        fs::rename(new, file).expect("one step");
    }

    /// Sets how many threads the user of a process may have. Only a process of the same user may set that.
    async fn limit(&self, process: &Process, threads: &str) {
        let mut command = Command::new("prlimit");
        command.args(["--pid", &process.id().to_string(), &format!("--nproc={threads}:")]);
        self.user.map(|user| command.uid(user).gid(user));
        assert!(command.status().await.expect("prlimit is there").success());
    }

    /// Runs `serve` with a soft limit that can be raised later.
    fn serve(&self, threads: Option<u32>) -> Command {
        let binary = self.path().join("switchyard");
        let mut command = match threads {
            Some(threads) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nproc={threads}:")).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        command.args(["serve", "--json", "--config", "s.toml"]).current_dir(self.path());
        let log = fs::File::create(self.path().join("stderr")).expect("a file for what it logs");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        self.user.map(|user| command.uid(user).gid(user));
        command
    }
}

async fn plugin(process: &Process) -> Value {
    let (status, body) = Answer::called(&process.admin, "GET", "/v1/plugins/dydx", Some(KEY), "").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

async fn client(process: &Process) -> Client {
    Client::connect_at(&process.url, json!({"auth": {"apiKey": KEY}})).await
}

#[tokio::test]
async fn a_node_without_threads_serves_and_loads_plugins_later() {
    let place = Place::new(61_001);
    let process = Process::started(place.serve(None)).await.unwrap_or_else(|_| panic!("{}", place.log()));
    let (mut listener, mut publisher) = (client(&process).await, client(&process).await);
    listener.subscribe(json!(["dydx:eth", "prices"])).await;
    let before = plugin(&process).await["plugin"]["sha256"].clone();
    place.limit(&process, "1").await;
    let new = Server::key("sk_new", "new", r#"["publish"]"#, "");
    let file = place.path().join("s.toml");
    let text = fs::read_to_string(&file).expect("text") + &new;
    fs::write(&file, text).expect("a file");
    place.put("orderbook");
    process.signal("HUP").await;
    eventually("an error in the log", async || {
        (place.log().contains("cannot be started") || place.log().contains("panicked")).then_some(())
    })
    .await;
    assert!(!place.log().contains("panicked"), "{}", place.log());
    // Everything that needs no thread was done, and all clients are served.
    eventually("the new key", async || Client::is_accepted(&process.url, "sk_new").await.then_some(())).await;
    for room in ["prices", "dydx:eth"] {
        publisher.publish(room, json!({"price": 1})).await;
        listener.expect("message").await;
    }
    assert_eq!(plugin(&process).await["plugin"]["sha256"], before, "the version before stays");
    // As soon as threads are available again, without any further signal.
    place.limit(&process, "1000").await;
    eventually_within(3 * EVENT_TIMEOUT, "the new version", async || {
        (plugin(&process).await["plugin"]["sha256"] != before).then_some(())
    })
    .await;
    publisher.publish("prices", json!(2)).await;
    assert_eq!(listener.expect("message").await["data"], 2);
}

#[tokio::test]
async fn a_start_without_threads_reports_one_error_or_a_failed_plugin() {
    let place = Place::new(61_002);
    let (mut refused, mut failed) = (0, 0);
    for threads in 1..40 {
        match Process::started(place.serve(Some(threads))).await {
            Err(status) => {
                let log = place.log();
                assert_eq!(status.code(), Some(1), "{threads}: {log}");
                let messages: Vec<_> = log.lines().filter(|line| line.starts_with("switchyard: ")).collect();
                assert!(messages.len() == 1 && !log.contains("panicked"), "{threads}: {log}");
                refused += 1;
            }
            Ok(mut process) => {
                client(&process).await.publish("prices", json!(1)).await;
                let shown = plugin(&process).await;
                let is_active = shown["state"] == "active";
                if !is_active {
                    assert_eq!(shown["state"], "failed", "{shown}");
                    let reason = shown["failed"].as_str().or(shown["reason"].as_str()).unwrap_or_default();
                    assert!(reason.contains("cannot be started"), "{shown}");
                    let answer =
                        client(&process).await.ask(json!({"type": "subscribe", "rooms": ["dydx:eth"]})).await;
                    assert_eq!(answer["results"][0]["error"]["code"], "plugin_failed", "{answer}");
                    failed += 1;
                    place.limit(&process, "1000").await;
                    eventually_within(3 * EVENT_TIMEOUT, "a plugin that was loaded later", async || {
                        (plugin(&process).await["state"] == "active").then_some(())
                    })
                    .await;
                }
                assert!(!place.log().contains("panicked"), "{}", place.log());
                process.kill().await;
                if is_active {
                    break;
                }
            }
        }
    }
    assert!(refused > 0 && failed > 0, "{refused} were refused, {failed} had a failed plugin");
}

/// Nobody reads the addresses that the node prints, and there is no thread to wait for that. If a worker
/// waited, the node would not serve.
#[tokio::test]
async fn a_node_that_can_neither_print_nor_start_a_thread_serves() {
    let place = Place::new(61_003);
    let (_stopped, mut pipe) = std::io::pipe().expect("a pipe");
    pipe.write_all(&[b'\n'; 64 << 10]).expect("as much as a pipe takes");
    let mut served = 0;
    for threads in 1..40 {
        let ((_server, server), (_admin, admin)) = (hold_port(), hold_port());
        let ports = format!("[server]\nlisten = \"{server}\"\n[admin]\nlisten = \"{admin}\"\n");
        fs::write(place.path().join("s.toml"), format!("{ports}{}", Server::keys())).expect("a file");
        let mut command = place.serve(Some(threads));
        command.stdout(pipe.try_clone().expect("the same pipe")).env("TOKIO_WORKER_THREADS", "1");
        let child = RefCell::new(command.spawn().expect("a process"));
        let serves = eventually("a listener or an end", async || {
            let has_ended = child.borrow_mut().try_wait().expect("a process").is_some();
            let listens = tokio::net::TcpStream::connect(server).await.is_ok();
            (has_ended || listens).then_some(listens)
        })
        .await;
        if !serves {
            continue;
        }
        let url = format!("ws://{server}/v2/realtime");
        let mut client = Client::connect_at(&url, json!({"auth": {"apiKey": KEY}})).await;
        client.publish("prices", json!(1)).await;
        child.into_inner().kill().await.expect("a process");
        served += 1;
        if served == 3 {
            return;
        }
    }
    panic!("{served} served");
}
