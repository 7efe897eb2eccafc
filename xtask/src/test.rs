//! Runs all checks and tests with the release profile, or only the tests of a given name, built as fast as
//! possible.

use crate::{
    cargo, guests, languages,
    targets::{self, Targets},
    tools,
};

/// Runs the tests that contain one of the names in their path, or all of them if there is no name. The arguments
/// from the first option on are passed on to `cargo test`.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let options = arguments.iter().position(|argument| argument.starts_with('-')).unwrap_or(arguments.len());
    match arguments.split_at(options) {
        ([], rest) => run_all(rest),
        (names, rest) => run_matching(names, rest),
    }
}

/// Runs the tests with one of the names in their path, and builds only what they need. The packages of this workspace are
/// compiled incrementally and with little optimization; the dependencies are those of the release profile.
fn run_matching(names: &[String], rest: &[String]) -> anyhow::Result<()> {
    let mut targets = Targets::default();
    for name in names {
        let matching = Targets::matching(cargo::root(), name)?;
        if matching.is_empty() {
            anyhow::bail!(
                "test: no test has '{name}' in its path, which is like hub::room::tests::…; `cargo xtask test` without a \
                 name runs all tests"
            );
        }
        targets.add(matching);
    }
    let fast = targets::fast_build_options(cargo::root())?;
    let (mut environment, mut missing) = (vec![], vec![]);
    if !targets.integration_tests.is_empty() {
        environment.push(("SWITCHYARD_GUESTS", guests::build()?));
        ensure_redis();
        let build = [["build", "--release", "-p", "switchyard"].map(str::to_owned).to_vec(), fast.clone()];
        cargo::run(&build.concat().iter().map(String::as_str).collect::<Vec<_>>())?;
        if targets.needs_languages {
            let built = languages::build_available()?;
            environment.push(("SWITCHYARD_LANGUAGES", built.folder));
            missing = built.missing;
        }
    }
    let mut selected = [targets.arguments(), fast].concat();
    let (cargo_options, test_options) = match rest.iter().position(|argument| argument == "--") {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, &[][..]),
    };
    selected.extend_from_slice(cargo_options);
    // The test harness takes any number of names, and cargo only one.
    selected.push("--".to_owned());
    selected.extend([names, test_options].concat());
    let skipped: Vec<_> = missing.iter().map(|language| language.test_prefix()).collect();
    let arguments = test_arguments(&selected, &skipped);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let environment: Vec<_> = environment.iter().map(|(name, folder)| (*name, folder.as_path())).collect();
    let result = cargo::run_with(&arguments, &environment);
    missing.iter().for_each(|language| eprintln!("xtask: warning: {}", language.skip_warning()));
    result
}

fn run_all(rest: &[String]) -> anyhow::Result<()> {
    let guests = guests::build()?;
    ensure_redis();
    let has_faketime = ensure_faketime();
    cargo::run(&["fmt", "--all", "--check"])?;
    cargo::run(&["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    // The tests of the command line run the binary, which `cargo test` alone does not build. It also makes the
    // bindings of the plugin in C.
    cargo::run(&["build", "--release", "-p", "switchyard"])?;
    let languages = languages::build_available()?;
    let clock_tests = (!has_faketime).then(|| CLOCK_TESTS.to_owned());
    let skipped: Vec<_> =
        languages.missing.iter().map(|language| language.test_prefix()).chain(clock_tests).collect();
    let arguments = test_arguments(rest, &skipped);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let environment = [("SWITCHYARD_GUESTS", &*guests), ("SWITCHYARD_LANGUAGES", &*languages.folder)];
    let result = cargo::run_with(&arguments, &environment);
    // At the end, where people see it.
    languages.missing.iter().for_each(|language| eprintln!("xtask: warning: {}", language.skip_warning()));
    if !has_faketime {
        let install = tools::install_command(&[FAKETIME]);
        eprintln!(
            "xtask: warning: skipped the tests {CLOCK_TESTS}*, which need faketime to set the clock of Redis; install it \
             with: {install}"
        );
    }
    result
}

/// The arguments for cargo. Tests that cannot run are skipped by name, so that the test harness reports them
/// too.
fn test_arguments(rest: &[String], skipped: &[String]) -> Vec<String> {
    let mut arguments = ["test", "--release", "--workspace"].map(str::to_owned).to_vec();
    arguments.extend_from_slice(rest);
    if !skipped.is_empty() && !rest.iter().any(|argument| argument == "--") {
        arguments.push("--".into());
    }
    arguments.extend(skipped.iter().flat_map(|tests| ["--skip".into(), tests.clone()]));
    arguments
}

/// Tries to install redis-server if it is missing. Without it, the tests that need it fail and say so.
fn ensure_redis() {
    let is_installed = || tools::succeeds("redis-server", &["--version"]);
    if is_installed() {
        return;
    }
    let packages = ["redis-server"];
    tools::try_install(&packages);
    if !is_installed() {
        let install = tools::install_command(&packages);
        eprintln!("xtask: warning: redis-server is not installed; install it with: {install}");
    }
}

/// The tests that set the clock of a Redis begin with this.
const CLOCK_TESTS: &str = "nodes::clocks::";
/// Runs a program under another system time. The Debian package has the same name.
const FAKETIME: &str = "faketime";

/// Whether faketime works, after an attempt to install it.
fn ensure_faketime() -> bool {
    let works = || tools::succeeds(FAKETIME, &["-m", "-f", "+0", "true"]);
    if !works() {
        tools::try_install(&[FAKETIME]);
    }
    works()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_cannot_run_are_skipped_by_name() {
        let arguments = |rest: &[&str], skipped: &[&str]| {
            let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
            test_arguments(&owned(rest), &owned(skipped))[3..].join(" ")
        };
        assert_eq!(arguments(&["keys"], &[]), "keys");
        assert_eq!(
            arguments(&["keys"], &["languages::javascript_", CLOCK_TESTS]),
            "keys -- --skip languages::javascript_ --skip nodes::clocks::"
        );
        assert_eq!(
            arguments(&["--", "--exact"], &["languages::python_"]),
            "-- --exact --skip languages::python_"
        );
    }
}
