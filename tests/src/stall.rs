//! A file system that does not answer, as one on another machine may be: whoever asks it waits, until it is there again.

use crate::{PATIENCE, Process, eventually_within};
use std::{fs, path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// What mounts it over the folder `$1`: a file system of this process, which never answers. It ends with standard input, and so do those who wait.
const MOUNT: &str = r#"exec 3<>/dev/fuse &&
    mount -i -t fuse -o fd=3,rootmode=040000,user_id=0,group_id=0 stalled "$1" &&
    echo mounted && read -r _; exec 3>&-; umount -i -l "$1""#;

/// Runs what comes after it with mounts of its own.
pub const OWN_MOUNTS: [&str; 2] = ["unshare", "-rm"];

/// Over a folder, as one process sees it.
pub struct Stall(Child);

impl Stall {
    /// Whether this system lets a test mount one. Says so where it does not.
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

    /// Of a process that has mounts of its own.
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
        let line = timeout(PATIENCE, lines.next_line()).await.expect("a line in time").expect("text");
        assert_eq!(line.as_deref(), Some("mounted"));
        Self(child)
    }

    /// Waits until a thread of the process whose name begins so waits for it.
    pub async fn holds(&self, process: &Process, name: &str, patience: Duration) {
        eventually_within(patience, name, async || {
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

    /// What is behind it is there again.
    pub async fn end(mut self) {
        drop(self.0.stdin.take());
        let ended = timeout(PATIENCE, self.0.wait()).await.expect("an end in time").expect("a status");
        assert!(ended.success());
    }
}
