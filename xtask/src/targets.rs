//! Finds the build targets that contain the tests of a given name, by reading the sources, so that running a
//! few tests builds only what they need.

use anyhow::Context;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Folders of one package each, or of several packages where the pattern ends in `/*`.
const PACKAGE_PATTERNS: [&str; 6] = ["host/*", "plugins/*", "sdk", "tests", "examples", "xtask"];

/// A test that calls this function needs the plugins that `cargo xtask languages` builds.
const LANGUAGE_GUEST_CALL: &str = "language_guest(";

/// The targets, in cargo's terms, that contain the wanted tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Targets {
    pub libs: bool,
    pub bins: bool,
    /// Names of integration tests.
    pub integration_tests: BTreeSet<String>,
    /// Some of the tests load plugins written in C, JavaScript or Python.
    pub needs_languages: bool,
}

impl Targets {
    /// Searches all packages for tests whose path contains `name`, such as `hub::room::tests::a_test`.
    pub fn matching(root: &Path, name: &str) -> anyhow::Result<Self> {
        let mut targets = Self::default();
        for package in packages(root)? {
            targets.add_package(&package, name)?;
        }
        Ok(targets)
    }

    /// Adds the targets of other tests.
    pub fn add(&mut self, other: Self) {
        self.libs |= other.libs;
        self.bins |= other.bins;
        self.integration_tests.extend(other.integration_tests);
        self.needs_languages |= other.needs_languages;
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The arguments that select these targets for cargo.
    pub fn arguments(&self) -> Vec<String> {
        let flag = |flag: &str, wanted: bool| wanted.then(|| flag.to_owned());
        let tests = self.integration_tests.iter().flat_map(|test| ["--test".to_owned(), test.clone()]);
        flag("--lib", self.libs).into_iter().chain(flag("--bins", self.bins)).chain(tests).collect()
    }

    fn add_package(&mut self, package: &Path, name: &str) -> anyhow::Result<()> {
        let folder = package.join("src");
        let has_lib = folder.join("lib.rs").is_file();
        for file in source_files(&folder)? {
            if has_matching_test(&folder, &file, &read(&file)?, name)? {
                let inside = file.strip_prefix(&folder)?;
                let is_bin = inside.starts_with("bin") || inside == Path::new("main.rs") || !has_lib;
                *(if is_bin { &mut self.bins } else { &mut self.libs }) = true;
            }
        }
        let folder = package.join("tests");
        // The tests over sockets are one program, because each program would link the whole host.
        let is_suite = folder.join("suite.rs").is_file();
        for file in source_files(&folder)? {
            let text = read(&file)?;
            if has_matching_test(&folder, &file, &text, name)? {
                let first = file.strip_prefix(&folder)?.components().next().context("a file")?;
                let own = Path::new(&first).file_stem().context("a name")?.to_string_lossy().into_owned();
                self.integration_tests.insert(if is_suite { "suite".to_owned() } else { own });
                self.needs_languages |= text.contains(LANGUAGE_GUEST_CALL);
            }
        }
        Ok(())
    }
}

/// The folders of all packages of the workspace, except the guests that only tests use.
fn packages(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = vec![];
    for pattern in PACKAGE_PATTERNS {
        match pattern.strip_suffix("/*") {
            None => found.push(root.join(pattern)),
            Some(folder) => {
                for entry in
                    fs::read_dir(root.join(folder)).with_context(|| format!("cannot read {folder}"))?
                {
                    found.push(entry?.path());
                }
            }
        }
    }
    found.retain(|package| package.join("Cargo.toml").is_file());
    Ok(found)
}

/// Options of cargo that build the packages of this workspace incrementally and with little optimization, and
/// leave the dependencies as the release profile has them.
pub fn fast_build_options(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut options = vec!["--config".to_owned(), "profile.release.incremental=true".to_owned()];
    for package in package_names(root)? {
        options.extend(["--config".to_owned(), format!("profile.release.package.{package}.opt-level=1")]);
    }
    Ok(options)
}

/// The names of all packages, as cargo's `-p` expects them.
fn package_names(root: &Path) -> anyhow::Result<Vec<String>> {
    let name = |package: PathBuf| {
        let manifest = package.join("Cargo.toml");
        let text = read(&manifest)?;
        let name = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
        Ok(name.with_context(|| format!("{}: no line 'name = \"…\"'", manifest.display()))?.to_owned())
    };
    packages(root)?.into_iter().map(name).collect()
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn source_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = vec![];
    if folder.is_dir() {
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            match path.is_dir() {
                true => found.extend(source_files(&path)?),
                false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
                false => {}
            }
        }
    }
    Ok(found)
}

/// Whether the path of a test in this file contains `name`.
fn has_matching_test(root: &Path, file: &Path, text: &str, name: &str) -> anyhow::Result<bool> {
    let module = module_path(file.strip_prefix(root)?);
    Ok(test_names(text).any(|test| {
        let path = format!("{module}{test}");
        path.contains(name) || format!("{module}tests::{test}").contains(name)
    }))
}

/// `hub::room::` for `hub/room.rs`.
fn module_path(file: &Path) -> String {
    let parts = file.with_extension("");
    let parts = parts.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
    parts
        .filter(|part| !["lib", "main", "mod", "suite"].contains(&part.as_str()))
        .map(|part| part + "::")
        .collect()
}

/// The names of the test functions in a file.
fn test_names(text: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    text.lines().filter_map(move |line| {
        let line = line.trim_start();
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        let (_, name) = line.split_once("fn ").filter(|_| is_test && !line.starts_with("//"))?;
        is_test = false;
        name.split(['(', '<']).next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo::root;

    #[test]
    fn only_targets_with_matching_tests_are_selected() {
        let arguments = |name: &str| Targets::matching(root(), name).unwrap().arguments().join(" ");
        assert_eq!(arguments("targets::tests::only_targets_with_matching"), "--bins");
        assert_eq!(arguments("hub::room::tests::"), "--lib");
        assert_eq!(arguments("nodes::order::"), "--test suite");
        assert!(Targets::matching(root(), "no test has \"this\" in its path").unwrap().is_empty());
    }

    #[test]
    fn tests_of_other_languages_need_their_guests() {
        assert!(Targets::matching(root(), "languages::python_").unwrap().needs_languages);
        assert!(!Targets::matching(root(), "nodes::order::").unwrap().needs_languages);
    }

    #[test]
    fn every_package_has_a_name() {
        let names = package_names(root()).unwrap();
        for name in ["switchyard", "switchyard-server", "switchyard-tests", "xtask"] {
            assert!(names.iter().any(|found| found == name), "{name} is not among {names:?}");
        }
    }
}
