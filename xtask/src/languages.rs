//! Builds the example plugins in other languages than Rust, each with the tool of its own package registry.

use crate::{cargo, tools};
use anyhow::{Context, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The contract, which is in the repository once and copied to where a tool looks for it.
const CONTRACT: &str = "sdk/wit/plugin.wit";

/// How they are built, which a component is made from too.
const RECIPE: &str = "xtask/src/languages.rs";

/// What is made inside a copy of an example, and kept there from one build to the next.
const INSTALLED: [&str; 2] = ["node_modules", "venv"];

const COMPONENTIZE_PY: &str = "venv/bin/componentize-py";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    JavaScript,
    Python,
}

impl Language {
    pub const ALL: [Self; 2] = [Self::JavaScript, Self::Python];

    fn name(self) -> &'static str {
        match self {
            Self::JavaScript => "javascript",
            Self::Python => "python",
        }
    }

    /// How the names of its tests begin.
    pub fn tests(self) -> String {
        format!("languages::{}_", self.name())
    }

    /// Whether what builds it is here, after an attempt to install it.
    pub fn ensure(self) -> bool {
        if !self.is_there() {
            tools::install(self.packages());
        }
        self.is_there()
    }

    pub fn left_out(self) -> String {
        let (name, needs) = (self.name(), self.needs());
        let how = tools::by_hand(self.packages());
        format!(
            "the tests {}* were left out: a plugin in {name} takes {needs} ({how}) and its package registry",
            self.tests()
        )
    }

    fn needs(self) -> &'static str {
        match self {
            Self::JavaScript => "Node 20 or later with npm",
            Self::Python => "Python 3.10 or later with venv",
        }
    }

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::JavaScript => &["nodejs", "npm"],
            Self::Python => &["python3", "python3-venv"],
        }
    }

    fn is_there(self) -> bool {
        match self {
            Self::JavaScript => {
                let recent = "process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)";
                tools::succeeds("node", &["-e", recent]) && tools::succeeds("npm", &["--version"])
            }
            Self::Python => {
                let recent = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
                tools::succeeds("python3", &["-c", recent])
            }
        }
    }

    fn source(self) -> PathBuf {
        cargo::root().join(format!("examples/{}-filter", self.name()))
    }

    /// Whether the tools are in the copy, installed anew when the list of them has changed. The registry may not answer.
    fn install(self, copy: &Path) -> anyhow::Result<()> {
        let source = self.source();
        match self {
            Self::JavaScript => {
                if !newer(&copy.join("node_modules/.package-lock.json"), &source.join("package-lock.json")) {
                    run(copy, "npm", &["ci", "--no-audit", "--no-fund"])?;
                }
            }
            Self::Python => {
                if !newer(&copy.join(COMPONENTIZE_PY), &source.join("requirements.txt")) {
                    run(copy, "python3", &["-m", "venv", "--clear", "venv"])?;
                    run(copy, "venv/bin/pip", &["install", "--quiet", "--requirement", "requirements.txt"])?;
                }
            }
        }
        Ok(())
    }

    /// Runs the tools in a copy of the example.
    fn make(self, copy: &Path, output: &str) -> anyhow::Result<()> {
        match self {
            Self::JavaScript => run(copy, "npm", &["run", "build"]),
            Self::Python => {
                let world = ["--wit-path", "wit", "--world", "filter", "componentize", "--stub-wasi"];
                run(copy, COMPONENTIZE_PY, &[&world[..], &["--output", output, "app"]].concat())
            }
        }
    }
}

/// The chore: all of them, for which everything must be here.
pub fn all() -> anyhow::Result<PathBuf> {
    for language in Language::ALL {
        if !language.ensure() {
            bail!(
                "a plugin in {} takes {}; {}",
                language.name(),
                language.needs(),
                tools::by_hand(language.packages())
            );
        }
    }
    match build(&Language::ALL)? {
        (folder, lacking) if lacking.is_empty() => Ok(folder),
        _ => bail!("the registry of a language did not give what is needed; what it said is above"),
    }
}

/// Builds what is older than its sources, and answers where the components are, and which could not be built because a registry
/// did not give their tools.
pub fn build(languages: &[Language]) -> anyhow::Result<(PathBuf, Vec<Language>)> {
    let (folder, mut lacking) = (cargo::target().join("languages"), vec![]);
    for language in languages {
        let output = format!("{}_filter.wasm", language.name());
        let (source, built) = (language.source(), folder.join(&output));
        let mut inputs = [CONTRACT, RECIPE].map(|input| cargo::root().join(input)).to_vec();
        files(&source, &mut inputs)?;
        if inputs.iter().all(|input| newer(&built, input)) {
            continue;
        }
        let copy = folder.join(language.name());
        refresh(&source, &copy)?;
        if let Err(error) = language.install(&copy) {
            eprintln!("xtask: {error:#}");
            lacking.push(*language);
            continue;
        }
        language.make(&copy, &output)?;
        fs::rename(copy.join(&output), &built).with_context(|| built.display().to_string())?;
    }
    Ok((folder, lacking))
}

/// Makes `copy` what `source` is, with the contract, and keeps what was installed.
fn refresh(source: &Path, copy: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(copy)?;
    for entry in fs::read_dir(copy)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true if INSTALLED.iter().any(|installed| entry.file_name() == *installed) => {}
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    let mut inputs = vec![];
    files(source, &mut inputs)?;
    for input in inputs {
        let to = copy.join(input.strip_prefix(source)?);
        fs::create_dir_all(to.parent().expect("within the copy"))?;
        fs::copy(&input, to)?;
    }
    fs::create_dir_all(copy.join("wit/deps"))?;
    fs::copy(cargo::root().join(CONTRACT), copy.join("wit/deps/plugin.wit"))?;
    Ok(())
}

/// What an example is made from: without what its author built beside it by hand.
fn files(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let made = INSTALLED.iter().chain(&["deps", "__pycache__"]).any(|made| name == *made);
        if entry.file_type()?.is_dir() {
            if !made {
                files(&path, found)?;
            }
        } else if !path.extension().is_some_and(|extension| extension == "wasm" || extension == "md") {
            found.push(path);
        }
    }
    Ok(())
}

/// Whether `file` is there and was changed after `other`.
fn newer(file: &Path, other: &Path) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    matches!((changed(file), changed(other)), (Ok(file), Ok(other)) if file > other)
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    eprintln!("$ {program} {}", arguments.join(" "));
    // A program of the copy is found there, and not where cargo was called.
    let program = if program.contains('/') { folder.join(program) } else { program.into() };
    let mut command = Command::new(&program);
    let status = command.args(arguments).current_dir(folder).env_remove("VIRTUAL_ENV").status();
    let status = status.with_context(|| program.display().to_string())?;
    if !status.success() {
        bail!("{} {} failed in {}", program.display(), arguments.join(" "), folder.display());
    }
    Ok(())
}
