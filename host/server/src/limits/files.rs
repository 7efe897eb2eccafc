//! How many files this process may open, and how they are divided among connections. Each connection is a
//! file. Does not open or close any.

use rlimit::Resource;

/// How the open files of a process are divided. Clients get what operators, the store and regular files do
/// not need.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FileBudget {
    /// How many files the process may open.
    pub limit: usize,
    /// How many of them may be connections of clients.
    pub clients: usize,
    /// How many of them may be connections of operators.
    pub operators: usize,
}

/// Maximum number of files that are reserved for operators' connections.
const MAX_OPERATOR_FILES: usize = 512;
/// Maximum number of files that are reserved for the store's connections and for regular files. More are
/// never needed.
const MAX_SPARE_FILES: usize = 64;

impl FileBudget {
    /// Divides the files of this process, except those that are open now.
    pub(crate) fn of_process() -> Self {
        let limit = Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self::divide(usize::try_from(limit).unwrap_or(usize::MAX), open)
    }

    fn divide(limit: usize, open: usize) -> Self {
        let operators = (limit / 8).clamp(1, MAX_OPERATOR_FILES);
        let spare = (limit / 8).clamp(1, MAX_SPARE_FILES);
        let clients = limit.saturating_sub(open + operators + spare).max(1);
        Self { limit, clients, operators }
    }
}

/// Raises the soft limit of open files to the hard limit. Each connection is a file, and many systems start
/// processes with a soft limit of only 1,024. Logs a warning if that fails.
pub fn raise_file_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_the_files_that_others_do_not_need() {
        let expected = FileBudget { limit: 512, clients: 354, operators: 64 };
        assert_eq!(FileBudget::divide(512, 30), expected);
        assert_eq!(FileBudget::divide(1 << 20, 100).clients, (1 << 20) - 100 - 512 - 64);
        for limit in [0, 1, 16, 64, usize::MAX] {
            let FileBudget { clients, operators, .. } = FileBudget::divide(limit, 20);
            assert!(clients >= 1 && operators >= 1, "with {limit}");
        }
    }
}
