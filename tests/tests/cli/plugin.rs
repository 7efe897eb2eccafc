//! Plugins of a running node, from the command line.

use super::{stderr, stdout};
use serde_json::Value;
use std::process::Output;
use switchyard_tests::{KEY, READER, Server, guest, run};

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
