//! When the tokens of connections expire. Closes nothing.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Mutex,
};
use switchyard_process::lock::LockExt;
use switchyard_store::ConnectionId;

/// The connections of a node that end with their token, by time.
#[derive(Default)]
pub(crate) struct TokenExpirations(Mutex<State>);

#[derive(Default)]
struct State {
    /// Unix milliseconds.
    by_connection: HashMap<ConnectionId, u64>,
    by_time: BTreeSet<(u64, ConnectionId)>,
}

impl TokenExpirations {
    /// The connection ends at this time, in Unix milliseconds, and not at the one before.
    pub(super) fn set(&self, connection: ConnectionId, time: Option<u64>) {
        let mut state = self.0.locked();
        if let Some(before) = state.by_connection.remove(&connection) {
            state.by_time.remove(&(before, connection));
        }
        if let Some(time) = time {
            state.by_connection.insert(connection, time);
            state.by_time.insert((time, connection));
        }
    }

    /// The same for a connection that may be gone by now.
    pub(super) fn change(&self, connection: ConnectionId, time: Option<u64>) {
        let is_known = self.0.locked().by_connection.contains_key(&connection);
        if is_known {
            self.set(connection, time);
        }
    }

    /// The connections whose time has come. They stay until they are gone, or have another time.
    pub(crate) fn due(&self, now: u64) -> Vec<ConnectionId> {
        let state = self.0.locked();
        let due = state.by_time.iter().take_while(|(time, _)| *time <= now);
        due.map(|(_, connection)| *connection).collect()
    }

    /// The first time after `now`.
    pub(crate) fn next_after(&self, now: u64) -> Option<u64> {
        let state = self.0.locked();
        state.by_time.iter().map(|(time, _)| *time).find(|time| *time > now)
    }
}
