//! How a shard changes to another version of its plugin: it prepares the version, waits until all shards of the plugin
//! have, and then activates it or not. While it waits, it handles nothing, so no two shards ever use different
//! versions.

use super::*;
use crate::hub::policy::PreparedVersion;

/// A version that is ready, and who decides about it.
pub(crate) struct PreparedSwap {
    version: PreparedVersion,
    commit: oneshot::Receiver<oneshot::Sender<()>>,
}

impl Shard {
    /// Prepares a version. The shard must then [finish](Self::finish_swap) before it handles anything else.
    pub(super) fn prepare_swap(&mut self, preparation: SwapPreparation) {
        let SwapPreparation { version, prepared, commit } = preparation;
        match self.policy.prepare(version, self.has_thread) {
            Ok(version) => {
                self.prepared_swap = Some(PreparedSwap { version, commit });
                prepared.send(Ok(())).ok();
            }
            Err(refusal) => drop(prepared.send(Err(refusal))),
        }
    }

    /// Waits for the decision about a version that was prepared, if there is one. Ends without one when nobody
    /// can decide any more.
    pub(super) async fn finish_swap(&mut self) {
        let Some(PreparedSwap { version, commit }) = self.prepared_swap.take() else { return };
        let Ok(committed) = commit.await else { return };
        if let Some(governed) = &self.governed {
            self.policy.commit(version, &governed.governors);
        }
        committed.send(()).ok();
    }
}
