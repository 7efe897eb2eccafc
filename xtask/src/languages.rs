//! Builds the example plugins that are not written in Rust, each with the tools of its own language. The
//! bindings of the one in C come from the binary `switchyard`, which must have been built before.

use crate::{cargo, tools};
use anyhow::{Context, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The plugin contract, which the tools expect beside the example's own world.
const CONTRACT: &str = "sdk/wit/plugin.wit";

/// This file, because a change of the build steps must rebuild the components too.
const BUILD_STEPS: &str = "xtask/src/languages.rs";

/// Folders that the package managers make inside a copy of an example. They are kept from one build to the
/// next.
const INSTALLED_FOLDERS: [&str; 2] = ["node_modules", "venv"];

const COMPONENTIZE_PY: &str = "venv/bin/componentize-py";

/// A file of the package that contains the C compiler, in the environment's folder of packages.
const ZIG: &str = "ziglang/__main__.py";

/// A language in which an example plugin is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    C,
    JavaScript,
    Python,
}

/// The result of [`build`].
pub struct Built {
    /// Where the components are.
    pub folder: PathBuf,
    /// The languages whose plugin could not be built, because their tools are not installed.
    pub missing: Vec<Language>,
}

impl Language {
    pub const ALL: [Self; 3] = [Self::C, Self::JavaScript, Self::Python];

    fn name(self) -> &'static str {
        match self {
            Self::C => "c",
            Self::JavaScript => "javascript",
            Self::Python => "python",
        }
    }

    /// The names of the tests that load this plugin begin with this.
    pub fn test_prefix(self) -> String {
        format!("languages::{}_", self.name())
    }

    /// Whether the tools that build it are installed, after an attempt to install them.
    fn ensure_tools(self) -> bool {
        if !self.has_tools() {
            tools::try_install(self.packages());
        }
        self.has_tools()
    }

    /// What to tell the user when its tests were skipped.
    pub fn skip_warning(self) -> String {
        format!(
            "skipped the tests {}*: building a plugin in {} needs {} (install with: {}) and access to its package registry",
            self.test_prefix(),
            self.name(),
            self.requirements(),
            tools::install_command(self.packages())
        )
    }

    fn requirements(self) -> &'static str {
        match self {
            Self::JavaScript => "Node 20 or later with npm",
            Self::C | Self::Python => "Python 3.10 or later with venv",
        }
    }

    /// Debian's packages with the tools.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::JavaScript => &["nodejs", "npm"],
            Self::C | Self::Python => &["python3", "python3-venv"],
        }
    }

    fn has_tools(self) -> bool {
        match self {
            Self::JavaScript => {
                let recent = "process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)";
                tools::succeeds("node", &["-e", recent]) && tools::succeeds("npm", &["--version"])
            }
            Self::C | Self::Python => {
                let recent = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
                tools::succeeds("python3", &["-c", recent])
            }
        }
    }

    fn source(self) -> PathBuf {
        cargo::root().join(format!("examples/{}-filter", self.name()))
    }

    /// Installs the build tools into the copy, unless they are there and their list has not changed. Fails if
    /// the package registry cannot be reached.
    fn install_tools(self, copy: &Path) -> anyhow::Result<()> {
        let source = self.source();
        let requirements = source.join("requirements.txt");
        match self {
            Self::JavaScript => {
                if !is_newer(&copy.join("node_modules/.package-lock.json"), &source.join("package-lock.json"))
                {
                    run(copy, "npm", &["ci", "--no-audit", "--no-fund"])?;
                }
            }
            Self::C => {
                if !installed_packages(copy).any(|packages| is_newer(&packages.join(ZIG), &requirements)) {
                    install_requirements(copy)?;
                }
            }
            Self::Python => {
                if !is_newer(&copy.join(COMPONENTIZE_PY), &requirements) {
                    install_requirements(copy)?;
                }
            }
        }
        Ok(())
    }

    /// Builds the component `output` in a copy of the example.
    fn compile(self, copy: &Path, output: &str) -> anyhow::Result<()> {
        match self {
            Self::C => {
                let switchyard = cargo::target().join("release/switchyard");
                run(copy, &switchyard.display().to_string(), &["plugin", "bindings"])?;
                run(copy, "sh", &["build.sh"])
            }
            Self::JavaScript => run(copy, "npm", &["run", "build"]),
            Self::Python => {
                let world = ["--wit-path", "wit", "--world", "filter", "componentize", "--stub-wasi"];
                run(copy, COMPONENTIZE_PY, &[&world[..], &["--output", output, "app"]].concat())
            }
        }
    }
}

/// The folders of installed packages in the environment of a copy: one, named after the version of Python.
fn installed_packages(copy: &Path) -> impl Iterator<Item = PathBuf> {
    let versions = fs::read_dir(copy.join("venv/lib")).into_iter().flatten();
    versions.filter_map(|version| Some(version.ok()?.path().join("site-packages")))
}

