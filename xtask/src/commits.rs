//! Checks the subjects of commits that exist already, with the hook that git runs for new ones. The rule
//! itself is in that hook.

use crate::cargo;
use anyhow::{Context, bail};
use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

const HOOK: &str = ".githooks/commit-msg";

/// Checks the commits in `range`. The default is the commits of HEAD that are not on `origin/main`, or, where
/// there is no `origin/main`, those since the hook was added.
pub fn check(range: Option<&str>) -> anyhow::Result<()> {
    let range = range.map(|range| vec![range.to_owned()]);
    println!("{} commits checked; all subjects follow the rule", check_in(cargo::root(), range)?);
    Ok(())
}

/// Returns the number of commits in the range.
fn check_in(root: &Path, range: Option<Vec<String>>) -> anyhow::Result<usize> {
    let Some(range) = range.map_or_else(|| default_range(root), |range| Ok(Some(range)))? else {
        return Ok(0);
    };
    let mut log = vec!["log", "-z", "--no-show-signature", "--format=%h%n%B"];
    log.extend(range.iter().map(String::as_str));
    log.push("--");
    let (mut commits, mut rejected) = (0, 0);
    for (commit, message) in git(root, &log)?.split('\0').filter_map(|entry| entry.split_once('\n')) {
        commits += 1;
        if let Err(reason) = run_hook(root, message)? {
            rejected += 1;
            eprintln!("{commit} {reason}");
        }
    }
    if rejected > 0 {
        bail!("{HOOK} rejected the subjects of {rejected} of {commits} commits");
    }
    Ok(commits)
}

/// Arguments for `git log`. `None` if there is nothing to check.
fn default_range(root: &Path) -> anyhow::Result<Option<Vec<String>>> {
    if let Ok(base) = git(root, &["merge-base", "HEAD", "refs/remotes/origin/main"]) {
        return Ok(Some(vec![format!("{}..HEAD", base.trim())]));
    }
    let added = git(root, &["log", "--no-show-signature", "--diff-filter=A", "--format=%H", "--", HOOK])?;
    // Branches that are older than the hook do not descend from the commit that added it, even when merged
    // later.
    Ok(added.lines().last().map(|first| vec!["--ancestry-path".into(), format!("{first}..HEAD")]))
}

fn git(root: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("git");
    // Git sets these for the hooks it runs, and then they would point to another repository than `root`.
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(variable);
    }
    let output =
        command.args(arguments).current_dir(root).output().context("cannot start git; is it installed?")?;
    if !output.status.success() {
        bail!("git {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs the hook on a commit message. The inner error is the hook's reason for rejecting it.
fn run_hook(root: &Path, message: &str) -> anyhow::Result<Result<(), String>> {
    let mut command = Command::new("sh");
    command.args([HOOK, "/dev/stdin"]).current_dir(root).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut hook = command.spawn().context("cannot start sh")?;
    // This fails if the hook has exited before it read everything.
    let _ = hook.stdin.take().expect("stdin is piped").write_all(message.as_bytes());
    let output = hook.wait_with_output().context(HOOK)?;
    let reason = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    Ok(if output.status.success() { Ok(()) } else { Err(reason) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{env, fs, process};

    fn is_good(message: &str) -> bool {
        run_hook(cargo::root(), message).unwrap().is_ok()
    }

    #[test]
    fn a_subject_starts_with_the_part_of_the_system() {
        for good in
            ["redis: keep the name", "host/store, sdk: keep it", "docs: x\n\nMore: of it", "\nci: x\n"]
        {
            assert!(is_good(good), "{good:?}");
        }
        for bad in
            ["Keep the name", "Redis: keep it", "redis:keep it", "redis: ", "docs,sdk: x", "", "x\n\ndocs: y"]
        {
            assert!(!is_good(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_subject_has_at_most_72_characters() {
        assert!(is_good(&format!("docs: {}", "é".repeat(66))));
        assert!(!is_good(&format!("docs: {}", "é".repeat(67))));
        // The subject continues until the first empty line.
        assert!(!is_good(&format!("docs: say it\n{}", "x".repeat(60))));
        assert!(is_good(&format!("docs: say it\n\n{}", "x".repeat(100))));
    }

    #[test]
    fn subjects_written_by_git_are_accepted() {
        for message in ["Merge branch 'fix'", "Revert \"Keep it\"", "fixup! Keep it", "squash! Keep it"] {
            assert!(is_good(message), "{message}");
        }
        assert!(!is_good("Merged the branch"));
    }

    #[test]
    fn the_default_range_starts_at_origin_main_or_at_the_hook() {
        let Some(repository) = Repository::new() else {
            return eprintln!("skipped: git is not installed");
        };
        let check = || check_in(&repository.0, None).map_err(|error| error.to_string());
        repository.commit("Before the hook");
        assert_eq!(check(), Ok(0));
        repository.git(&["branch", "old"]);
        repository.add_hook();
        assert_eq!(check(), Ok(0));
        repository.commit("docs: after the hook");
        assert_eq!(check(), Ok(1));
        repository.git(&["checkout", "-q", "old"]);
        repository.commit("On a branch without the hook");
        repository.git(&["checkout", "-q", "-"]);
        repository.git(&["merge", "-q", "--no-ff", "-m", "Merge old", "old"]);
        assert_eq!(check(), Ok(2));
        repository.commit("Not good");
        assert!(check().unwrap_err().ends_with("rejected the subjects of 1 of 3 commits"));
        repository.git(&["update-ref", "refs/remotes/origin/main", "HEAD"]);
        assert_eq!(check(), Ok(0));
        repository.commit("docs: after origin/main");
        assert_eq!(check(), Ok(1));
        assert!(check_in(&repository.0, Some(vec!["HEAD~2..HEAD".into()])).is_err());
    }

    /// A temporary repository, removed when it is dropped.
    struct Repository(std::path::PathBuf);

    impl Repository {
        fn new() -> Option<Self> {
            git(Path::new("/"), &["--version"]).ok()?;
            let folder = env::temp_dir().join(format!("switchyard-commits-{}", process::id()));
            fs::create_dir_all(folder.join(".githooks")).unwrap();
            fs::copy(cargo::root().join(HOOK), folder.join(HOOK)).unwrap();
            let repository = Self(folder);
            repository.git(&["init", "-q"]);
            Some(repository)
        }

        fn git(&self, arguments: &[&str]) {
            let settings =
                ["user.name=x", "user.email=x@localhost", "commit.gpgSign=false", "core.hooksPath=/dev/null"];
            let settings = settings.into_iter().flat_map(|setting| ["-c", setting]);
            git(&self.0, &settings.chain(arguments.iter().copied()).collect::<Vec<_>>()).unwrap();
        }

        fn commit(&self, message: &str) {
            self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        }

        fn add_hook(&self) {
            self.git(&["add", HOOK]);
            self.commit("githooks: check subjects");
        }
    }

    impl Drop for Repository {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
