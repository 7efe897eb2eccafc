//! Counts what was done with the versions of a plugin on this node: loads and withdrawals, by how they came about
//! and how they ended. Decides nothing.

use std::{collections::BTreeMap, sync::Mutex};
use switchyard_process::lock::LockExt;
use switchyard_protocol::{ErrorCode, Refusal};
use switchyard_store::ActivationSource;

/// Where a version that is loaded comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LoadSource {
    /// The plugin's file.
    File,
    /// A call over HTTP.
    Load,
    /// A candidate that was promoted.
    Promotion,
    /// A call over HTTP, as a candidate.
    Shadow,
    /// Another node, through the store.
    Store,
    /// An earlier version, to which an operator rolled back.
    Rollback,
    /// The active version, with another configuration.
    Config,
}

/// How loading a version ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LoadResult {
    /// It is active now, or runs as a candidate.
    Active,
    /// It was active already.
    Unchanged,
    /// Nothing has changed, because it cannot run here or cannot be recorded.
    Failed,
}

/// Why a version that was active was replaced by an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WithdrawalKind {
    /// It failed on probation.
    Probation,
    /// It failed on probation with another configuration, and runs with the previous one again.
    Config,
    /// An operator rolled it back.
    Rollback,
}

#[derive(Default)]
pub(crate) struct SlotActivity {
    loads: Mutex<BTreeMap<(LoadSource, LoadResult), u64>>,
    withdrawals: Mutex<BTreeMap<WithdrawalKind, u64>>,
}

impl From<ActivationSource> for LoadSource {
    fn from(source: ActivationSource) -> Self {
        match source {
            ActivationSource::File => LoadSource::File,
            ActivationSource::Load => LoadSource::Load,
            ActivationSource::Promotion => LoadSource::Promotion,
        }
    }
}

impl LoadSource {
    /// Whether the node loads it without being asked, and tries again if that makes sense.
    const fn is_automatic(self) -> bool {
        matches!(self, LoadSource::File | LoadSource::Store | LoadSource::Config)
    }

    /// The name in metrics and audit lines.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            LoadSource::File => "file",
            LoadSource::Load => "load",
            LoadSource::Promotion => "promotion",
            LoadSource::Shadow => "shadow",
            LoadSource::Store => "store",
            LoadSource::Rollback => "rollback",
            LoadSource::Config => "config",
        }
    }
}

impl LoadResult {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            LoadResult::Active => "active",
            LoadResult::Unchanged => "unchanged",
            LoadResult::Failed => "failed",
        }
    }
}

impl WithdrawalKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            WithdrawalKind::Probation => "probation",
            WithdrawalKind::Config => "config",
            WithdrawalKind::Rollback => "rollback",
        }
    }
}

impl SlotActivity {
    /// Counts a load. One that the node tries again by itself has not failed yet.
    pub(super) fn record_load(&self, source: LoadSource, outcome: &Result<LoadResult, Refusal>) {
        let result = match outcome {
            Ok(result) => *result,
            Err(refusal) if source.is_automatic() && is_temporary(refusal) => return,
            Err(_) => LoadResult::Failed,
        };
        *self.loads.locked().entry((source, result)).or_default() += 1;
    }

    pub(super) fn record_withdrawal(&self, kind: WithdrawalKind) {
        *self.withdrawals.locked().entry(kind).or_default() += 1;
    }

    /// The number of loads by source and result, without those that never occurred.
    pub(crate) fn loads(&self) -> Vec<((LoadSource, LoadResult), u64)> {
        self.loads.locked().iter().map(|(load, count)| (*load, *count)).collect()
    }

    /// The number of withdrawals by kind, without those that never occurred.
    pub(crate) fn withdrawals(&self) -> Vec<(WithdrawalKind, u64)> {
        self.withdrawals.locked().iter().map(|(kind, count)| (*kind, *count)).collect()
    }
}

/// Whether the same may succeed later.
pub(super) fn is_temporary(refusal: &Refusal) -> bool {
    matches!(refusal.code, ErrorCode::StoreUnavailable | ErrorCode::Overloaded)
}
