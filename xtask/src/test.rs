//! Runs all checks and tests with the released profile, or only the tests of one name, built as fast as possible.

use crate::{
    cargo, guests,
    languages::{self, Language},
    named::{self, Targets},
    tools,
};

/// `rest` is for `cargo test`.
pub fn run(rest: &[String]) -> anyhow::Result<()> {
    match rest.split_first() {
        Some((name, rest)) if !name.starts_with('-') => those_named(name, rest),
        _ => all(rest),
    }
}

/// Runs the tests with `name` in their path. Builds only what they need. The workspace's own packages are compiled incrementally and
/// with little optimization; the libraries are those of the released profile.
fn those_named(name: &str, rest: &[String]) -> anyhow::Result<()> {
    let targets = Targets::of(cargo::root(), name)?;
    if targets.is_empty() {
        anyhow::bail!(
            "no test has '{name}' in its path, such as hub::room::tests::…; `cargo xtask test` runs all of them"
        );
    }
    let mut fast = vec!["--config".to_owned(), "profile.release.incremental=true".to_owned()];
    for package in named::names(cargo::root())? {
        fast.extend(["--config".to_owned(), format!("profile.release.package.{package}.opt-level=1")]);
    }
    let over_sockets = !targets.tests.is_empty();
    let guests = if over_sockets { Some(guests::build()?) } else { None };
    if over_sockets {
        ensure_redis();
        let build = [["build", "--release", "-p", "switchyard"].map(str::to_owned).to_vec(), fast.clone()];
        cargo::run(&build.concat().iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    let mut arguments = ["test", "--release", "--workspace"].map(str::to_owned).to_vec();
    arguments.extend(targets.arguments());
    arguments.extend(fast);
    arguments.push(name.to_owned());
    arguments.extend_from_slice(rest);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let environment: Vec<_> = guests.iter().map(|guests| ("SWITCHYARD_GUESTS", guests.as_path())).collect();
    cargo::run_with(&arguments, &environment)
}

fn all(rest: &[String]) -> anyhow::Result<()> {
    let guests = guests::build()?;
    ensure_redis();
    let sets_clocks = ensure_faketime();
    let (there, mut missing): (Vec<_>, Vec<_>) =
        Language::ALL.into_iter().partition(|language| language.ensure());
    let (languages, lacking) = languages::build(&there)?;
    missing.extend(lacking);
    cargo::run(&["fmt", "--all", "--check"])?;
    cargo::run(&["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    // The tests of the command line run the binary, which `cargo test` alone does not build.
    cargo::run(&["build", "--release", "-p", "switchyard"])?;
    let clocks = (!sets_clocks).then(|| CLOCKS.to_owned());
    let left_out: Vec<_> = missing.iter().map(|language| language.tests()).chain(clocks).collect();
    let arguments = arguments(rest, &left_out);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let environment = [("SWITCHYARD_GUESTS", &*guests), ("SWITCHYARD_LANGUAGES", &*languages)];
    let ended = cargo::run_with(&arguments, &environment);
    // At the end, where it is seen.
    missing.iter().for_each(|language| eprintln!("xtask: warning: {}", language.left_out()));
    if !sets_clocks {
        let how = tools::by_hand(&[FAKETIME]);
        eprintln!(
            "xtask: warning: the tests {CLOCKS}* were left out: setting the clock of Redis takes faketime ({how})"
        );
    }
    ended
}

/// Of cargo. What cannot be tested is skipped by its name, so that the harness says so too.
fn arguments(rest: &[String], left_out: &[String]) -> Vec<String> {
    let mut arguments = ["test", "--release", "--workspace"].map(str::to_owned).to_vec();
    arguments.extend_from_slice(rest);
    if !left_out.is_empty() && !rest.iter().any(|argument| argument == "--") {
        arguments.push("--".into());
    }
    arguments.extend(left_out.iter().flat_map(|tests| ["--skip".into(), tests.clone()]));
    arguments
}

/// A missing redis-server is installed where that needs no password. Tests that need one fail by themselves.
fn ensure_redis() {
    let is_there = || tools::succeeds("redis-server", &["--version"]);
    if is_there() {
        return;
    }
    let packages = ["redis-server"];
    tools::install(&packages);
    if !is_there() {
        eprintln!("xtask: warning: there is no redis-server; install it with: {}", tools::by_hand(&packages));
    }
}

/// How the names of tests begin that set the clock of a Redis.
const CLOCKS: &str = "nodes::clocks::";
/// The package, and the program that is in it.
const FAKETIME: &str = "faketime";

/// Whether a program can be given another time, after an attempt to install what does that.
fn ensure_faketime() -> bool {
    let is_there = || tools::succeeds(FAKETIME, &["-m", "-f", "+0", "true"]);
    if !is_there() {
        tools::install(&[FAKETIME]);
    }
    is_there()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_skipped_by_name() {
        let arguments = |rest: &[&str], left_out: &[&str]| {
            let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
            super::arguments(&owned(rest), &owned(left_out))[3..].join(" ")
        };
        assert_eq!(arguments(&["keys"], &[]), "keys");
        assert_eq!(
            arguments(&["keys"], &["languages::javascript_", CLOCKS]),
            "keys -- --skip languages::javascript_ --skip nodes::clocks::"
        );
        assert_eq!(
            arguments(&["--", "--exact"], &["languages::python_"]),
            "-- --exact --skip languages::python_"
        );
    }
}
