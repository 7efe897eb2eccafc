//! The wall clock of a `redis-server`, which Debian's `faketime` can set for it alone while it runs.

use std::{fs, path::Path, process::Command, sync::LazyLock};

/// In the folder of a server: how wrong its clock is.
const FILE: &str = "clock";

/// What the loader is given. Redis' own allocator asks for the time before anything can answer, so that of the C library goes before it.
static PRELOADED: LazyLock<String> = LazyLock::new(|| {
    let library = Command::new("faketime").args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"]).output();
    let library = library.expect("faketime is installed: apt-get install faketime");
    assert!(library.status.success(), "{library:?}");
    format!("{} libc.so.6", String::from_utf8_lossy(&library.stdout).trim())
});

/// For a server in this folder, if its clock can be set.
pub fn environment(folder: &Path) -> Vec<(&'static str, String)> {
    let file = folder.join(FILE);
    if !file.exists() {
        return vec![];
    }
    vec![
        ("LD_PRELOAD", PRELOADED.clone()),
        ("FAKETIME_TIMESTAMP_FILE", file.to_str().expect("a folder in UTF-8").to_owned()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

pub fn set(folder: &Path, seconds: i64) {
    // It is never seen half written.
    let next = folder.join("clock.next");
    fs::write(&next, format!("{seconds:+}")).expect("a file for the clock");
    fs::rename(next, folder.join(FILE)).expect("the clock set");
}
