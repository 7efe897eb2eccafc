//! A file system that does not answer, as a network file system may. Every access waits until it answers again.

use crate::{EVENT_TIMEOUT, Process, eventually_within, next_line};
use std::{fs, path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// Mounts a FUSE file system on the folder `$1`, which never answers. It ends when standard input is closed,
/// and then all waiting accesses fail.
const MOUNT: &str = r#"exec 3<>/dev/fuse &&
    mount -i -t fuse -o fd=3,rootmode=040000,user_id=0,group_id=0 stalled "$1" &&
    echo mounted && read -r _; exec 3>&-; umount -i -l "$1""#;

/// Runs a command with its own mount namespace.
pub const OWN_MOUNTS: [&str; 2] = ["unshare", "-rm"];

/// A stalled mount on a folder, in the mount namespace of one process.
pub struct Stall(Child);

impl Stall {
    /// Whether a test may mount one on this system. Prints a message if not.
    pub async fn is_possible() -> bool {
        let folder = tempfile::tempdir().expect("a folder");
        let script = "exec 3<>/dev/fuse && mount -i -t fuse -o fd=3,rootmode=040000,user_id=0,group_id=0 stalled \"$0\"";
        let mut command = Command::new(OWN_MOUNTS[0]);
        command.args([OWN_MOUNTS[1], "sh", "-c", script]).arg(folder.path());
        let status = command.stdin(Stdio::null()).stderr(Stdio::null()).status().await;
        let is_possible = status.is_ok_and(|status| status.success());
        if !is_possible {
            println!("left out: this system lets nobody mount a file system that does not answer");
        }
        is_possible
    }

    /// Mounts it in the namespace of a process from [`OWN_MOUNTS`].
    pub async fn over(folder: &Path, process: &Process) -> Self {
        let id = process.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &id, "-U", "-m", "--preserve-credentials", "sh", "-c", MOUNT, "sh"]).arg(folder);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("nsenter is there");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = next_line(&mut lines).await;
        assert_eq!(line.as_deref(), Some("mounted"));
        Self(child)
    }

    /// Waits until a thread with this name prefix is blocked on it.
    pub async fn holds(&self, process: &Process, name: &str, max_wait: Duration) {
        eventually_within(max_wait, name, async || {
            let threads = fs::read_dir(format!("/proc/{}/task", process.id())).expect("Linux");
            let waits = |thread: fs::DirEntry| {
                let says = |what: &str| fs::read_to_string(thread.path().join(what)).unwrap_or_default();
                let place = says("wchan");
                says("comm").starts_with(name) && (place.contains("fuse") || place == "request_wait_answer")
            };
            threads.filter_map(Result::ok).any(waits).then_some(())
        })
        .await;
    }

    /// Removes the mount, so that the folder is accessible again.
    pub async fn end(mut self) {
        drop(self.0.stdin.take());
        let ended = timeout(EVENT_TIMEOUT, self.0.wait()).await.expect("an end in time").expect("a status");
        assert!(ended.success());
    }
}
