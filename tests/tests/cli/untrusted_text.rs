//! What clients, publishers and plugin authors can write to logs and terminals: only text.

use super::{serve::PORTS, stdout};
use serde_json::json;
use std::{fs, process::Stdio};
use switchyard_tests::{
    Answer, Certificate, Client, EVENT_TIMEOUT, KEY, Process, Server, command, eventually, next_line, run,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// A TLS ClientHello, split into several records, with a long and invalid server name.
fn hello(name: &[u8]) -> Vec<u8> {
    let sized = |bytes: usize, body: &[u8]| {
        let length = (body.len() as u32).to_be_bytes();
        [&length[4 - bytes..], body].concat()
    };
    let names = sized(2, &[&[0][..], &sized(2, name)].concat());
    let extensions = sized(2, &[&[0, 0][..], &sized(2, &names)].concat());
    let body = [&[3, 3][..], &[7; 32], &[0], &sized(2, &[0x13, 0x01]), &[1, 0], &extensions].concat();
    let message = [&[1][..], &sized(3, &body)].concat();
    message.chunks(16_000).flat_map(|part| [&[22, 3, 1][..], &sized(2, part)].concat()).collect()
}

#[tokio::test]
async fn tls_hellos_with_invalid_names_do_not_fill_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    Certificate::generate().write_to(folder.path());
    let tls = "tls = { certificate = \"cert.pem\", key = \"key.pem\" }\n[admin]";
    let text = format!("{}{}", PORTS.replace("[admin]", tls), Server::keys());
    fs::write(folder.path().join("s.toml"), text).expect("a file");
    let process = Process::serve(folder.path(), &["--config", "s.toml"], &[]).await;
    let hello = hello(&[0; 60_000]);
    for _ in 0..300 {
        let mut tcp = TcpStream::connect(process.address()).await.expect("a listener");
        tcp.write_all(&hello).await.ok();
        let mut answer = vec![];
        timeout(EVENT_TIMEOUT, tcp.read_to_end(&mut answer)).await.expect("an end in time").ok();
    }
    let address = process.admin.strip_prefix("http://").expect("HTTP");
    let dropped = async || {
        let metrics = Answer::of(address, "GET", "/metrics", "", b"").await.body;
        let line = metrics.lines().find_map(|line| line.strip_prefix("switchyard_log_lines_dropped_total "));
        line.expect("the series").parse::<f64>().expect("a number")
    };
    let left_out = dropped().await;
    assert!(left_out >= 100.0, "what one place logs too often is left out and counted: {left_out}");
    let log = || fs::read(folder.path().join("stderr")).expect("a log");
    let longest = log().split(|byte| *byte == b'\n').map(<[u8]>::len).max().expect("lines");
    assert!(longest < 5000, "a line of {longest} bytes");
    let all = log().len();
    assert!(all < 1 << 20, "300 hellos wrote {all} bytes");
    let says = "log lines suppressed: one place in the code logs too often";
    switchyard_tests::eventually_within(2 * EVENT_TIMEOUT, "a line that says so", async || {
        String::from_utf8_lossy(&log()).contains(says).then_some(())
    })
    .await;
}

/// A core module that imports this function from this module.
fn importing(module: &str, name: &str) -> Vec<u8> {
    let sized = |body: &[u8]| {
        let (low, high) = (body.len() as u8 & 0x7f | 0x80, (body.len() >> 7) as u8);
        [&[low, high][..], body].concat()
    };
    let import = [&[1][..], &sized(module.as_bytes()), &sized(name.as_bytes()), &[0, 0]].concat();
    [b"\0asm\x01\0\0\0", &[1, 4, 1, 0x60, 0, 0, 2][..], &sized(&import)].concat()
}

#[tokio::test]
async fn untrusted_names_cannot_forge_log_lines_or_control_a_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let forged =
        "2026-01-01T00:00:00.000000Z  INFO switchyard_server::hub: plugin p: version activated by=root";
    let name = format!("f\n{forged}\u{1b}[31m\u{202e}\u{85}");
    fs::write(folder.path().join("p.wasm"), importing("env", &name)).expect("a file");
    let plugin = "[[plugin]]\nname = \"p\"\nfile = \"p.wasm\"\nrooms = [\"p\"]\n";
    fs::write(folder.path().join("s.toml"), format!("{PORTS}{}{plugin}", Server::keys())).expect("a file");
    let process = Process::serve(folder.path(), &["--config", "s.toml"], &[]).await;
    let is_clean = |what: &str, text: &str| {
        let wrong = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2028}".contains(c));
        assert!(!text.contains(wrong), "{what}: {text:?}");
        assert!(text.lines().all(|line| !line.starts_with(forged)), "{what}: {text}");
    };
    let environment = [("SWITCHYARD_KEY", KEY)];
    let put = ["plugin", "load", "p", "p.wasm", "--admin", &process.admin];
    let refused = run(folder.path(), &put, &environment).await;
    assert!(!refused.status.success());
    is_clean("what `plugin load` says", &super::stderr(&refused));
    for more in [&[][..], &["--json"]] {
        let list = [&["plugin", "list", "--admin", &*process.admin][..], more].concat();
        let listed = stdout(&run(folder.path(), &list, &environment).await);
        assert!(listed.contains("import"), "{listed}");
        is_clean("`plugin list`", &listed);
    }
    is_clean("the log", &fs::read_to_string(folder.path().join("stderr")).expect("a log"));
    let checked = run(folder.path(), &["check", "--config", "s.toml"], &[]).await;
    is_clean("`check`", &super::stderr(&checked));

    let data = json!({"text": "\u{202e}\u{9b}31m\u{7f}", "line": "\u{2028}"});
    // The session of the listener remains a member of its room for a while.
    for (room, more) in [("plain", &[][..]), ("for-programs", &["--json"])] {
        let listen = [&["listen", "--url", &*process.url, "--count", "1", room][..], more].concat();
        let mut command = command(folder.path(), &listen, &environment);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a process");
        eventually("a listener", async || {
            let path = format!("/v1/rooms/{room}");
            let (_, rooms) = Answer::called(&process.admin, "GET", &path, Some(KEY), "").await;
            rooms.contains(r#""members":1"#).then_some(())
        })
        .await;
        let mut client = Client::connect_at(&process.url, json!({"auth": {"apiKey": KEY}})).await;
        client.publish(room, data.clone()).await;
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = next_line(&mut lines).await.expect("a line");
        is_clean("`listen`", &line);
        if more == ["--json"] {
            let received: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!(received["data"], data, "a program reads what was published");
        }
        timeout(EVENT_TIMEOUT, child.wait()).await.expect("an end in time").expect("a status");
    }
}
