//! Plugins of a running node, from the command line.

use super::{serve::PORTS, stderr, stdout};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Output,
};
use switchyard_tests::{Client, KEY, Process, READER, Server, eventually, guest, replace_file, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn plugin(server: &Server, key: &str, arguments: &[&str]) -> Output {
    let arguments = [&["plugin"], arguments, &["--admin", &server.admin]].concat();
    run(server.folder(), &arguments, &[("SWITCHYARD_KEY", key)]).await
}

#[tokio::test]
async fn an_operator_lists_loads_and_rolls_back_versions() {
    let file = guest("orderbook").display().to_string();
    let configuration = format!(
        "[[plugin]]\nname = \"dydx\"\nfile = \"{file}\"\nrooms = [\"dydx:*\", \"trades\"]\n\
         [[plugin]]\nname = \"gone\"\nfile = \"gone.wasm\"\nrooms = [\"gone\"]"
    );
    let server = Server::start(&configuration).await;
    let listed = stdout(&plugin(&server, KEY, &["list"]).await);
    assert!(listed.contains("dydx  active  0.1.0  ") && listed.contains("  dydx:*,trades\n"), "{listed}");
    assert!(listed.contains("gone  failed  gone  ") && listed.contains("No such file"), "{listed}");

    let other = guest("threshold_filter").display().to_string();
    let loaded = plugin(&server, KEY, &["load", "dydx", &other, "--json"]).await;
    assert!(loaded.status.success(), "{}", stderr(&loaded));
    let loaded: Value = serde_json::from_str(&stdout(&loaded)).expect("JSON");
    assert_eq!(loaded["plugin"]["package"], "threshold-filter", "{loaded}");
    let back = stdout(&plugin(&server, KEY, &["rollback", "dydx"]).await);
    assert_eq!(back.lines().next(), listed.lines().next(), "the version that was there before");

    let half = std::fs::read(&other).expect("a plugin")[..10_000].to_vec();
    std::fs::write(server.folder().join("half.wasm"), half).expect("a file");
    for (key, arguments, expected) in [
        (KEY, &["load", "nobody", &other][..], "no plugin 'nobody' is configured here"),
        (KEY, &["load", "dydx", "missing.wasm"], "missing.wasm: No such file"),
        (KEY, &["load", "dydx", "half.wasm"], "plugin 'dydx' is damaged or truncated"),
        (KEY, &["rollback", "gone"], "plugin 'gone' has no earlier version"),
        (READER, &["list"], "key 'zed' may not see plugins: it lacks the scope 'admin'"),
        ("sk_none", &["list"], "unknown API key"),
    ] {
        let output = plugin(&server, key, arguments).await;
        let printed = stderr(&output);
        assert!(!output.status.success() && printed.contains(expected), "{arguments:?}: {printed}");
    }
    let nowhere = ["plugin", "list", "--admin", "http://127.0.0.1:1"];
    let printed = stderr(&run(server.folder(), &nowhere, &[("SWITCHYARD_KEY", KEY)]).await);
    assert!(printed.contains("127.0.0.1:1") && printed.contains("refused"), "{printed}");
    let client_listener = server.url.replace("ws://", "http://").replace("/v2/realtime", "");
    let list = ["plugin", "list", "--admin", &client_listener];
    let printed = stderr(&run(server.folder(), &list, &[("SWITCHYARD_KEY", KEY)]).await);
    assert!(printed.contains(&format!("{client_listener}: there is nothing at this path")), "{printed}");
    assert!(printed.contains("--admin must be the URL of the admin listener"), "{printed}");
}

/// What `run` prints for each message, as JSON.
async fn trial(arguments: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(folder.path(), &[&["plugin", "run", "--json"], arguments].concat(), &[]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test]
async fn an_author_sees_verdicts_on_messages_and_their_costs() {
    let thresholds = guest("threshold_filter").display().to_string();
    let feed = tempfile::NamedTempFile::new().expect("a file");
    let lines = [(0.01, "tvl"), (0.2, "tvl"), (0.9, "other")]
        .map(|(change, room)| json!({"room": room, "data": {"change": change}}).to_string() + "\n");
    std::fs::write(feed.path(), lines.concat()).expect("a feed");
    let from = feed.path().display().to_string();
    let filters = ["--filter", r#"{"minChange":0.1}"#, "--filter", r#"{"minChange":0.5}"#];
    let printed = trial(&[&[&*thresholds, "--from", &from], &filters[..]].concat()).await;
    let passes: Vec<_> = printed.iter().map(|message| message["filters"].clone()).collect();
    assert_eq!(passes, [json!([false, false]), json!([true, false]), json!([true, true])]);
    assert_eq!(
        (&printed[2]["line"], &printed[2]["room"], &printed[2]["verdict"]),
        (&json!(3), &json!("other"), &json!("pass"))
    );

    let protocols = guest("protocol_rooms").display().to_string();
    let config = r#"{"protocols":["uniswap-v3"],"chains":["ethereum"]}"#;
    let printed = trial(&[&protocols, "--config", config, "--room", "nothing:here", "1"]).await;
    assert_eq!(printed[0]["verdict"], "reject", "{printed:?}");
    assert!(printed[0]["why"].as_str().expect("a reason").contains("nothing"), "{printed:?}");

    // A panic of the plugin is shown with its location.
    let hostile = guest("hostile").display().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = ["plugin", "run", &hostile, "--config", r#"{"publish":"panic"}"#, "--room", "a", "1"];
    let output = run(folder.path(), &arguments, &[]).await;
    let error = stderr(&output);
    assert!(stdout(&output).contains("reject  failed: ") && error.contains("misdeed.rs:"), "{error}");

    let arguments = ["plugin", "bench", &thresholds, "--for", "50ms", "--json", "--from", &from];
    let output = run(folder.path(), &[&arguments[..], &filters[..]].concat(), &[]).await;
    let table: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let deliver = table.as_array().expect("rows").iter().find(|row| row["hook"] == "deliver").expect("a row");
    assert!(deliver["calls"].as_u64() > Some(10) && deliver["p50"].as_u64() > Some(0), "{table}");
    for (arguments, expected) in [
        (&["plugin", "run", &*thresholds, "--room", "a", "{"][..], "invalid JSON"),
        (&["plugin", "run", &thresholds, "--room", "a", "--filter", "[]", "1"], "expected a JSON object"),
        (&["plugin", "run", "gone.wasm", "--room", "a", "1"], "gone.wasm: No such file"),
    ] {
        super::fails(folder.path(), arguments, expected).await;
    }
}

#[tokio::test]
async fn a_rejected_filter_is_an_error() {
    let file = guest("threshold_filter").display().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let filters = ["--filter", r#"{"minChange":1}"#, "--filter", r#"{"floor":4}"#];
    let message = ["--room", "tvl", r#"{"change":2}"#];
    for (command, more) in [("run", &[][..]), ("bench", &["--for", "50ms"])] {
        let arguments = [&["plugin", command, &file][..], &filters, more, &message].concat();
        let output = run(folder.path(), &arguments, &[]).await;
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{command}: {error}");
        assert!(error.starts_with("switchyard: filter 2 is rejected: "), "{command}: {error}");
        assert!(error.contains("floor"), "{command}: {error}");
    }
    std::fs::write(folder.path().join("empty"), "\n").expect("a feed");
    super::fails(folder.path(), &["plugin", "bench", &file, "--from", "empty"], "there is no message").await;
}

#[tokio::test]
async fn instruction_counts_are_exact() {
    let thresholds = guest("threshold_filter").display().to_string();
    let feed = tempfile::NamedTempFile::new().expect("a file");
    let long = "x".repeat(10_000);
    let lines = [json!(""), json!(""), json!(long)]
        .map(|more| json!({"room": "tvl", "data": {"change": 0.2, "more": more}}).to_string() + "\n");
    std::fs::write(feed.path(), lines.concat()).expect("a feed");
    let from = feed.path().display().to_string();
    let arguments = [&*thresholds, "--from", &from, "--filter", r#"{"minChange":0.1}"#];
    let instructions = async || {
        let printed = trial(&arguments).await;
        printed.iter().map(|message| message["instructions"].clone()).collect::<Vec<_>>()
    };
    let first = instructions().await;
    assert_eq!(instructions().await, first, "the same run takes the same");
    let deliver = |n: usize| first[n]["deliver"].as_u64().unwrap_or_else(|| panic!("{first:?}"));
    assert!(deliver(0) > 100 && deliver(2) > deliver(1) + 10_000, "a longer message takes more: {first:?}");
    assert!(first[0]["subscribe"].as_u64() > Some(0) && first[1].get("subscribe").is_none(), "{first:?}");

    let folder = tempfile::tempdir().expect("a folder");
    let bench = [&["plugin", "bench", "--for", "50ms", "--json"], &arguments[..]].concat();
    let output = run(folder.path(), &bench, &[]).await;
    let table: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let row = table.as_array().expect("rows").iter().find(|row| row["hook"] == "deliver").expect("a row");
    let total = (0..3).map(deliver).sum::<u64>();
    assert_eq!(row["instructions"]["total"], total, "each message is counted once: {row}");

    // The message of a plugin is not repeated.
    let hostile = guest("hostile").display().to_string();
    let arguments = ["plugin", "run", &hostile, "--config", r#"{"publish":"panic"}"#, "--room", "a", "1"];
    let error = stderr(&run(folder.path(), &arguments, &[]).await);
    assert_eq!(error.matches("plugin failed: ").count(), 1, "{error}");
    assert!(error.contains("instructions"), "{error}");
}

#[tokio::test]
async fn plugin_new_overwrites_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = run(folder.path(), &["plugin", "new", "my-prices"], &[]).await;
    assert!(made.status.success(), "{}", stderr(&made));
    super::fails(folder.path(), &["plugin", "new", "my-prices"], "my-prices already exists").await;
    super::fails(folder.path(), &["plugin", "new", "My Prices"], "such as my-rooms").await;
    super::fails(folder.path(), &["plugin", "new", "x", "--sdk", "."], "no Cargo.toml there").await;
}

#[tokio::test]
async fn the_contract_of_the_binary_is_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let contract = include_str!("../../../sdk/wit/plugin.wit");
    assert_eq!(stdout(&run(folder.path(), &["plugin", "wit"], &[]).await), contract);
}

#[tokio::test]
async fn a_project_without_the_sdk_takes_no_options_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    for option in ["--vendor", "--sdk=."] {
        let output = run(folder.path(), &["plugin", "new", "mine", "--lang", "js", option], &[]).await;
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("--sdk and --vendor are for --lang rust"), "{}", stderr(&output));
    }
    assert!(!folder.path().join("mine").exists());
}

#[tokio::test]
async fn a_config_is_compared_with_the_schema_of_the_plugin() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let thresholds = guest("threshold_filter").display().to_string();
    let output = run(folder, &["plugin", "check", &thresholds, "--json"], &[]).await;
    let info: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let fields = &info["config_schema"]["properties"]["fields"];
    assert_eq!(fields["properties"]["change"], json!({"type": "string"}), "{info}");
    assert_eq!(fields["additionalProperties"], false, "{info}");
    let filter = &info["filter_schema"];
    assert_eq!(filter["properties"]["minChange"]["anyOf"][1], json!({"type": "null"}), "{info}");
    assert_eq!(filter["additionalProperties"], false, "{info}");
    let check =
        ["plugin", "check", &thresholds, "--filter", r#"{"minChange":5}"#, "--filter", r#"{"minChanges":5}"#];
    let output = run(folder, &check, &[]).await;
    let problem = "filter.minChanges is not a known field";
    assert!(output.status.code() == Some(1) && stderr(&output).contains(problem), "{}", stderr(&output));

    let server = Server::start(&switchyard_tests::plugin("threshold_filter", r#"["t"]"#, "{}")).await;
    let schemas = server.get("/v1/plugins/threshold_filter/schema").await;
    assert_eq!(schemas, json!({"config": info["config_schema"], "filter": info["filter_schema"]}));
    let refused = server.refused("GET", "/v1/plugins/threshold_filter/schema", Some(READER), "").await;
    assert_eq!(refused, (403, "forbidden".to_owned()));
}

/// A plugin may accept what its schema does not.
#[tokio::test]
async fn a_config_that_the_schema_does_not_allow_is_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let mut code = std::fs::read(guest("first_contract")).expect("a plugin");
    let (own, other) = (br#"{"type":"object"}"#, br#"{"enum":["none"]}"#);
    let at = code.windows(own.len()).position(|bytes| bytes == own).expect("its schema");
    code[at..at + own.len()].copy_from_slice(other);
    std::fs::write(folder.join("strict.wasm"), code).expect("a file");
    let problem = "plugin 'strict': config must be one of \"none\", got {} (its config schema)";
    let found = run(folder, &["plugin", "check", "strict.wasm"], &[]).await;
    assert_eq!((found.status.code(), stderr(&found)), (Some(1), format!("switchyard: {problem}\n")));
    let section = "[[plugin]]\nname = \"strict\"\nfile = \"strict.wasm\"\nrooms = [\"a\"]\n";
    std::fs::write(folder.join("s.toml"), section).expect("a file");
    let found = run(folder, &["check", "--config", "s.toml"], &[]).await;
    assert_eq!(
        (found.status.code(), stderr(&found)),
        (Some(1), format!("switchyard: s.toml:2: {problem}\n"))
    );
}

/// A process that serves the guest `hostile` for rooms such as `bad:a`, and its configuration file.
async fn hostile_process(folder: &Path) -> (Process, PathBuf) {
    let file = folder.join("switchyard.toml");
    let plugin = switchyard_tests::plugin("hostile", r#"["bad:*"]"#, "{}");
    std::fs::write(&file, format!("{PORTS}{}{plugin}", Server::keys())).expect("a file");
    (Process::serve(folder, &["--config", "switchyard.toml"], &[]).await, file)
}

#[tokio::test]
async fn every_change_of_a_plugin_leaves_an_audit_line_with_digests() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (process, file) = hostile_process(folder).await;
    std::fs::copy(guest("threshold_filter"), folder.join("next.wasm")).expect("a file");
    let sha256 = |path: &Path| switchyard_plugin::digest(&std::fs::read(path).expect("a plugin"));
    let (first, second) = (sha256(&guest("hostile")), sha256(&guest("threshold_filter")));
    for arguments in [
        &["load", "hostile", "next.wasm", "--shadow"][..],
        &["drop", "hostile"],
        &["load", "hostile", "next.wasm", "--shadow"],
        &["promote", "hostile"],
        &["rollback", "hostile"],
    ] {
        let arguments = [&["plugin"], arguments, &["--admin", &process.admin]].concat();
        let output = run(folder, &arguments, &[("SWITCHYARD_KEY", KEY)]).await;
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    }
    let config = |text: &str| text.replace("config = {}", "config = { deliver = \"refuse\" }");
    let before = std::fs::read_to_string(&file).expect("a configuration");
    assert_ne!(config(&before), before);
    replace_file(&file, config(&before));
    let log = || std::fs::read_to_string(folder.join("stderr")).expect("a log");
    let changed = eventually("a line", async || {
        log().lines().find(|line| line.contains("config_before")).map(str::to_owned)
    })
    .await;
    let log = log();
    let audit: Vec<_> = log.lines().filter(|line| line.contains("switchyard::audit")).collect();
    let has = |what: &str, parts: &[&str]| {
        let found =
            audit.iter().any(|line| line.contains(what) && parts.iter().all(|part| line.contains(part)));
        assert!(found, "no line '{what}' with {parts:?} in {audit:#?}");
    };
    let digest = |line: &str, name: &str| {
        let (_, rest) =
            line.split_once(&format!("\"{name}\":\"")).unwrap_or_else(|| panic!("no {name} in {line}"));
        rest.chars().take_while(char::is_ascii_hexdigit).collect::<String>()
    };
    let (after, before) = (digest(&changed, "config"), digest(&changed, "config_before"));
    assert!(after.len() == 64 && before.len() == 64 && after != before, "{changed}");
    assert!(changed.contains(&first), "{changed}");
    has("plugin.activate", &[&first, &before, "file"]);
    has("candidate.start", &[&second, &before, "acme"]);
    has("candidate.drop", &[&second, &before, "acme"]);
    has("plugin.activate", &[&second, &before, "promotion", "acme"]);
    has("candidate.drop", &[&second, &before, "\"by\":\"node\""]);
    has("plugin.rollback", &[&first, &second, &before, "acme"]);
}

#[tokio::test]
async fn loading_says_at_once_what_is_not_as_expected() {
    let server = Server::start(&switchyard_tests::plugin("threshold_filter", r#"["t"]"#, "{}")).await;
    let same = guest("threshold_filter").display().to_string();
    let output = plugin(&server, KEY, &["load", "threshold_filter", &same]).await;
    assert!(output.status.success() && stderr(&output).contains("was active already"), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("threshold_filter  active  "), "{}", stdout(&output));
    // Another version of the contract: a component, whose names tell it without compiling.
    let component = wit_component::ComponentEncoder::default();
    let component = component.module(&std::fs::read(guest("threshold_filter")).expect("a plugin"));
    let mut newer = component.and_then(|mut encoder| encoder.encode()).expect("a component");
    for at in 0..newer.len() - 5 {
        if &newer[at..at + 6] == b"@0.2.0" {
            newer[at..at + 6].copy_from_slice(b"@0.9.0");
        }
    }
    std::fs::write(server.folder().join("newer.wasm"), newer).expect("a file");
    for (arguments, expected) in [
        (
            ["load", "threshold_filter", "newer.wasm"],
            "was built for switchyard:plugin@0.9.0, but this host supports versions up to switchyard:plugin@0.2.0",
        ),
        (
            ["load", "thresholds", &same],
            "no plugin 'thresholds' is configured here (configured: threshold_filter)",
        ),
    ] {
        let output = plugin(&server, KEY, &arguments).await;
        assert!(!output.status.success() && stderr(&output).contains(expected), "{}", stderr(&output));
    }
    // The node was not asked about the file, and nothing has changed there.
    assert_eq!(server.get("/v1/plugins/threshold_filter").await["generation"], 1);
    // Something else that answers every request.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>").await;
        }
    });
    let load = ["plugin", "load", "threshold_filter", &same, "--admin", &format!("http://{address}")];
    let output = run(server.folder(), &load, &[("SWITCHYARD_KEY", KEY)]).await;
    let expected =
        format!("--admin http://{address}: unexpected answer with status 200; is this an admin listener?");
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
}

#[tokio::test]
async fn a_candidate_shows_in_the_list_with_its_failures() {
    let server = Server::start(&switchyard_tests::plugin("threshold_filter", r#"["bad:*"]"#, "{}")).await;
    let hostile = guest("hostile").display().to_string();
    let output = plugin(&server, KEY, &["load", "threshold_filter", &hostile, "--shadow"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let mut client = Client::connect(&server).await;
    client.subscribe(json!(["bad:subscribe.panic"])).await;
    let list = eventually("a failure", async || {
        let list = stdout(&plugin(&server, KEY, &["list"]).await);
        list.contains("1 failure").then_some(list)
    })
    .await;
    let digest = switchyard_plugin::digest(&std::fs::read(&hostile).expect("a plugin"));
    let [active, candidate] = list.lines().collect::<Vec<_>>()[..] else { panic!("{list}") };
    assert!(active.starts_with("threshold_filter  active  0.1.0  "), "{list}");
    let config = active.split("  ").find(|part| part.starts_with("config ")).expect("its configuration");
    assert_eq!(candidate, format!("  candidate  0.1.0  {}  {config}  1 failure", &digest[..12]));
}
