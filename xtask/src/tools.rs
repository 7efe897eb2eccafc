//! Programs that the tests need beside cargo, and installing them from Debian's packages.

use std::process::{Command, Stdio};

/// The command with which a person installs these packages.
pub fn install_command(packages: &[&str]) -> String {
    format!("apt-get install --no-install-recommends {}", packages.join(" "))
}

/// Tries to install Debian packages, as root or with sudo where that needs no password. The caller checks
/// whether it helped.
pub fn try_install(packages: &[&str]) {
    let install = [&["apt-get", "install", "--yes", "--no-install-recommends"], packages].concat();
    for command in [&["apt-get", "update", "--quiet"], &install[..]] {
        match is_root() {
            true => succeeds(command[0], &command[1..]),
            false => succeeds("sudo", &[&["-n"], command].concat()),
        };
    }
}

/// Runs a program silently. False if it fails or is not installed.
pub fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    let status = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
