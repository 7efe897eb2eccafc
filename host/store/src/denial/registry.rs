//! The trait of the bans and revocations that a store keeps, and what a node knows of them. Enforces nothing.

use super::{Denial, DenialEntry, DenialTarget, Denials, MAX_DENIALS, MAX_PAST_DENIALS, Period};
use crate::{Revision, Unavailable};
use std::{collections::BTreeMap, sync::Arc};

/// Bans and revocations that hold on every node.
///
/// An entry is never removed while a node may know it: lifting it is an entry, too. So if the store lacks one that a
/// node knows and that has not ended, the store has lost it, and the node writes it again.
#[async_trait::async_trait]
pub trait DenialRegistry: Send + Sync {
    /// Reads everything that is refused. `None` if nothing has changed since `known` was read.
    ///
    /// What the store has lost is written again. If that fails, the answer contains it nevertheless, and the next
    /// call tries again.
    ///
    /// # Errors
    ///
    /// If the store does not answer in time.
    async fn read(&self, known: &StoredDenials) -> Result<Option<StoredDenials>, Unavailable>;

    /// Adds a ban or revocation, or replaces the one about the same target. A revocation is never shortened: it ends when
    /// the later of the two does.
    ///
    /// # Errors
    ///
    /// If there are too many, if it has ended by the clock of the store, or if the store does not answer in time. In the
    /// last case it may have been added.
    async fn deny(&self, denial: &Denial) -> Result<(), DenyError>;

    /// Ends a ban or revocation. Returns whether it was in force.
    ///
    /// # Errors
    ///
    /// If the store does not answer in time. It may have been lifted nevertheless.
    async fn lift(&self, target: &DenialTarget) -> Result<bool, Unavailable>;
}

/// Why nothing could be added.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DenyError {
    /// There are too many already.
    #[error(
        "the store has {MAX_DENIALS} bans and revocations in force, and takes no more; lift some that are not needed, such as \
         bans of addresses that have not come back, or wait until some end"
    )]
    Full,
    /// It ends before it begins.
    #[error(
        "it would have ended already by the clock of the store, which is ahead of the clock of this node; set the clocks of \
         both, or choose a longer time"
    )]
    Ended,
    /// The store did not answer in time.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The bans and revocations of the store, as a node knows them.
#[derive(Clone, Debug)]
pub struct StoredDenials {
    /// The state of the registry in which they were read.
    pub(crate) revision: Revision,
    /// All entries by the text of their target, including those that were lifted.
    pub(crate) entries: DenialEntries,
    /// Those that have not ended.
    pub denials: Denials,
}

/// Entries by the text of their target.
pub(crate) type DenialEntries = BTreeMap<Arc<str>, DenialEntry>;

impl Default for StoredDenials {
    fn default() -> Self {
        Self::new(Revision::none(), DenialEntries::new(), 0)
    }
}

impl StoredDenials {
    pub(crate) fn new(revision: Revision, entries: DenialEntries, now: u64) -> Self {
        let denial = |(name, entry): (&Arc<str>, &DenialEntry)| {
            let Period { since, until } = entry.period.filter(|_| entry.is_in_force(now))?;
            let target = DenialTarget::parse(name);
            if target.is_none() {
                tracing::error!("cannot read a ban in the store; a later version may have written it");
            }
            Some(Denial { target: target?, since, until })
        };
        let denials = entries.iter().filter_map(denial).collect();
        Self { revision, entries, denials }
    }
}

/// Merges the entries that a node knows with those that it has just found in the registry. Returns all of them, each
/// in its newest version, and those that the registry has lost.
///
/// The registry forgets the oldest entries that are past if there are too many. Such an entry is not lost: if nodes wrote
/// it again, they would do so for ever.
pub(crate) fn merge(known: &DenialEntries, found: DenialEntries, now: u64) -> (DenialEntries, DenialEntries) {
    let past = || found.values().filter(|entry| !entry.is_in_force(now)).map(|entry| entry.version);
    let is_full = past().count() >= MAX_PAST_DENIALS;
    let oldest = past().min().filter(|_| is_full).unwrap_or(0);
    let is_lost = |(name, entry): &(&Arc<str>, &DenialEntry)| {
        let is_newer = match found.get(*name) {
            Some(other) => other.version < entry.version,
            None => entry.is_in_force(now) || entry.version > oldest,
        };
        is_newer && now < entry.forgotten_at
    };
    let lost: DenialEntries =
        known.iter().filter(is_lost).map(|(name, entry)| (name.clone(), *entry)).collect();
    let mut merged = found;
    merged.extend(lost.iter().map(|(name, entry)| (name.clone(), *entry)));
    (merged, lost)
}
