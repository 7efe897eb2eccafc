//! How much memory the process may have: what the machine has, or what a cgroup allows of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where nothing tells how much there is.
const UNKNOWN: usize = 1 << 30;

/// In bytes.
pub(super) fn memory() -> usize {
    within(Path::new("/"))
}

/// The same, where the system's files are below a folder.
fn within(root: &Path) -> usize {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| limits(root, line));
    limits.chain(machine(root)).min().unwrap_or(UNKNOWN)
}

fn machine(root: &Path) -> Option<usize> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(total.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}

/// What a group and those around it allow: a line is NUMBER:CONTROLLERS:PATH, without controllers for the second version. In a container
/// the path may be that of the host, and what is there is at the top.
fn limits(root: &Path, line: &str) -> Vec<usize> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return vec![] };
    let (top, file) = match controllers {
        "" => (root.join("sys/fs/cgroup"), "memory.max"),
        some if some.split(',').any(|controller| controller == "memory") => {
            (root.join("sys/fs/cgroup/memory"), "memory.limit_in_bytes")
        }
        _ => return vec![],
    };
    let group: PathBuf = top.join(path.trim_start_matches('/'));
    let around = group.ancestors().take_while(|folder| folder.starts_with(&top));
    around.filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine_of(files: &[(&str, &str)]) -> usize {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        within(root.path())
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       8000000 kB\nMemFree: 1 kB\n");

    #[test]
    fn the_least_of_machine_and_groups_counts() {
        assert_eq!(machine_of(&[]), UNKNOWN);
        assert_eq!(machine_of(&[MEMINFO]), 8_192_000_000);
        let v2 = ("proc/self/cgroup", "0::/system.slice/switchyard.service\n");
        let slice = "sys/fs/cgroup/system.slice/memory.max";
        let own = "sys/fs/cgroup/system.slice/switchyard.service/memory.max";
        assert_eq!(machine_of(&[MEMINFO, v2, (own, "max\n")]), 8_192_000_000);
        assert_eq!(machine_of(&[MEMINFO, v2, (own, "max\n"), (slice, "536870912\n")]), 512 << 20);
        assert_eq!(machine_of(&[MEMINFO, v2, (own, "104857600\n"), (slice, "536870912\n")]), 100 << 20);
        // In a container, which sees its own group at the top.
        let v1 = ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/1\n");
        let top = "sys/fs/cgroup/memory/memory.limit_in_bytes";
        assert_eq!(machine_of(&[MEMINFO, v1, (top, "268435456\n")]), 256 << 20);
        assert_eq!(machine_of(&[MEMINFO, v1, (top, "9223372036854771712\n")]), 8_192_000_000);
    }
}
