//! The documentation is correct: every conversation in it happens, and every list in it matches the code.

mod lists;
mod script;
mod session;
mod shape;

use std::{
    path::{Path, PathBuf},
    process::Command,
};
use switchyard_tests::{binary, guest};

const DOCUMENTS: [&str; 22] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/protocol.md",
    "docs/operator.md",
    "docs/identity.md",
    "docs/nodes.md",
    "docs/plugins.md",
    "docs/loading.md",
    "docs/performance.md",
    "docs/plugin-costs.md",
    "sdk/README.md",
    "plugins/orderbook/README.md",
    "plugins/protocol-rooms/README.md",
    "plugins/rate-guard/README.md",
    "plugins/threshold-filter/README.md",
    "examples/README.md",
    "examples/c-filter/README.md",
    "examples/javascript-filter/README.md",
    "examples/python-filter/README.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

fn document(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The fenced blocks in this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let parts: Vec<&str> = text.split("\n```").collect();
    let bodies = parts.iter().skip(1).step_by(2);
    bodies.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n').map(str::to_owned)).collect()
}

#[tokio::test]
async fn every_conversation_in_the_documents_happens() {
    let mut wrong = vec![];
    for (name, least) in [("docs/protocol.md", 15), ("docs/operator.md", 4), ("README.md", 0)] {
        let scripts = script::scripts(name, &document(name));
        assert!(scripts.len() >= least, "{name} shows only {} conversations", scripts.len());
        for script in scripts {
            let place = script.place.clone();
            // A panic of the client also counts as a failure.
            match tokio::spawn(async move { script.run().await }).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => wrong.push(why),
                Err(panic) => wrong.push(format!("{place}: {panic}")),
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// Runs the commands in the operator's manual that end by themselves. The configuration there names a plugin
/// that does not exist, and a policy of its room.
#[test]
fn every_command_prints_what_the_manual_shows() {
    let folder = tempfile::tempdir().expect("a folder");
    let plugin = "[[plugin]]\nname = \"dydx\"\nfile = \"dydx.wasm\"\nrooms = [\"trades\"]\n";
    let room = "[[room]]\nmatch = \"trades\"\nhistory = { messages = 100, age = \"1m\" }\nsender = true\npublishes = \"50/s\"\n";
    let configuration = [plugin, room].concat();
    std::fs::write(folder.path().join("switchyard.toml"), configuration).expect("a configuration");
    std::fs::copy(guest("orderbook"), folder.path().join("orderbook.wasm")).expect("a plugin");
    let manual = document("docs/operator.md");
    let shown =
        blocks(&manual, "console").into_iter().filter(|block| !block.starts_with("$ switchyard serve"));
    let mut count = 0;
    for block in shown {
        count += 1;
        let (command, expected) = block.split_once('\n').expect("a command and what it says");
        let arguments = command.strip_prefix("$ switchyard ").expect("one of ours").replace('\'', "");
        let output = Command::new(binary()).args(arguments.split(' ')).current_dir(folder.path()).output();
        let output = output.expect("it runs");
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed);
        assert!(shape::lookalike(expected, printed.trim_end()), "{command} says\n{printed}\nnot\n{expected}");
    }
    assert!(count >= 4);
}

/// From an empty folder to a file for the operator.
#[tokio::test]
async fn the_guide_to_writing_a_plugin_can_be_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = binary().parent().and_then(Path::parent).expect("target").join("new-plugin");
    let (root, kept) = (root().display().to_string(), target.display().to_string());
    std::fs::create_dir_all(&target).expect("a folder for what is built");
    // Uses the versions that are already available, so that nothing is downloaded.
    let new = format!("--vendor && cp {root}/Cargo.lock my-prices/ && ln -s {kept} my-prices/target");
    let more = vec![("switchyard plugin new my-prices", new), ("cargo test", "--release".to_owned())];
    let mut session = session::Session::new(folder.path(), more);
    session.set("CARGO_NET_OFFLINE", "true".to_owned());
    session.set("CARGO_TARGET_DIR", kept);
    let commands = session.run(&blocks(&document("docs/plugins.md"), "console")).await;
    assert!(commands > 10, "{commands}");
}

/// With a valid version of a plugin, and one that panics on request.
#[tokio::test]
async fn the_guide_to_loading_plugins_can_be_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let guide = document("docs/loading.md");
    let configuration =
        switchyard_tests::Server::key(switchyard_tests::KEY, "acme", r#"["publish", "admin"]"#, "")
            + &blocks(&guide, "toml").concat();
    std::fs::write(folder.path().join("switchyard.toml"), configuration).expect("a configuration");
    for (file, plugin) in [("prices.wasm", "threshold_filter"), ("prices-2.wasm", "hostile")] {
        std::fs::copy(guest(plugin), folder.path().join(file)).expect("a plugin");
    }
    let session = session::Session::new(folder.path(), vec![]);
    let commands = session.run(&blocks(&guide, "console")).await;
    assert!(commands > 12, "{commands}");
}

#[test]
fn every_link_has_a_target() {
    for name in DOCUMENTS {
        let text = document(name);
        let folder = root().join(name).parent().expect("a folder").to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            if file.starts_with("http") {
                continue;
            }
            let target = if file.is_empty() { root().join(name) } else { folder.join(file) };
            assert!(target.exists(), "{name}: the target of the link {link} does not exist");
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(&target).expect("a document");
                assert!(
                    text.lines().any(|line| heading(line) == Some(anchor.to_owned())),
                    "{name}: no heading for the link {link}"
                );
            }
        }
    }
}

