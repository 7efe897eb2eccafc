//! Which targets have tests of a name, as the sources say, so that trying a change builds those and no others.

use anyhow::Context;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Folders of one package each, or of several where they end in `/*`.
const PACKAGES: [&str; 6] = ["host/*", "plugins/*", "sdk", "tests", "examples", "xtask"];

/// Where tests of a name are, as cargo tells targets apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Targets {
    pub libs: bool,
    pub bins: bool,
    /// Names of integration tests.
    pub tests: BTreeSet<String>,
}

impl Targets {
    /// Of all packages: those with a test in whose path `name` is, as in `hub::room::tests::a_test`.
    pub fn of(root: &Path, name: &str) -> anyhow::Result<Self> {
        let mut targets = Self::default();
        for package in packages(root)? {
            targets.look(&package, name)?;
        }
        Ok(targets)
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// As arguments of cargo.
    pub fn arguments(&self) -> Vec<String> {
        let flag = |flag: &str, wanted: bool| wanted.then(|| flag.to_owned());
        let tests = self.tests.iter().flat_map(|test| ["--test".to_owned(), test.clone()]);
        flag("--lib", self.libs).into_iter().chain(flag("--bins", self.bins)).chain(tests).collect()
    }

    fn look(&mut self, package: &Path, name: &str) -> anyhow::Result<()> {
        let has_lib = package.join("src/lib.rs").is_file();
        for file in sources(&package.join("src"))? {
            if has(&package.join("src"), &file, name)? {
                let inside = file.strip_prefix(package.join("src"))?;
                let is_bin = inside.starts_with("bin") || inside == Path::new("main.rs") || !has_lib;
                *(if is_bin { &mut self.bins } else { &mut self.libs }) = true;
            }
        }
        let folder = package.join("tests");
        // The tests over sockets are one program, because each would link the whole host.
        let is_suite = folder.join("suite.rs").is_file();
        for file in sources(&folder)? {
            if has(&folder, &file, name)? {
                let first = file.strip_prefix(&folder)?.components().next().context("a file")?;
                let own = Path::new(&first).file_stem().context("a name")?.to_string_lossy().into_owned();
                self.tests.insert(if is_suite { "suite".to_owned() } else { own });
            }
        }
        Ok(())
    }
}

/// The folders of all packages of the workspace but the guests of the tests.
fn packages(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = vec![];
    for pattern in PACKAGES {
        match pattern.strip_suffix("/*") {
            None => found.push(root.join(pattern)),
            Some(folder) => {
                for entry in fs::read_dir(root.join(folder)).with_context(|| folder.to_owned())? {
                    found.push(entry?.path());
                }
            }
        }
    }
    found.retain(|package| package.join("Cargo.toml").is_file());
    Ok(found)
}

/// The names of all packages, as `-p` takes them.
pub fn names(root: &Path) -> anyhow::Result<Vec<String>> {
    let name = |package: PathBuf| {
        let manifest = package.join("Cargo.toml");
        let text = fs::read_to_string(&manifest)?;
        let name = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
        Ok(name.with_context(|| format!("{} names no package", manifest.display()))?.to_owned())
    };
    packages(root)?.into_iter().map(name).collect()
}

fn sources(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = vec![];
    if folder.is_dir() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match path.is_dir() {
                true => found.extend(sources(&path)?),
                false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
                false => {}
            }
        }
    }
    Ok(found)
}

/// Whether one of the file's tests has `name` in its path.
fn has(root: &Path, file: &Path, name: &str) -> anyhow::Result<bool> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let module = module(file.strip_prefix(root)?);
    Ok(tests(&text).any(|test| {
        let path = format!("{module}{test}");
        path.contains(name) || format!("{module}tests::{test}").contains(name)
    }))
}

/// `hub::room::` for `hub/room.rs`.
fn module(file: &Path) -> String {
    let parts = file.with_extension("");
    let parts = parts.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
    parts
        .filter(|part| !["lib", "main", "mod", "suite"].contains(&part.as_str()))
        .map(|part| part + "::")
        .collect()
}

/// The names of the functions that are tests.
fn tests(text: &str) -> impl Iterator<Item = &str> {
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
    fn what_is_built_is_what_has_the_tests() {
        let of = |name: &str| Targets::of(root(), name).unwrap().arguments().join(" ");
        assert_eq!(of("named::tests::what_is_built_is_what"), "--bins");
        assert_eq!(of("hub::room::tests::"), "--lib");
        assert_eq!(of("nodes::order::"), "--test suite");
        assert!(Targets::of(root(), "no test has \"this\" in its path").unwrap().is_empty());
    }

    #[test]
    fn every_package_has_a_name() {
        let names = names(root()).unwrap();
        for name in ["switchyard", "switchyard-server", "switchyard-tests", "xtask"] {
            assert!(names.iter().any(|found| found == name), "{name} is not among {names:?}");
        }
    }
}
