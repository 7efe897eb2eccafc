//! Signed plugins, using only the command line: a key, a signature, a check, a node.

use super::{fails, stderr, stdout};
use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt};
use switchyard_tests::{KEY, Server, guest, run};

/// Runs `keygen` in a folder and returns the public key.
async fn keygen(folder: &std::path::Path, file: &str) -> String {
    let made = run(folder, &["plugin", "keygen", file], &[]).await;
    assert!(made.status.success(), "{}", stderr(&made));
    stdout(&made).lines().next().expect("a line").to_owned()
}

#[tokio::test]
async fn a_plugin_is_signed_checked_and_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().to_owned();
    let (first, other) = (keygen(&place, "first.key").await, keygen(&place, "other.key").await);
    let mode = fs::metadata(place.join("first.key")).expect("a key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "nobody else may read it");
    let secret = fs::read_to_string(place.join("first.key")).expect("a key");
    fails(&place, &["plugin", "keygen", "first.key"], "first.key already exists").await;
    assert_eq!(fs::read_to_string(place.join("first.key")).expect("a key"), secret, "it was left alone");

    for (file, name) in [("threshold_filter", "dydx.wasm"), ("orderbook", "next.wasm")] {
        fs::copy(guest(file), place.join(name)).expect("a copy");
    }
    let plugin = "[[plugin]]\nname = \"dydx\"\nfile = \"dydx.wasm\"\nrooms = [\"tvl\"]\n";
    let text = format!("{}{plugin}[signatures]\nkeys = [\"{first}\"]\nrequire = true\n", Server::keys());
    fs::write(place.join("s.toml"), &text).expect("a file");
    let check = ["check", "--config", "s.toml"];
    let error = fails(&place, &check, "plugin 'dydx' is not signed").await;
    assert!(
        error.contains("s.toml:") && error.contains("dydx.wasm") && error.contains("plugin sign"),
        "{error}"
    );

    fs::write(place.join("text.key"), "no key").expect("a file");
    for (arguments, expected) in [
        (["dydx.wasm", "--key-file", "gone.key"], "gone.key: No such file"),
        (["dydx.wasm", "--key-file", "text.key"], "text.key: not a private key"),
        (["gone.wasm", "--key-file", "first.key"], "gone.wasm: No such file"),
    ] {
        fails(&place, &[&["plugin", "sign"], &arguments[..]].concat(), expected).await;
    }
    let sign = async |file: &str, key: &str| {
        let signed = run(&place, &["plugin", "sign", file, "--key-file", key], &[]).await;
        assert!(signed.status.success(), "{}", stderr(&signed));
    };
    sign("dydx.wasm", "other.key").await;
    fails(&place, &check, "its signature matches no key in signatures.keys").await;
    sign("dydx.wasm", "first.key").await;
    let checked = run(&place, &check, &[]).await;
    assert!(checked.status.success(), "{}", stderr(&checked));

    let server = Server::start_in(folder, &text).await;
    let load = async || {
        let arguments = ["plugin", "load", "dydx", "next.wasm", "--json", "--admin", &server.admin];
        run(&place, &arguments, &[("SWITCHYARD_KEY", KEY)]).await
    };
    let refused = load().await;
    let error = stderr(&refused);
    assert!(!refused.status.success() && error.contains("is not signed"), "{error}");
    sign("next.wasm", "other.key").await;
    assert!(stderr(&load().await).contains("matches no key"));
    sign("next.wasm", "first.key").await;
    let loaded = load().await;
    assert!(loaded.status.success(), "{}", stderr(&loaded));
    let loaded: Value = serde_json::from_str(&stdout(&loaded)).expect("JSON");
    assert_eq!(
        (&loaded["plugin"]["package"], &loaded["plugin"]["signed_by"]),
        (&"orderbook".into(), &first.clone().into())
    );
    assert_ne!(first, other);
}
