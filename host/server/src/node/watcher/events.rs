//! What the system reports about files, reduced to what matters for reading them. Reads nothing itself.

use super::requests::Requests;
use notify::{
    Event, EventKind,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};
use std::{
    collections::HashSet,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileEvent {
    /// A process is writing to it, and will close it.
    Written,
    /// It is complete: it was closed after writing, or moved into place.
    Complete,
}

/// Passes on what an event says about these files.
pub(super) fn report(event: &Event, files: &HashSet<PathBuf>, requests: &Requests) {
    if event.need_rescan() {
        return requests.add(|pending| pending.recheck_all = true);
    }
    for path in &event.paths {
        // Kubernetes replaces mounted secrets by moving the symbolic link `..data` beside them.
        let is_data_link = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".."));
        if !is_data_link && !files.contains(path) {
            continue;
        }
        match classify(event.kind, path) {
            Some(FileEvent::Complete) if is_data_link => requests.add(|pending| pending.recheck_all = true),
            Some(event) if !is_data_link => {
                requests.add(|pending| _ = pending.events.insert(path.clone(), event));
            }
            _ => {}
        }
    }
}

fn classify(kind: EventKind, path: &Path) -> Option<FileEvent> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(FileEvent::Complete),
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => None,
        EventKind::Modify(ModifyKind::Name(_)) => Some(FileEvent::Complete),
        // A new link is complete at once; any other new file is written to first.
        EventKind::Create(_) => {
            let is_link = |file: std::fs::Metadata| file.is_symlink() || file.nlink() > 1;
            path.symlink_metadata().is_ok_and(is_link).then_some(FileEvent::Complete)
        }
        // Only Linux reports when a file is closed.
        EventKind::Modify(ModifyKind::Data(_)) if cfg!(target_os = "linux") => Some(FileEvent::Written),
        _ => None,
    }
}
