//! Plugins of a running node, from the command line.

use super::{stderr, stdout};
use serde_json::{Value, json};
use std::{process::Output, time::Duration};
use switchyard_tests::{KEY, READER, Server, binary, guest, run};

/// Compiling the little that a plugin needs.
const BUILD: Duration = Duration::from_secs(300);

async fn plugin(server: &Server, key: &str, arguments: &[&str]) -> Output {
    let arguments = [&["plugin"], arguments, &["--admin", &server.admin]].concat();
    run(server.folder(), &arguments, &[("SWITCHYARD_KEY", key)]).await
}

#[tokio::test]
async fn an_operator_sees_loads_and_takes_back_versions() {
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
        ("sk_none", &["list"], "the key is not known here"),
    ] {
        let output = plugin(&server, key, arguments).await;
        let told = stderr(&output);
        assert!(!output.status.success() && told.contains(expected), "{arguments:?}: {told}");
    }
    let nowhere = ["plugin", "list", "--admin", "http://127.0.0.1:1"];
    let told = stderr(&run(server.folder(), &nowhere, &[("SWITCHYARD_KEY", KEY)]).await);
    assert!(told.contains("127.0.0.1:1") && told.contains("refused"), "{told}");
}

/// What `run` says of each message, as JSON.
async fn trial(arguments: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(folder.path(), &[&["plugin", "run", "--json"], arguments].concat(), &[]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test]
async fn an_author_sees_what_becomes_of_messages_and_what_it_costs() {
    let thresholds = guest("threshold_filter").display().to_string();
    let feed = tempfile::NamedTempFile::new().expect("a file");
    let lines = [(0.01, "tvl"), (0.2, "tvl"), (0.9, "other")]
        .map(|(change, room)| json!({"room": room, "data": {"change": change}}).to_string() + "\n");
    std::fs::write(feed.path(), lines.concat()).expect("a feed");
    let from = feed.path().display().to_string();
    let filters = ["--filter", r#"{"minChange":0.1}"#, "--filter", r#"{"minChange":0.5}"#];
    let told = trial(&[&[&*thresholds, "--from", &from], &filters[..]].concat()).await;
    let passes: Vec<_> = told.iter().map(|message| message["filters"].clone()).collect();
    assert_eq!(passes, [json!([false, false]), json!([true, false]), json!([true, true])]);
    assert_eq!(
        (&told[2]["line"], &told[2]["room"], &told[2]["verdict"]),
        (&json!(3), &json!("other"), &json!("pass"))
    );

    let protocols = guest("protocol_rooms").display().to_string();
    let config = r#"{"protocols":["uniswap-v3"],"chains":["ethereum"]}"#;
    let told = trial(&[&protocols, "--config", config, "--room", "nothing:here", "1"]).await;
    assert_eq!(told[0]["verdict"], "reject", "{told:?}");
    assert!(told[0]["why"].as_str().expect("a reason").contains("nothing"), "{told:?}");

    // A guest's panic is shown with its place.
    let hostile = guest("hostile").display().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = ["plugin", "run", &hostile, "--config", r#"{"publish":"panic"}"#, "--room", "a", "1"];
    let output = run(folder.path(), &arguments, &[]).await;
    let said = stderr(&output);
    assert!(stdout(&output).contains("reject  failed: ") && said.contains("misdeed.rs:"), "{said}");

    let arguments = ["plugin", "bench", &thresholds, "--for", "50ms", "--json", "--from", &from];
    let output = run(folder.path(), &[&arguments[..], &filters[..]].concat(), &[]).await;
    let table: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let deliver = table.as_array().expect("rows").iter().find(|row| row["hook"] == "deliver").expect("a row");
    assert!(deliver["calls"].as_u64() > Some(10) && deliver["p50"].as_u64() > Some(0), "{table}");
    for (arguments, expected) in [
        (&["plugin", "run", &*thresholds, "--room", "a", "{"][..], "DATA is no JSON"),
        (&["plugin", "run", &thresholds, "--room", "a", "--filter", "[]", "1"], "--filter is no JSON object"),
        (&["plugin", "run", "gone.wasm", "--room", "a", "1"], "gone.wasm: No such file"),
    ] {
        super::fails(folder.path(), arguments, expected).await;
    }
}

/// As its author would: tested, built, checked and run.
#[tokio::test]
async fn a_new_plugin_builds_and_does_what_its_test_says() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned();
    let folder = tempfile::tempdir().expect("a folder");
    let sdk = root.join("sdk").display().to_string();
    let made = run(folder.path(), &["plugin", "new", "my-prices", "--sdk", &sdk], &[]).await;
    assert!(made.status.success(), "{}", stderr(&made));
    let place = folder.path().join("my-prices");
    // The versions that are there already, so that nothing is fetched.
    std::fs::copy(root.join("Cargo.lock"), place.join("Cargo.lock")).expect("a lock file");
    let target = binary().parent().and_then(|release| release.parent()).expect("target").join("new-plugin");
    let cargo = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO"));
        command.args(arguments).args(["--offline", "--release"]).current_dir(&place);
        command.env("CARGO_TARGET_DIR", &target).kill_on_drop(true);
        let built = tokio::time::timeout(BUILD, command.output()).await.expect("a build in time");
        let output = built.expect("cargo");
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stdout(&output)
    };
    assert!(cargo(&["test"]).await.contains("prices_are_checked_and_filtered ... ok"));
    cargo(&["build", "--target", "wasm32-unknown-unknown"]).await;
    let module = target.join("wasm32-unknown-unknown/release/my_prices.wasm").display().to_string();
    // The commands that it told.
    let told = stdout(&made);
    let commands = told.lines().filter_map(|line| line.strip_prefix("switchyard "));
    let mut said = vec![];
    for command in commands {
        let file = "target/wasm32-unknown-unknown/release/my_prices.wasm";
        let command = command.replace(file, &module).replace('\'', "");
        let output = run(&place, &command.split(' ').collect::<Vec<_>>(), &[]).await;
        assert!(output.status.success(), "{command}: {}", stderr(&output));
        said.push(stdout(&output));
    }
    assert!(
        said[0].starts_with("my_prices 0.1.0 is good") || said[0].starts_with("my-prices 0.1.0 is good"),
        "{said:?}"
    );
    assert_eq!(said[1], "prices  pass  1\n");

    super::fails(folder.path(), &["plugin", "new", "my-prices"], "my-prices is there already").await;
    super::fails(folder.path(), &["plugin", "new", "My Prices"], "is no name of a crate").await;
}
