//! The floors of the host: a module imports from floors below its own, never from one beside it or above.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// From the roof to the ground. Modules of one line know nothing of each other.
const FLOORS: [&[&str]; 25] = [
    &["main"],
    &["cli"],
    &["node"],
    &["config"],
    &["server", "admin"],
    &["socket"],
    &["session"],
    &["hub"],
    &["plugin", "store"],
    &["outbox"],
    &["limits"],
    // The ground floor: words that all others speak. The later ones explain themselves by the earlier.
    &["metrics"],
    &["key"],
    &["room"],
    &["protocol"],
    &["close"],
    &["memory"],
    &["turns"],
    &["unit"],
    &["file"],
    &["validity"],
    // What the whole process shares.
    &["vital"],
    &["blocking"],
    &["log", "output"],
    &["escape"],
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

/// Code without comments and without the module of tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().expect("one part at least");
    text.lines()
        .map(|line| line.split("//").next().expect("one part at least"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The first names behind `crate::`, whether alone or in braces. `main` is a crate of its own and calls it otherwise.
fn imported(module: &str, code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let root = if module == "main" { "switchyard::" } else { "crate::" };
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

fn host() -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/src");
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
fn modules_import_downward_only() {
    let floor = |module: &str| FLOORS.iter().position(|floor| floor.contains(&module));
    let mut wrong = vec![];
    for (module, files) in host() {
        if module == "lib" {
            continue;
        }
        let Some(own) = floor(&module) else {
            wrong.push(format!("{module} has no floor: give it one here"));
            continue;
        };
        for (file, code) in files {
            for other in imported(&module, &code).into_iter().filter(|other| *other != module) {
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

/// What a runtime or a client library is called stays behind the module that wraps it.
#[test]
fn only_its_own_module_names_a_wrapped_library() {
    for (library, owner) in [("wasmtime", "plugin"), ("fred", "store"), ("redis::", "store"), ("clap", "cli")]
    {
        for (module, files) in host() {
            for (file, code) in files.iter().filter(|_| module != owner) {
                let named = code.lines().find(|line| names(line, library));
                // How a scope is written on the command line is the scope's own affair, and `main` starts the parser.
                let allowed = library == "clap" && (module == "key" || module == "main");
                assert!(
                    allowed || named.is_none(),
                    "{} names {library}: {}",
                    file.display(),
                    named.unwrap_or("")
                );
            }
        }
    }
}

fn names(line: &str, library: &str) -> bool {
    let before = |at: usize| line[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
    let is_path = |at: usize| line[at + library.len()..].starts_with("::") || library.ends_with("::");
    let is_use = line.trim_start().starts_with("use ");
    line.match_indices(library)
        .any(|(at, _)| before(at) && (is_path(at) || is_use) && !line[..at].ends_with("crate::"))
}

/// Names that say nothing and files that hold everything.
#[test]
fn files_are_of_one_noun() {
    for (module, files) in host() {
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
