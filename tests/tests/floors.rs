//! What the compiler does not check: within `host/server`, a module imports only from floors below its own;
//! and files of the host are about one noun. Between crates, Cargo checks the floors.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The crates of the host.
const CRATES: [&str; 6] = ["protocol", "process", "plugin", "store", "server", "cli"];

/// The floors of `host/server`, from top to bottom. Modules in one line must not import each other.
const FLOORS: [&[&str]; 17] = [
    &["node"],
    &["config"],
    &["listener", "admin"],
    // Above everything that serves clients, which must not depend on how versions are chosen.
    &["rollout"],
    &["socket"],
    &["session"],
    // The functions of the hot path, exposed for benchmarks.
    &["hot"],
    &["hub"],
    &["outbox"],
    &["limits", "audit"],
    // The bottom floor: types that all other modules use. Each may use those listed after it.
    &["metrics"],
    &["limit_mode"],
    &["key", "http"],
    &["token", "tier"],
    &["validity"],
    &["blocking"],
    &["rate"],
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            false => {}
        }
    }
}

/// Code without comments and without the test module at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().expect("one part at least");
    text.lines()
        .map(|line| line.split("//").next().expect("one part at least"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The first names after `crate::`, alone or in braces.
fn imported(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let root = "crate::";
    for (at, _) in code.match_indices(root) {
        let rest = &code[at + root.len()..];
        if !rest.starts_with('{') {
            names.insert(first_word(rest));
            continue;
        }
        let (mut depth, mut start) = (0, 1);
        for (n, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if (depth == 1 && c == ',') || depth == 0 {
                names.insert(first_word(rest[start..n].trim_start()));
                start = n + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    names.remove("");
    names
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The files of a crate, by top-level module.
fn modules(name: &str) -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host").join(name).join("src");
    let mut files = vec![];
    sources(&root, &mut files);
    let mut modules: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for file in files {
        let inside = file.strip_prefix(&root).expect("inside").to_owned();
        let module = inside.components().next().expect("a name").as_os_str().to_string_lossy();
        let module = module.trim_end_matches(".rs").to_owned();
        modules.entry(module).or_default().push((inside, code(&fs::read_to_string(&file).expect("text"))));
    }
    modules
}

#[test]
fn modules_import_only_from_lower_floors() {
    let floor = |module: &str| FLOORS.iter().position(|floor| floor.contains(&module));
    let mut wrong = vec![];
    for (module, files) in modules("server") {
        if module == "lib" {
            continue;
        }
        let Some(own) = floor(&module) else {
            wrong.push(format!("{module} has no floor: give it one here"));
            continue;
        };
        for (file, code) in files {
            for other in imported(&code).into_iter().filter(|other| *other != module) {
                match floor(&other) {
                    Some(theirs) if theirs > own => {}
                    Some(_) => {
                        wrong.push(format!("{} imports {other}, which is not below it", file.display()))
                    }
                    None => wrong.push(format!("{} imports {other}, which has no floor", file.display())),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Only the crate that wraps a library may name it. Otherwise the boundary would exist only in the manifest.
#[test]
fn a_wrapped_library_has_one_owner() {
    for (library, owner) in [("wasmtime", "plugin"), ("fred", "store"), ("clap", "cli")] {
        for name in CRATES.into_iter().filter(|name| *name != owner) {
            let manifest =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../host").join(name).join("Cargo.toml");
            let text = fs::read_to_string(manifest).expect("a manifest");
            let depends = text.lines().any(|line| line.starts_with(&format!("{library}.")));
            assert!(!depends, "host/{name} depends on {library}, which host/{owner} wraps");
        }
    }
}

/// Names that say nothing, and files that contain everything.
#[test]
fn files_are_of_one_noun() {
    for (module, files) in CRATES.into_iter().flat_map(modules) {
        assert!(
            !["utils", "util", "common", "types", "helpers", "misc"].contains(&&*module),
            "{module} is no noun"
        );
        for (file, code) in files {
            let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
            assert!(lines <= 330, "{} has {lines} lines of code; split it by noun", file.display());
        }
    }
}
