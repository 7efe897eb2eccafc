//! Everything that must hold. Release builds throughout: one profile is compiled, and only once.

use crate::{
    cargo, guests,
    languages::{self, Language},
    tools,
};

/// `rest` is for `cargo test`.
pub fn all(rest: &[String]) -> anyhow::Result<()> {
    let guests = guests::build()?;
    ensure_redis();
    let (there, mut missing): (Vec<_>, Vec<_>) =
        Language::ALL.into_iter().partition(|language| language.ensure());
    let (languages, lacking) = languages::build(&there)?;
    missing.extend(lacking);
    cargo::run(&["fmt", "--all", "--check"])?;
    cargo::run(&["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    // The tests of the command line run the binary, which `cargo test` alone does not build.
    cargo::run(&["build", "--release", "-p", "switchyard"])?;
    let arguments = arguments(rest, &missing);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let environment = [("SWITCHYARD_GUESTS", &*guests), ("SWITCHYARD_LANGUAGES", &*languages)];
    let ended = cargo::run_with(&arguments, &environment);
    // At the end, where it is seen.
    missing.iter().for_each(|language| eprintln!("xtask: warning: {}", language.left_out()));
    ended
}

/// Of cargo. What cannot be tested is skipped by its name, so that the harness says so too.
fn arguments(rest: &[String], missing: &[Language]) -> Vec<String> {
    let mut arguments = ["test", "--release", "--workspace"].map(str::to_owned).to_vec();
    arguments.extend_from_slice(rest);
    if !missing.is_empty() && !rest.iter().any(|argument| argument == "--") {
        arguments.push("--".into());
    }
    arguments.extend(missing.iter().flat_map(|language| ["--skip".into(), language.tests()]));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_skipped_by_name() {
        let arguments = |rest: &[&str], missing: &[Language]| {
            let rest: Vec<_> = rest.iter().map(|&argument| argument.to_owned()).collect();
            super::arguments(&rest, missing)[3..].join(" ")
        };
        assert_eq!(arguments(&["keys"], &[]), "keys");
        assert_eq!(
            arguments(&["keys"], &Language::ALL),
            "keys -- --skip languages::javascript_ --skip languages::python_"
        );
        assert_eq!(
            arguments(&["--", "--exact"], &[Language::Python]),
            "-- --exact --skip languages::python_"
        );
    }
}
