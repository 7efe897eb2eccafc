//! `switchyard check` reports every invalid configuration with file, line and what would be right.

use super::{fails, stderr, stdout};
use std::{fs, path::Path};
use switchyard_tests::{Server, guest, run};

const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn plugin(name: &str, file: &Path, more: &str) -> String {
    format!("[[plugin]]\nname = \"{name}\"\nfile = \"{}\"\nrooms = [\"{name}:*\"]\n{more}\n", file.display())
}

#[tokio::test]
async fn a_valid_configuration_passes() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::create_dir(folder.join("deep")).expect("a folder");
    fs::copy(guest("orderbook"), folder.join("deep/orderbook.wasm")).expect("a copy");
    // Paths are relative to the file, not to the working directory.
    let text = format!(
        "{}\n[tier.pro]\nconnections = 25\nrooms = 100\n{}{}{}",
        Server::keys(),
        Server::key("sk_pro", "pro", r#"["subscribe"]"#, "tier = \"pro\"\nexpires = 2027-01-01T00:00:00Z"),
        plugin(
            "dydx",
            Path::new("orderbook.wasm"),
            "config = { max_depth = 50 }\non_failure = \"deny\"\nbudget = { call = \"10ms\", memory = \"16MiB\" }"
        ),
        // Regression: compiling the second plugin was cancelled together with the first.
        plugin("tvl", &guest("threshold_filter"), ""),
    );
    fs::write(folder.join("deep/s.toml"), text).expect("a file");
    let output = run(folder, &["check", "--config", "deep/s.toml"], &[]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!stdout(&output).is_empty());
    let output = run(folder, &["check"], &[("SWITCHYARD_KEY", "sk_of_the_command_line")]).await;
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Regression: each mistake was reported only after the one before it was mended.
#[tokio::test]
async fn the_mistakes_of_all_sections_are_reported_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "[server]\nlsten = 1\n[[key]]\nprincipal = \"a\"\n[limits]\naddress = [64, \"20/m\"]\n";
    fs::write(folder.path().join("s.toml"), text).expect("a file");
    let output = run(folder.path(), &["check", "--config", "s.toml"], &[]).await;
    assert_eq!(output.status.code(), Some(1));
    let errors = stderr(&output);
    for expected in [
        "s.toml:2: server: unknown key `lsten`",
        "s.toml:3: key.digest is missing",
        "s.toml:6: limits.address: invalid type: list, expected a table such as { unauthenticated = 64,",
    ] {
        assert!(errors.contains(expected), "{errors}");
    }
}

