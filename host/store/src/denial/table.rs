//! The bans and revocations of a store in memory, within their bounds. The script `deny.lua` does the same in Redis.

use super::{
    Denial, DenialEntry, DenialTarget, MAX_DENIALS, MAX_PAST_DENIALS, Period, StoredDenials,
    registry::DenialEntries,
};
use crate::Revision;
use std::time::Duration;

/// How much longer an entry is kept than nodes know it, whose clocks may differ by as much.
pub(crate) const KEPT_AFTER_END: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(crate) struct DenialTable {
    /// The newest version. It rises with each change.
    version: u64,
    entries: DenialEntries,
}

/// There is no space for another one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TableFull;

impl DenialTable {
    pub(crate) fn newer(&self, known: &Revision, now: u64) -> Option<StoredDenials> {
        let revision = Revision(format!("memory {}", self.version).into());
        (revision != *known).then(|| StoredDenials::new(revision, self.entries.clone(), now))
    }

    pub(crate) fn deny(&mut self, denial: &Denial, now: u64) -> Result<(), TableFull> {
        let name = denial.target.to_string();
        let before = self.entries.get(&*name).copied();
        let in_force = self.entries.values().filter(|entry| entry.is_in_force(now)).count();
        if in_force >= MAX_DENIALS && !before.is_some_and(|before| before.is_in_force(now)) {
            return Err(TableFull);
        }
        let Denial { mut since, mut until, .. } = *denial;
        if let (true, Some(held)) = (denial.target.is_of_tokens(), before.and_then(|before| before.period)) {
            // Revoking again must not make a token valid earlier.
            since = since.max(held.since);
            until = until.max(held.until);
        }
        let forgotten_at = before.map_or(until, |before| before.forgotten_at.max(until));
        self.write(&name, forgotten_at, Some(Period { since, until }), now);
        Ok(())
    }

    pub(crate) fn lift(&mut self, target: &DenialTarget, now: u64) -> bool {
        let name = target.to_string();
        let before = self.entries.get(&*name).filter(|entry| entry.is_in_force(now));
        let Some(DenialEntry { forgotten_at, .. }) = before.copied() else { return false };
        self.write(&name, forgotten_at, None, now);
        true
    }

    fn write(&mut self, name: &str, forgotten_at: u64, period: Option<Period>, now: u64) {
        self.version = now.max(self.version + 1);
        self.entries.insert(name.into(), DenialEntry { version: self.version, forgotten_at, period });
        self.forget(now);
    }

    /// Removes what no node knows any more, and the oldest of those that are past if there are too many.
    fn forget(&mut self, now: u64) {
        let kept = KEPT_AFTER_END.as_millis() as u64;
        self.entries.retain(|_, entry| now < entry.forgotten_at.saturating_add(kept));
        let past = self.entries.iter().filter(|(_, entry)| !entry.is_in_force(now));
        let mut past: Vec<_> = past.map(|(name, entry)| (entry.version, name.clone())).collect();
        past.sort();
        let excess = past.len().saturating_sub(MAX_PAST_DENIALS);
        for (_, name) in &past[..excess] {
            self.entries.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(target: &str, since: u64, until: u64) -> Denial {
        Denial { target: DenialTarget::parse(target).unwrap(), since, until }
    }

    /// A node that missed the shorter ban would otherwise restore the longer one when the shorter one has ended.
    #[test]
    fn a_lifted_ban_is_remembered_as_long_as_any_ban_of_its_target_would_have_lasted() {
        let kept = KEPT_AFTER_END.as_millis() as u64;
        let mut table = DenialTable::default();
        table.deny(&denial("principal a", 10, 1000), 10).unwrap();
        table.deny(&denial("principal a", 20, 100), 20).unwrap();
        assert!(table.lift(&DenialTarget::principal("a").unwrap(), 30));
        assert!(!table.lift(&DenialTarget::principal("a").unwrap(), 40), "it was lifted before");
        let entries = |table: &DenialTable| table.newer(&Revision::none(), 0).unwrap().entries.len();
        table.deny(&denial("principal b", 500, 5_000_000), 999 + kept).unwrap();
        assert_eq!(entries(&table), 2);
        table.deny(&denial("principal b", 500, 5_000_000), 1000 + kept).unwrap();
        assert_eq!(entries(&table), 1);
    }

    #[test]
    fn a_revocation_is_never_shortened_and_a_ban_is() {
        for (target, expected) in [("token t", 900), ("tokens ann", 900), ("principal ann", 500)] {
            let mut table = DenialTable::default();
            table.deny(&denial(target, 10, 900), 10).unwrap();
            table.deny(&denial(target, 20, 500), 20).unwrap();
            let known = table.newer(&Revision::none(), 20).unwrap().denials;
            assert_eq!(known.list(20), [denial(target, 20, expected)]);
        }
    }

    #[test]
    fn the_table_is_bounded_both_in_force_and_past() {
        let mut table = DenialTable::default();
        let target = |n: usize| format!("principal p{n}");
        for n in 0..MAX_DENIALS {
            table
                .entries
                .insert(target(n).into(), DenialEntry::parse(&format!("{} 90000 1 90000", n + 1)).unwrap());
        }
        table.version = MAX_DENIALS as u64;
        assert_eq!(table.deny(&denial("principal more", 1, 90_000), 1), Err(TableFull));
        assert_eq!(table.deny(&denial("principal p7", 1, 95_000), 1), Ok(()), "it is there already");
        assert!(table.lift(&DenialTarget::parse("principal p0").unwrap(), 1));
        assert_eq!(table.deny(&denial("principal more", 1, 90_000), 1), Ok(()));

        for n in 0..MAX_PAST_DENIALS {
            table
                .entries
                .insert(format!("token t{n}").into(), DenialEntry::parse(&format!("{n} 90000")).unwrap());
        }
        table.forget(1);
        assert_eq!(table.entries.len(), MAX_DENIALS + MAX_PAST_DENIALS);
        assert!(
            !table.entries.contains_key("token t0") && table.entries.contains_key("token t1"),
            "the oldest"
        );
    }
}
