//! New plugins in C, JavaScript and Python: the tested examples of this repository under another name, with
//! the contract.

use super::{Language, Project};
use crate::plugin::{bindings::BINDING_FILES, wit::CONTRACT};

/// An example of this repository that becomes a new project.
struct Template {
    language: &'static str,
    summary: &'static str,
    /// The name of the example, which is that of its component too, with `_` for `-`.
    example: &'static str,
    files: &'static [(&'static str, &'static str)],
    /// The commands that build `NAME.wasm`.
    build: &'static [&'static str],
    /// The options that `plugin check` and `plugin run` need, because the defaults are for small plugins.
    budget: &'static str,
    /// Where the contract is, for the manual of the project.
    contract: &'static str,
}

/// The text of each file, by its path in the example.
macro_rules! example {
    ($example:literal, $($file:literal),+ $(,)?) => {
        &[$(($file, include_str!(concat!("../../../../../examples/", $example, "/", $file)))),+]
    };
}

const C: Template = Template {
    language: "C",
    summary: "src/filter.c filters events with numbers, src/plugin.c has the hooks",
    example: "c-filter",
    files: example!(
        "c-filter",
        ".gitignore",
        "build.sh",
        "requirements.txt",
        "src/filter.c",
        "src/filter.h",
        "src/json.c",
        "src/json.h",
        "src/plugin.c",
    ),
    build: &[
        "python3 -m venv venv",
        "venv/bin/pip install --quiet --requirement requirements.txt",
        "sh build.sh",
    ],
    budget: "",
    contract: "`bindings` has the contract's types and functions for C, and stand-ins for the hooks that the plugin does \
               not have. `switchyard plugin bindings` writes them again for another version of the contract.",
};

const JAVASCRIPT: Template = Template {
    language: "JavaScript",
    summary: "src/filter.js filters events with numbers, src/plugin.js has the hooks",
    example: "javascript-filter",
    files: example!(
        "javascript-filter",
        ".gitignore",
        "package-lock.json",
        "package.json",
        "src/filter.js",
        "src/plugin.js",
        "wit/world.wit",
    ),
    build: &["npm ci --no-audit --no-fund", "npm run build"],
    budget: " --budget-call 100ms --budget-memory 64MiB",
    contract: "`wit/world.wit` names the hooks, and `wit/deps` has the contract, which `switchyard plugin wit` prints.",
};

const PYTHON: Template = Template {
    language: "Python",
    summary: "filters.py filters events with numbers, app.py has the hooks",
    example: "python-filter",
    files: example!(
        "python-filter",
        ".gitignore",
        "app.py",
        "filters.py",
        "requirements.txt",
        "wit/world.wit"
    ),
    build: &[
        "python3 -m venv venv",
        "venv/bin/pip install --quiet --requirement requirements.txt",
        "venv/bin/componentize-py --wit-path wit --world filter componentize --stub-wasi --output python_filter.wasm app",
    ],
    budget: " --budget-call 100ms --budget-memory 64MiB",
    contract: "`wit/world.wit` names the hooks, and `wit/deps` has the contract, which `switchyard plugin wit` prints.",
};

pub(super) fn project(name: &str, language: Language) -> Project {
    let template = match language {
        Language::C => C,
        Language::Js => JAVASCRIPT,
        Language::Python => PYTHON,
        Language::Rust => unreachable!("it has a crate of its own"),
    };
    let module = name.replace('-', "_");
    let rename = |text: &str| {
        text.replace(template.example, name).replace(&template.example.replace('-', "_"), &module)
    };
    let mut files: Vec<_> =
        template.files.iter().map(|(file, text)| ((*file).to_owned(), rename(text))).collect();
    for (file, text) in &mut files {
        // In this repository, the contract and the bindings come from elsewhere. Here they are the project's.
        if file == ".gitignore" {
            let is_own = |line: &&str| !["/wit/deps", "/bindings"].contains(line);
            *text = text.lines().filter(is_own).map(|line| format!("{line}\n")).collect();
        }
    }
    let mut commands: Vec<_> = template.build.iter().map(|command| rename(command)).collect();
    commands.push(format!("switchyard plugin check {module}.wasm{}", template.budget));
    commands.push(format!(
        "switchyard plugin run {module}.wasm{} --room changes --filter '{{\"minChange\":5}}' '{{\"change\":6}}'",
        template.budget
    ));
    files.push(("README.md".to_owned(), manual(name, &template, &commands)));
    let mut files: Vec<_> = files.into_iter().map(|(file, text)| (file, text.into_bytes())).collect();
    match language {
        Language::C => {
            let bindings = BINDING_FILES.iter();
            files.extend(bindings.map(|(file, contents)| (format!("bindings/{file}"), contents.to_vec())));
        }
        _ => files.push(("wit/deps/plugin.wit".to_owned(), CONTRACT.into())),
    }
    Project { summary: template.summary, files, commands }
}

fn manual(name: &str, template: &Template, commands: &[String]) -> String {
    let Template { language, summary, contract, .. } = template;
    format!(
        "# {name}

A plugin for Switchyard in {language}: {summary}. {contract} Build and try it:

```sh
{}
```
",
        commands.join(
            "
"
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_project_has_its_own_name_everywhere_and_the_contract() {
        for (language, example) in [
            (Language::C, "c-filter"),
            (Language::Js, "javascript-filter"),
            (Language::Python, "python-filter"),
        ] {
            let project = project("my-rooms", language);
            let text = |name: &str| {
                let file = project.files.iter().find(|(file, _)| file == name);
                String::from_utf8(file.unwrap_or_else(|| panic!("no {name}")).1.clone()).unwrap()
            };
            match language {
                Language::C => {
                    assert!(text("bindings/plugin.h").contains("switchyard_plugin_deliver_matches("))
                }
                _ => {
                    assert_eq!(text("wit/deps/plugin.wit"), CONTRACT);
                    assert!(text("wit/world.wit").contains("package example:my-rooms;"));
                }
            }
            assert!(text("README.md").contains("plugin check my_rooms.wasm"));
            assert!(!text(".gitignore").contains("deps"));
            for (file, contents) in &project.files {
                let text = String::from_utf8_lossy(contents);
                for old in [example.to_owned(), example.replace('-', "_")] {
                    assert!(!text.contains(&old), "{file} still contains {old}");
                }
            }
        }
    }
}
