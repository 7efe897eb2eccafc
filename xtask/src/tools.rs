//! Programs that tests need and that are not cargo's.

use std::process::{Command, Stdio};

/// A call of apt-get by hand that brings these packages.
pub fn by_hand(packages: &[&str]) -> String {
    format!("apt-get install --no-install-recommends {}", packages.join(" "))
}

/// Tries to install packages of Debian's, where that needs no password. Whether it helped is the caller's to ask.
pub fn install(packages: &[&str]) {
    let install = [&["apt-get", "install", "--yes", "--no-install-recommends"], packages].concat();
    for command in [&["apt-get", "update", "--quiet"], &install[..]] {
        match is_root() {
            true => succeeds(command[0], &command[1..]),
            false => succeeds("sudo", &[&["-n"], command].concat()),
        };
    }
}

pub fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    let status = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
