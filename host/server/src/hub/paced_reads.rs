//! The rate at which messages are read from the store for one connection: what was read is charged to the budget of
//! its principal, and whoever would read more waits. Reads nothing itself.

use super::Connection;
use crate::{key::Key, limits::Budget};
use std::time::Duration;
use switchyard_protocol::Refusal;
use switchyard_store::History;
use tokio::time::{sleep, timeout};

/// How long an answer to `history` waits at most until more may be read. Meanwhile, the connection is not read.
const HISTORY_WAIT: Duration = Duration::from_secs(5);
/// How long to wait at most before looking again: the tier may have changed, or the connection may be closed.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Charges what was read from the store.
pub(crate) fn charge_read(budget: &Budget, key: &Key, history: &History) {
    if budget.counts_reads(key) {
        budget.charge_read(key, history.messages.iter().map(|message| message.frame().len()).sum());
    }
}

impl Connection {
    /// Charges what was read from the store for this connection.
    pub(super) fn charge_read(&self, history: &History) {
        charge_read(&self.budget, &self.key.load(), history);
    }

    /// Waits until the principal may read more from the store, or nothing more can be sent to the connection.
    pub(super) async fn wait_for_reads(&self) {
        let mut is_first = true;
        loop {
            let delay = self.budget.read_delay(&self.key.load(), is_first);
            match delay.filter(|_| !self.outbox.has_ended()) {
                Some(delay) => sleep(delay.min(MAX_WAIT)).await,
                None => return,
            }
            is_first = false;
        }
    }

    /// The same for a request, which is refused if that takes too long.
    pub(super) async fn wait_for_history(&self) -> Result<(), Refusal> {
        match timeout(HISTORY_WAIT, self.wait_for_reads()).await {
            Ok(()) => Ok(()),
            Err(_) => self.budget.check_reads(&self.key.load()),
        }
    }
}