fn install_requirements(copy: &Path) -> anyhow::Result<()> {
    run(copy, "python3", &["-m", "venv", "--clear", "venv"])?;
    run(copy, "venv/bin/pip", &["install", "--quiet", "--requirement", "requirements.txt"])
}

/// Builds the plugins of all languages, and fails if one cannot be built.
pub fn build_all() -> anyhow::Result<PathBuf> {
    for language in Language::ALL {
        if !language.ensure_tools() {
            bail!(
                "languages: building a plugin in {} needs {}; install with: {}",
                language.name(),
                language.requirements(),
                tools::install_command(language.packages())
            );
        }
    }
    cargo::run(&["build", "--release", "-p", "switchyard"])?;
    let built = build(&Language::ALL)?;
    if !built.missing.is_empty() {
        bail!("languages: the build tools could not be installed; the package manager's output is above");
    }
    Ok(built.folder)
}

/// Builds the plugins of those languages whose tools are installed or can be installed. The binary `switchyard`
/// must have been built.
pub fn build_available() -> anyhow::Result<Built> {
    let (available, missing): (Vec<_>, Vec<_>) =
        Language::ALL.into_iter().partition(|language| language.ensure_tools());
    let mut built = build(&available)?;
    built.missing.extend(missing);
    Ok(built)
}

/// Builds the components that are older than their sources.
fn build(languages: &[Language]) -> anyhow::Result<Built> {
    let (folder, mut missing) = (cargo::target().join("languages"), vec![]);
    for language in languages {
        let output = format!("{}_filter.wasm", language.name());
        let (source, component) = (language.source(), folder.join(&output));
        let mut inputs = [CONTRACT, BUILD_STEPS].map(|input| cargo::root().join(input)).to_vec();
        source_files(&source, &mut inputs)?;
        if inputs.iter().all(|input| is_newer(&component, input)) {
            continue;
        }
        let copy = folder.join(language.name());
        refresh(&source, &copy)?;
        if let Err(error) = language.install_tools(&copy) {
            eprintln!("xtask: {error:#}");
            missing.push(*language);
            continue;
        }
        language.compile(&copy, &output)?;
        fs::rename(copy.join(&output), &component)
            .with_context(|| format!("cannot replace {}", component.display()))?;
    }
    Ok(Built { folder, missing })
}

/// Makes `copy` an up-to-date copy of `source` with the contract added. Installed tools stay.
fn refresh(source: &Path, copy: &Path) -> anyhow::Result<()> {
    let cannot_copy = || format!("cannot copy {} to {}", source.display(), copy.display());
    fs::create_dir_all(copy).with_context(cannot_copy)?;
    for entry in fs::read_dir(copy).with_context(cannot_copy)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true if INSTALLED_FOLDERS.iter().any(|installed| entry.file_name() == *installed) => {}
            true => fs::remove_dir_all(entry.path()).with_context(cannot_copy)?,
            false => fs::remove_file(entry.path()).with_context(cannot_copy)?,
        }
    }
    let mut inputs = vec![];
    source_files(source, &mut inputs)?;
    for input in inputs {
        let to = copy.join(input.strip_prefix(source)?);
        fs::create_dir_all(to.parent().expect("within the copy")).with_context(cannot_copy)?;
        fs::copy(&input, to).with_context(cannot_copy)?;
    }
    fs::create_dir_all(copy.join("wit/deps")).with_context(cannot_copy)?;
    let contract = cargo::root().join(CONTRACT);
    fs::copy(contract, copy.join("wit/deps/plugin.wit"))
        .with_context(|| format!("cannot copy {CONTRACT}"))?;
    Ok(())
}

/// The source files of an example, without anything that its author installed or built there by hand.
fn source_files(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let is_generated =
            INSTALLED_FOLDERS.iter().chain(&["deps", "__pycache__"]).any(|generated| name == *generated);
        if entry.file_type()?.is_dir() {
            if !is_generated {
                source_files(&path, found)?;
            }
        } else if !path.extension().is_some_and(|extension| extension == "wasm" || extension == "md") {
            found.push(path);
        }
    }
    Ok(())
}

/// Whether `file` exists and was changed after `other`.
fn is_newer(file: &Path, other: &Path) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    matches!((changed(file), changed(other)), (Ok(file), Ok(other)) if file > other)
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    eprintln!("$ {program} {}", arguments.join(" "));
    // A relative path is relative to the copy, not to where cargo was called.
    let program = if program.contains('/') { folder.join(program) } else { program.into() };
    let mut command = Command::new(&program);
    let status = command.args(arguments).current_dir(folder).env_remove("VIRTUAL_ENV").status();
    let status = status.with_context(|| format!("cannot start {}", program.display()))?;
    if !status.success() {
        bail!("{} {} failed in {}", program.display(), arguments.join(" "), folder.display());
    }
    Ok(())
}
