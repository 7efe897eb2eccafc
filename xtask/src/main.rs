//! The chores of this repository: `cargo xtask CHORE`.

mod cargo;
mod guests;
mod test;

use anyhow::{Context, bail};
use std::{
    env,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

const USAGE: &str = "\
cargo xtask CHORE

  guests                 build the plugins and the guests of the tests, as WebAssembly
  demo [--for SECONDS]   build everything, run a node with the three plugins and a lively feed,
                         and say how to watch it; ends with Ctrl-C or after the time
  test [ARGUMENTS]       guests, formatting, clippy, and all tests; ARGUMENTS are for cargo test
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let ended = match arguments.split_first().map(|(chore, rest)| (chore.as_str(), rest)) {
        Some(("guests", [])) => guests::build().map(|built| println!("{}", built.display())),
        Some(("demo", rest)) => demo(rest),
        Some(("test", rest)) => test::all(rest),
        None | Some(("help" | "--help" | "-h", _)) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some((chore, _)) => {
            eprint!("xtask: '{}' is no chore\n\n{USAGE}", chore);
            return ExitCode::from(2);
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The demo is a program of the examples, which handles signals and makes keys as the server does. It takes this
/// process over, so that Ctrl-C, a signal and the exit status are all its own.
fn demo(arguments: &[String]) -> anyhow::Result<()> {
    match arguments {
        [] => {}
        [flag, seconds] if flag == "--for" && seconds.parse::<u64>().is_ok() => {}
        _ => bail!("demo takes nothing but --for SECONDS"),
    }
    guests::build()?;
    cargo::run(&["build", "--release", "-p", "switchyard", "-p", "switchyard-examples"])?;
    let demo = cargo::target().join("release/demo");
    let error = Command::new(&demo).args(arguments).exec();
    Err(error).with_context(|| demo.display().to_string())
}
