//! The files that this process may open, and how many of them are for whom: each connection is one.

use rlimit::Resource;

/// How the files of a process are shared out. Clients have what operators, the store and files themselves do not need.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Files {
    /// In all.
    pub limit: usize,
    /// Connections of clients.
    pub clients: usize,
    /// Connections of operators.
    pub operators: usize,
}

/// The most that operators' connections are.
const OPERATORS: usize = 512;
/// Files that are kept for the store's connections and for what is read and written. More is not needed, however many there are.
const SPARE: usize = 64;

impl Files {
    /// Of this process, with what it has open now.
    pub(crate) fn of_process() -> Self {
        let limit = Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self::share(usize::try_from(limit).unwrap_or(usize::MAX), open)
    }

    fn share(limit: usize, open: usize) -> Self {
        let operators = (limit / 8).clamp(1, OPERATORS);
        let spare = (limit / 8).clamp(1, SPARE);
        let clients = limit.saturating_sub(open + operators + spare).max(1);
        Self { limit, clients, operators }
    }
}

/// Every connection is a file, and many systems start processes with a limit of 1,024 that they may raise themselves.
pub fn raise_file_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_have_what_others_do_not_need() {
        assert_eq!(Files::share(512, 30), Files { limit: 512, clients: 354, operators: 64 });
        assert_eq!(Files::share(1 << 20, 100).clients, (1 << 20) - 100 - 512 - 64);
        for limit in [0, 1, 16, 64, usize::MAX] {
            let Files { clients, operators, .. } = Files::share(limit, 20);
            assert!(clients >= 1 && operators >= 1, "with {limit}");
        }
    }
}
