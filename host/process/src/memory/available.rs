//! How much memory is available to the process: that of the machine, or what its cgroups allow. Does not know
//! how much is in use.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Assumed if the system does not tell how much memory there is.
const FALLBACK_BYTES: usize = 1 << 30;

/// The memory that is available to this process, in bytes.
pub(super) fn available_bytes() -> usize {
    available_below(Path::new("/"))
}

/// The same, with the files of the system below a folder.
fn available_below(root: &Path) -> usize {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| cgroup_limits(root, line));
    limits.chain(machine_bytes(root)).min().unwrap_or(FALLBACK_BYTES)
}

/// The memory of the machine.
fn machine_bytes(root: &Path) -> Option<usize> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(total.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}

/// The limits of a cgroup and of those around it. A line is `NUMBER:CONTROLLERS:PATH`, with no controllers in
/// cgroups v2. In a container the path may be that of the host; then the limit of the container is at the
/// top.
fn cgroup_limits(root: &Path, line: &str) -> Vec<usize> {
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

    fn available_with(files: &[(&str, &str)]) -> usize {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        available_below(root.path())
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       8000000 kB\nMemFree: 1 kB\n");

    #[test]
    fn the_smallest_limit_applies() {
        assert_eq!(available_with(&[]), FALLBACK_BYTES);
        assert_eq!(available_with(&[MEMINFO]), 8_192_000_000);
        let v2 = ("proc/self/cgroup", "0::/system.slice/switchyard.service\n");
        let slice = "sys/fs/cgroup/system.slice/memory.max";
        let own = "sys/fs/cgroup/system.slice/switchyard.service/memory.max";
        assert_eq!(available_with(&[MEMINFO, v2, (own, "max\n")]), 8_192_000_000);
        assert_eq!(available_with(&[MEMINFO, v2, (own, "max\n"), (slice, "536870912\n")]), 512 << 20);
        assert_eq!(available_with(&[MEMINFO, v2, (own, "104857600\n"), (slice, "536870912\n")]), 100 << 20);
        // In a container, whose own cgroup is at the top.
        let v1 = ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/1\n");
        let top = "sys/fs/cgroup/memory/memory.limit_in_bytes";
        assert_eq!(available_with(&[MEMINFO, v1, (top, "268435456\n")]), 256 << 20);
        assert_eq!(available_with(&[MEMINFO, v1, (top, "9223372036854771712\n")]), 8_192_000_000);
    }
}
