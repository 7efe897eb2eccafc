//! What all versions of a plugin have counted on this node: each of the last ones by itself, those before them
//! together, and candidates apart from active versions. The metrics that the plugin defines go on through a
//! change of version. Knows only what is counted, and keeps no version alive.

use super::counters::{CallCounters, CallCounts};
use super::metrics::GuestSeries;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use switchyard_process::lock::LockExt;

/// How many versions have series of their own.
const MAX_VERSIONS: usize = 16;

/// The series of one plugin. They outlive its versions.
#[derive(Default)]
pub struct PluginSeries {
    versions: VersionTable,
    candidates: VersionTable,
    pub(super) guest: GuestSeries,
}

/// What one version has counted, or all older ones together.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionCounts {
    /// The version's own name of itself, and the SHA-256 of its code in hexadecimal. `None` for the sum of the
    /// versions before the last 16.
    pub version: Option<(String, String)>,
    /// What was counted.
    pub counts: CallCounts,
}

#[derive(Default)]
struct VersionTable(Mutex<CountedVersions>);

#[derive(Default)]
struct CountedVersions {
    /// The one that was started last comes last.
    recent: VecDeque<CountedVersion>,
    /// The sum of those that were removed from `recent`, if there are any.
    older: Option<CallCounters>,
}

struct CountedVersion {
    version: String,
    sha256: String,
    /// Shared by everything that was compiled from this code, for example with other configurations.
    counters: Arc<CallCounters>,
}

impl PluginSeries {
    /// The counters of a version that is about to become active.
    pub(super) fn of_version(&self, version: &str, sha256: &str) -> Arc<CallCounters> {
        self.versions.counters(version, sha256)
    }

    /// The counters of a version that is about to become a candidate.
    pub(super) fn of_candidate(&self, version: &str, sha256: &str) -> Arc<CallCounters> {
        self.candidates.counters(version, sha256)
    }

    /// What versions have counted while they were active, from the oldest to the one that was loaded last.
    pub fn versions(&self) -> Vec<VersionCounts> {
        self.versions.counts()
    }

    /// What versions have counted as candidates, in the same order.
    pub fn candidates(&self) -> Vec<VersionCounts> {
        self.candidates.counts()
    }
}

impl VersionTable {
    fn counters(&self, version: &str, sha256: &str) -> Arc<CallCounters> {
        let mut versions = self.0.locked();
        let known = versions.recent.iter().position(|known| known.sha256 == sha256);
        let counted = known.and_then(|at| versions.recent.remove(at)).unwrap_or_else(|| CountedVersion {
            version: version.to_owned(),
            sha256: sha256.to_owned(),
            counters: Arc::default(),
        });
        let counters = counted.counters.clone();
        versions.recent.push_back(counted);
        versions.sum_up_oldest();
        counters
    }

    fn counts(&self) -> Vec<VersionCounts> {
        let versions = self.0.locked();
        let older =
            versions.older.iter().map(|older| VersionCounts { version: None, counts: older.values() });
        let recent = versions.recent.iter().map(|counted| VersionCounts {
            version: Some((counted.version.clone(), counted.sha256.clone())),
            counts: counted.counters.values(),
        });
        older.chain(recent).collect()
    }
}

impl CountedVersions {
    /// Moves the oldest versions to the sum. One that may still count something keeps its series until it is gone,
    /// so that nothing is lost.
    fn sum_up_oldest(&mut self) {
        let mut excess = self.recent.len().saturating_sub(MAX_VERSIONS);
        let older = &mut self.older;
        self.recent.retain_mut(|counted| {
            let is_in_use = Arc::get_mut(&mut counted.counters).is_none();
            if excess == 0 || is_in_use {
                return true;
            }
            excess -= 1;
            older.get_or_insert_default().absorb(&counted.counters);
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{FailureKind, PluginFunction};
    use std::time::Duration;

    fn call(counters: &CallCounters) {
        counters.record_call(PluginFunction::Publish, Duration::from_nanos(7));
        counters.record_failure(PluginFunction::Publish, FailureKind::Panic);
        counters.record_filtering(5, 3);
    }

    fn labels(series: &PluginSeries) -> Vec<String> {
        let name = |counts: VersionCounts| counts.version.map_or("older".to_owned(), |(version, _)| version);
        series.versions().into_iter().map(name).collect()
    }

    #[test]
    fn the_versions_before_the_last_sixteen_are_summed_and_nothing_is_lost() {
        let series = PluginSeries::default();
        for n in 0..20 {
            call(&series.of_version(&n.to_string(), &format!("digest {n}")));
        }
        let expected: Vec<_> =
            ["older".to_owned()].into_iter().chain((4..20).map(|n| n.to_string())).collect();
        assert_eq!(labels(&series), expected);
        let counts = series.versions();
        assert_eq!(counts[0].counts.calls["publish.check"], (4, 28));
        assert_eq!(counts[0].counts.failures["panic"], 4);
        assert_eq!((counts[0].counts.filters_asked, counts[0].counts.filters_passed), (20, 12));
        let sum: u64 = counts.iter().map(|version| version.counts.calls["publish.check"].0).sum();
        assert_eq!(sum, 20);
    }

    #[test]
    fn a_version_that_is_loaded_again_goes_on_counting() {
        let series = PluginSeries::default();
        call(&series.of_version("1", "one"));
        call(&series.of_version("2", "two"));
        call(&series.of_version("1", "one"));
        assert_eq!(labels(&series), ["2", "1"]);
        assert_eq!(series.versions()[1].counts.calls["publish.check"].0, 2);
        assert_eq!(series.candidates(), []);
    }

    #[test]
    fn a_version_that_is_still_in_use_is_not_summed_up() {
        let series = PluginSeries::default();
        let first = series.of_version("first", "first");
        for n in 0..20 {
            series.of_version(&n.to_string(), &n.to_string());
        }
        call(&first);
        assert_eq!(labels(&series)[..2], ["older", "first"]);
        assert_eq!(series.versions().len(), 1 + MAX_VERSIONS);
        drop(first);
        series.of_version("last", "last");
        assert_eq!(labels(&series)[1], "5");
        assert_eq!(series.versions()[0].counts.calls["publish.check"].0, 1);
    }
}
