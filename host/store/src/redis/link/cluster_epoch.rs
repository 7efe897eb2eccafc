//! The newest epoch that a server of a Cluster has reported. It rises with each change of the Cluster. A
//! server that does not know of the latest change yet reports an older one, and its table of slots is
//! outdated as well.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use switchyard_process::lock::LockExt;
use tokio::time::Instant;

/// How long the newest epoch applies although no server reports it any more. Servers of one Cluster agree much
/// sooner, so after this time it is another Cluster.
const EPOCH_TTL: Duration = Duration::from_secs(30);

/// The epoch, and when a server last reported it.
#[derive(Default)]
pub(super) struct ClusterEpoch(Mutex<Option<(u64, Instant)>>);

impl ClusterEpoch {
    /// Records what a server has reported. Returns whether no server has reported a newer epoch.
    pub(super) fn observe(&self, epoch: u64) -> bool {
        let (mut newest, now) = (self.lock(), Instant::now());
        match *newest {
            Some((known, reported_at)) if epoch < known && now < reported_at + EPOCH_TTL => false,
            _ => {
                *newest = Some((epoch, now));
                true
            }
        }
    }

    pub(super) fn newest(&self) -> Option<u64> {
        self.lock().map(|(epoch, _)| epoch)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(u64, Instant)>> {
        self.0.locked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn the_newest_epoch_applies_until_no_server_has_reported_it_for_a_while() {
        let epoch = ClusterEpoch::default();
        assert_eq!(epoch.newest(), None);
        assert!(epoch.observe(6) && epoch.observe(7) && !epoch.observe(6) && epoch.observe(7));
        advance(EPOCH_TTL - Duration::from_secs(1)).await;
        assert!(!epoch.observe(6) && epoch.observe(7));
        advance(EPOCH_TTL - Duration::from_secs(1)).await;
        assert!(!epoch.observe(1), "another server has reported 7 less than the limit ago");
        assert_eq!(epoch.newest(), Some(7));
        advance(Duration::from_secs(1)).await;
        assert!(epoch.observe(1), "the Cluster was created again");
        assert_eq!(epoch.newest(), Some(1));
    }
}