/// The anchor of a heading.
fn heading(line: &str) -> Option<String> {
    let title = line.strip_prefix('#')?.trim_start_matches('#').trim().to_lowercase();
    let plain = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    Some(plain.map(|c| if c == ' ' { '-' } else { c }).collect())
}

/// A path such as `plugin/governor.rs` is in the folder `src` of that crate, and without a crate in `server`.
#[test]
fn every_source_file_that_a_document_names_exists() {
    let mut missing = vec![];
    for name in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = document(name);
        let quoted = text.split('`').skip(1).step_by(2);
        // CONTRIBUTING.md also names files of an imagined module.
        let named = quoted.filter(|path| path.contains('/') && !path.starts_with("x/"));
        for path in named.filter(|path| path.ends_with(".rs") || path.ends_with(".lua")) {
            let (first, rest) = path.split_once('/').unwrap_or(("", path));
            let host = root().join("host");
            let places = [
                root().join(path),
                host.join(first).join("src").join(rest),
                host.join("server/src").join(path),
            ];
            if !places.iter().any(|place| place.is_file()) {
                missing.push(format!("{name}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The functions through which a message and a subscription pass, in the tables of ARCHITECTURE.md.
#[test]
fn every_function_of_the_walks_exists() {
    let text = document("ARCHITECTURE.md");
    let rows = text.lines().filter(|line| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit());
    let functions: Vec<_> =
        rows.filter_map(|row| row.split('`').nth(1).filter(|name| name.contains("::"))).collect();
    assert!(functions.len() > 40, "{functions:?}");
    let mut sources = vec![];
    read_sources(&root().join("host"), &mut sources);
    let is_defined = |function: &&&str| {
        let (owner, name) = function.rsplit_once("::").expect("seen above");
        let definition = format!("fn {name}");
        sources.iter().any(|(path, source)| {
            let is_of_type =
                source.contains(&format!(" {owner} {{")) || source.contains(&format!(" {owner}<"));
            let is_of_module = path.ends_with(&format!("{owner}.rs")) || path.contains(&format!("/{owner}/"));
            (is_of_type || is_of_module) && source.contains(&definition)
        })
    };
    let missing: Vec<_> = functions.iter().filter(|function| !is_defined(function)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn read_sources(folder: &std::path::Path, sources: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&path).expect("a source file");
            sources.push((path.display().to_string(), source));
        }
    }
}
