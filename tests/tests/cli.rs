//! The command line, with the real binary.

mod check;
mod client;
mod files;
mod logging;
mod output;
mod plugin;
mod plugin_dev;
mod recording;
mod serve;
mod sign;
mod untrusted_text;

use std::{path::Path, process::Output};
use switchyard_tests::{binary, run};

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// The output of `key new` is valid configuration as printed.
#[tokio::test]
async fn key_new_prints_the_key_and_its_configuration() {
    assert!(binary().exists());
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let new = ["key", "new", "--principal", "acme", "--scope", "subscribe,publish", "--expires", "90d"];
    let output = run(folder, &new, &[]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    let key =
        text.split_whitespace().find(|word| word.starts_with("sk_")).unwrap_or_else(|| panic!("{text}"));
    let table = &text[text.find("[[key]]").unwrap_or_else(|| panic!("{text}"))..];
    assert!(table.contains(&switchyard_store::key::Digest::of(key).to_string()), "{text}");
    assert!(table.contains("principal = \"acme\"") && table.contains("expires = "), "{text}");
    assert!(!table.contains(key), "the file holds only the digest: {text}");
    std::fs::write(folder.join("s.toml"), table).expect("a file");
    let output = run(folder, &["check", "--config", "s.toml"], &[]).await;
    assert!(output.status.success(), "{}", stderr(&output));

    let json = run(folder, &[&new[..], &["--tier", "pro", "--json"]].concat(), &[]).await;
    let made: serde_json::Value = serde_json::from_str(&stdout(&json)).expect("one JSON object");
    let digest = switchyard_store::key::Digest::of(made["key"].as_str().expect("a key")).to_string();
    assert_eq!((&made["digest"], &made["tier"]), (&digest.into(), &"pro".into()));
    assert_ne!(made["key"], key, "no two keys are the same");
    for wrong in [
        &["key", "new", "--principal", "acme"][..],
        &["key", "new", "--principal", "acme", "--scope", "everything"],
        &["key", "new", "--principal", "a b", "--scope", "publish"],
        &["key", "new", "--principal", "acme", "--scope", "publish", "--expires", "soon"],
        &["nonsense"],
    ] {
        fails(folder, wrong, "").await;
    }
}

#[tokio::test]
async fn invalid_arguments_exit_with_status_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let guest = switchyard_tests::guest("threshold_filter");
    let guest = guest.to_str().expect("text");
    let (url, new) = ("ws://127.0.0.1:1/", ["key", "new", "--scope", "publish", "--principal"]);
    for (arguments, says) in [
        (&[&new[..], &["a b"]].concat()[..], "1 to 64 of A-Z a-z 0-9"),
        (&[&new[..], &["a", "--tier", ""]].concat(), "expected the name of a tier"),
        (&[&new[..], &["a", "--expires", "tomorrow"]].concat(), "expected something like 90d"),
        (
            &["key", "add", "--principal", "a", "--scope", "publish", "--digest", "sk_1"],
            "--digest: invalid digest; expected 'sha256:' and 64 hexadecimal digits",
        ),
        (&["key", "revoke", "sk 1"], "KEY: expected the id of a key or hexadecimal digits of its digest"),
        (&["listen", "--url", url, "a", "b", "--since", "x:1"], "--since is a position in a single room"),
        (&["listen", "--url", url, "a", "--count", "0"], "must be at least 1"),
        (&["publish", "--url", url, "--room", "a", "hello"], "for an object or '\"a\"' for a string"),
        (&["plugin", "check", guest, "--config", "oops"], "invalid JSON"),
        (&["plugin", "run", guest, "--room", "a", "--filter", "[]", "1"], "expected a JSON object"),
        (&["plugin", "run", guest, "--room", "a", "{"], "invalid JSON"),
        (&["plugin", "new", "A b"], "such as my-rooms"),
    ] {
        let output = run(folder.path(), arguments, &[]).await;
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(says), "{arguments:?}: {error}");
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
    let digest = run(folder.path(), &["key", "revoke", "sk_1"], &[]).await;
    assert!(!stderr(&digest).contains("sk_1"), "it may be a key");
}

/// Exits with a status other than 0, says why on stderr and prints nothing to stdout.
async fn fails(folder: &Path, arguments: &[&str], says: &str) -> String {
    let output = run(folder, arguments, &[]).await;
    let (out, error) = (stdout(&output), stderr(&output));
    assert!(!output.status.success(), "{arguments:?}: {out}");
    assert!(!error.is_empty() && error.contains(says), "{arguments:?}: '{says}' is not in: {error}");
    assert!(!error.contains("panicked"), "{error}");
    assert_eq!(out, "", "{arguments:?}");
    error
}

#[tokio::test]
async fn a_plugin_is_checked_before_it_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let file = switchyard_tests::guest("threshold_filter");
    let file = file.to_str().expect("text");
    let output = run(folder, &["plugin", "check", file], &[]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("sha256"), "{}", stdout(&output));
    let output = run(folder, &["plugin", "check", "--json", file], &[]).await;
    let info: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("one JSON object");
    assert_eq!(info["sha256"].as_str().map(str::len), Some(64), "{info}");
    std::fs::write(folder.join("text.wasm"), "no Wasm").expect("a file");
    fails(folder, &["plugin", "check", "text.wasm"], "text").await;
    fails(folder, &["plugin", "check", "gone.wasm"], "gone.wasm").await;
    fails(folder, &["plugin", "check", file, "--config", r#"{"unknown":1}"#], "unknown").await;
    fails(folder, &["plugin", "check", file, "--config", "{"], "JSON").await;
}