#[tokio::test]
async fn errors_are_reported_with_their_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::write(folder.join("text.wasm"), "no Wasm at all").expect("a file");
    fs::write(folder.join("cut.wasm"), &fs::read(guest("orderbook")).expect("a guest")[..9000])
        .expect("a file");
    let good = guest("orderbook");
    let key = |line: &str| {
        format!("\n\n[[key]]\ndigest = \"{DIGEST}\"\nprincipal = \"a\"\nscopes = [\"publish\"]\n{line}")
    };
    let cases = [
        // What is wrong, the first and last possible line, and what the report must contain.
        ("\n[server]\nlsten = \"127.0.0.1:0\"".to_owned(), 3..=3, "`listen`"),
        ("[server]\n\n\nlisten = \"here\"".into(), 4..=4, "127.0.0.1:"),
        ("[server]\nframe = \"much\"".into(), 2..=2, "64KiB"),
        ("[sever]\nlisten = \"127.0.0.1:0\"".into(), 1..=1, "`server`"),
        ("[session]\n# The ttl.\nttl = \"2 moons\"".into(), 3..=3, "10m"),
        ("[session]\nttl = 120".into(), 2..=2, "expected"),
        ("[session]\nheartbeat = { interval = \"25s\", timout = \"1s\" }".into(), 2..=2, "`timeout`"),
        ("[rooms]\nhistory = { messages = -1 }".into(), 2..=2, "expected"),
        ("[rooms]\nungoverned = \"ajar\"".into(), 2..=2, "`closed`"),
        ("[store]\nurl = \"mongo://here\"".into(), 2..=2, "memory"),
        (key("tier = \"gold\""), 7..=7, "[tier.gold]"),
        ("[cache]\nfolder = \"text.wasm\"".into(), 2..=2, "is not a directory"),
        (key("expires = 2027-01-01"), 7..=7, "2027-01-01T00:00:00Z"),
        (key("expires = \"soon\""), 7..=7, "datetime"),
        ("[[key]]\ndigest = \"12\"\nprincipal = \"a\"\nscopes = []".into(), 2..=2, "64 hexadecimal digits"),
        (format!("[[key]]\ndigest = \"{DIGEST}\"\nprincipal = \"a b\"\nscopes = []"), 3..=3, "A-Z a-z 0-9"),
        (
            format!("[[key]]\ndigest = \"{DIGEST}\"\nprincipal = \"a\"\nscopes = [\"all\"]"),
            4..=4,
            "`publish`",
        ),
        (format!("[[key]]\ndigest = \"{DIGEST}\"\nscopes = []"), 1..=3, "principal"),
        ("[tier.pro]\nconnections = \"many\"".into(), 2..=2, "expected"),
        (key("") + &key(""), 10..=10, "key.digest: this key of principal 'a' is listed twice"),
        ("[cache]\nfolder = \"\"".into(), 2..=2, "cache.folder is empty"),
        ("\n[plugin]\nname = \"x\"".into(), 2..=2, "write [[plugin]], not [plugin]"),
        // Errors that only the whole configuration shows.
        ("\n[server]\npath = \"socket\"".into(), 2..=3, "/v2/realtime"),
        ("\n\n[session]\nmessage = \"1MiB\"".into(), 3..=4, "session.outbox"),
        ("\n\n[server]\nframe = \"1KiB\"".into(), 3..=4, "server.frame"),
        ("\n\n[server]\ntls = { certificate = \"gone.pem\", key = \"gone.key\" }".into(), 3..=4, "gone.pem"),
        // What `serve` could not serve, or cannot be intended.
        ("\n[server]\npath = \"/:x\"".into(), 3..=3, "server.path: invalid path '/:x'"),
        ("\n[server]\npath = \"/{x}\"".into(), 3..=3, "server.path"),
        ("\n[server]\npath = \"/a/*\"".into(), 3..=3, "server.path"),
        ("\n[server]\npath = \"/a?b\"".into(), 3..=3, "server.path"),
        ("\n[server]\npath = \"/a#b\"".into(), 3..=3, "server.path"),
        ("\n[server]\npath = \"/a b\"".into(), 3..=3, "server.path"),
        ("\n[server]\npath = \"/a//b\"".into(), 3..=3, "server.path"),
        ("\n[server]\npath = \"/a/../b\"".into(), 3..=3, "server.path"),
        ("[server]\norigins = [\"https://app.example.org/page\"]".into(), 2..=2, "server.origins"),
        ("[server]\norigins = [\"*\"]".into(), 2..=2, "remove server.origins"),
        ("[server]\norigins = [\"app.example.org\"]".into(), 2..=2, "https://app.example.org"),
        (
            "[server]\ndrain_delay = \"2h\"".into(),
            2..=2,
            "server.drain_delay must be between 0s and 1h, got 2h",
        ),
        ("[admin]\nhosts = [\"node1:9090\"]".into(), 2..=2, "admin.hosts"),
        ("[store]\nurl = \"redis://127.0.0.1:6379/?db=3\"".into(), 2..=2, "as in /3"),
        ("[session]\nttl = \"10M\"".into(), 2..=2, "\"10m\" for minutes or \"10months\" for months"),
        (
            "[session]\nttl = \"500000000y\"".into(),
            2..=2,
            "session.ttl: '500000000y' is too long: at most 100 years",
        ),
        ("[session]\nttl = \"2y\"".into(), 2..=2, "session.ttl must be between 1ms and 1year, got 2y"),
        ("[session]\nttl = \"0s\"".into(), 2..=2, "session.ttl must be between 1ms and 1year, got 0s"),
        (
            "[session]\nauthenticate = \"0s\"".into(),
            2..=2,
            "session.authenticate must be between 1ms and 1day, got 0s",
        ),
        (
            "[session]\nheartbeat = { interval = \"0s\" }".into(),
            2..=2,
            "session.heartbeat.interval must be between 1ms and 1day, got 0s",
        ),
        (
            "[session]\nheartbeat = { timeout = \"0s\" }".into(),
            2..=2,
            "session.heartbeat.timeout must be between",
        ),
        ("[session]\noutbox = \"8EiB\"".into(), 2..=2, "session.outbox: '8EiB' is too large"),
        ("[rooms]\nhistory = { age = \"0s\" }".into(), 2..=2, "rooms.history.age must be between"),
        (
            plugin("x", &good, "budget = { call = \"0s\" }"),
            2..=2,
            "budget.call must be between 1ms and 1m, got 0s",
        ),
        (
            plugin("x", &good, "budget = { call = \"1s\", memory = \"1KiB\" }"),
            2..=2,
            "budget.memory must be between 64KiB and 4GiB, got 1KiB",
        ),
        (plugin("x", &good, "budget = { calls = 0 }"), 2..=2, "budget.calls must be at least 1, got 0"),
        (
            plugin("x", &good, "budget = { instances = 65 }"),
            2..=2,
            "budget.instances must be between 1 and 64, got 65",
        ),
        (
            key("") + &key("").replace("\"a\"", "\"b\""),
            10..=10,
            "key.digest: this key already belongs to principal 'a'",
        ),
        // Plugins.
        (format!("\n{}", plugin("x", Path::new("gone.wasm"), "")), 2..=4, "gone.wasm"),
        (format!("\n{}", plugin("x", Path::new("text.wasm"), "")), 2..=4, "text.wasm"),
        (format!("\n{}", plugin("x", Path::new("cut.wasm"), "")), 2..=4, "cut.wasm"),
        (plugin("x", &good, &format!("sha256 = \"{}\"", "0".repeat(64))), 1..=5, "SHA-256"),
        (plugin("x", &good, "config = { max_depth = 0 }"), 1..=5, "max_depth"),
        (plugin("x", &good, "config = { depth = 1 }"), 1..=5, "depth"),
        (plugin("x", &good, "on_failure = \"ignore\""), 5..=5, "`deny`"),
        (plugin("x", &good, "") + &plugin("x", &good, ""), 6..=7, "two plugins"),
        (plugin("x", &good, "").replace("x:*", "x:*y"), 4..=4, "x:*y"),
        (plugin("x", &good, "").replace("x:*", "@x"), 4..=4, "a plugin cannot govern inboxes"),
        (plugin("x", &good, "sha256 = \"00\""), 5..=5, "expected 64 hexadecimal digits"),
    ];
    let mut wrong = vec![];
    for (text, lines, names) in cases {
        fs::write(folder.join("s.toml"), &text).expect("a file");
        let output = run(folder, &["check", "--config", "s.toml"], &[]).await;
        let error = stderr(&output);
        let line =
            error.split("s.toml:").nth(1).and_then(|rest| rest.split(':').next()?.parse().ok()).unwrap_or(0);
        let status = output.status.code();
        if status != Some(1) || !lines.contains(&line) || !error.contains(names) || error.contains("panicked")
        {
            wrong.push(format!(
                "status {status:?}, line {line} of {lines:?}, '{names}' in:\n{error}of\n{text}\n"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn all_errors_about_plugins_are_reported_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = plugin("one", Path::new("one.wasm"), "") + &plugin("two", Path::new("two.wasm"), "");
    fs::write(folder.path().join("s.toml"), text).expect("a file");
    let error = fails(folder.path(), &["check", "--config", "s.toml"], "one.wasm").await;
    assert!(error.contains("two.wasm"), "{error}");
}

#[tokio::test]
async fn a_missing_file_and_an_invalid_variable_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fails(folder, &["check", "--config", "gone.toml"], "gone.toml").await;
    for (name, value, says) in [
        ("SWITCHYARD_SESSION__TTL", "soon", "10m"),
        ("SWITCHYARD_SERVER__PORT", "1", "`listen`"),
        ("SWITCHYARD_SERVER__LISTEN", "here", "SWITCHYARD_SERVER__LISTEN"),
    ] {
        let output = run(folder, &["check"], &[(name, value)]).await;
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(error.contains(name) && error.contains(says), "{error}");
    }
}

/// `serve` rejects what `check` rejects, except for a plugin, whose rooms it closes.
#[tokio::test]
async fn serve_does_not_start_with_an_invalid_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    for (text, names) in [
        ("[server]\nlsten = 1", "s.toml:2"),
        (
            "[server]\nlisten = \"127.0.0.1:0\"\ntls = { certificate = \"gone.pem\", key = \"gone.key\" }\n\
             [admin]\nlisten = \"127.0.0.1:0\"",
            "gone.pem",
        ),
    ] {
        fs::write(folder.join("s.toml"), text).expect("a file");
        fails(folder, &["serve", "--config", "s.toml"], names).await;
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    fs::write(folder.join("s.toml"), format!("[server]\nlisten = \"{address}\"")).expect("a file");
    fails(folder, &["serve", "--config", "s.toml"], &address).await;
}

#[tokio::test]
async fn shared_state_without_a_shared_store_is_a_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let check = async |state: &str| {
        let section = switchyard_tests::plugin("keeper", r#"["kept"]"#, "{}") + &format!("state = {state}\n");
        std::fs::write(folder.join("s.toml"), section).expect("a file");
        run(folder, &["check", "--config", "s.toml"], &[]).await
    };
    let output = check("\"shared\"").await;
    let warning = "plugin.state of plugin 'keeper' is \"shared\", but store.url is \"memory\"";
    assert!(output.status.success() && stderr(&output).contains(warning), "{}", stderr(&output));
    let output = check("\"node\"").await;
    assert!(output.status.success() && !stderr(&output).contains("plugin.state"), "{}", stderr(&output));
    let output = check("\"both\"").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("`node` or `shared`"), "{}", stderr(&output));
}
