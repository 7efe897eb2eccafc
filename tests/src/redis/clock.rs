//! The wall clock of a `redis-server`, which Debian's `faketime` can change for this process while it runs.

use std::{fs, path::Path, process::Command, sync::LazyLock};

/// The file in a server's folder that says how wrong its clock is.
const CLOCK_FILE: &str = "clock";

/// The libraries to preload. Redis's own allocator asks for the time before faketime is ready, so the C
/// library's allocator replaces it.
static PRELOADED: LazyLock<String> = LazyLock::new(|| {
    let library = Command::new("faketime").args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"]).output();
    let library = library.expect("faketime is installed: apt-get install faketime");
    assert!(library.status.success(), "{library:?}");
    format!("{} libc.so.6", String::from_utf8_lossy(&library.stdout).trim())
});

/// The environment of a server in this folder, if its clock can be set.
pub fn environment(folder: &Path) -> Vec<(&'static str, String)> {
    let file = folder.join(CLOCK_FILE);
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
    // Written atomically, so that nobody reads half of it.
    let next = folder.join("clock.next");
    fs::write(&next, format!("{seconds:+}")).expect("a file for the clock");
    fs::rename(next, folder.join(CLOCK_FILE)).expect("the clock set");
}
