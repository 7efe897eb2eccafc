//! When the tokens of connections expire. Closes nothing.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound::{Excluded, Unbounded},
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

impl State {
    fn set(&mut self, connection: ConnectionId, time: Option<u64>) {
        if let Some(before) = self.by_connection.remove(&connection) {
            self.by_time.remove(&(before, connection));
        }
        if let Some(time) = time {
            self.by_connection.insert(connection, time);
            self.by_time.insert((time, connection));
        }
    }
}

impl TokenExpirations {
    /// The connection ends at this time, in Unix milliseconds, and not at the one before.
    pub(super) fn set(&self, connection: ConnectionId, time: Option<u64>) {
        self.0.locked().set(connection, time);
    }

    /// The same for a connection that may be gone by now. Then nothing changes.
    pub(super) fn change(&self, connection: ConnectionId, time: impl FnOnce() -> Option<u64>) {
        let mut state = self.0.locked();
        if state.by_connection.contains_key(&connection) {
            state.set(connection, time());
        }
    }

    /// The connections whose time has come. They stay until they are gone, or have another time.
    pub(super) fn due(&self, now: u64) -> Vec<ConnectionId> {
        let state = self.0.locked();
        let due = state.by_time.iter().take_while(|(time, _)| *time <= now);
        due.map(|(_, connection)| *connection).collect()
    }

    /// The first time after `now`.
    pub(super) fn next_after(&self, now: u64) -> Option<u64> {
        let state = self.0.locked();
        let later = (Excluded((now, ConnectionId::MAX)), Unbounded);
        state.by_time.range(later).next().map(|(time, _)| *time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_has_one_time_until_it_is_gone() {
        let (expirations, [a, b]) =
            (TokenExpirations::default(), [ConnectionId::random(), ConnectionId::random()]);
        expirations.set(a, Some(10));
        expirations.set(b, Some(20));
        assert_eq!((expirations.due(9), expirations.next_after(9)), (vec![], Some(10)));
        assert_eq!((expirations.due(10), expirations.next_after(10)), (vec![a], Some(20)));
        expirations.change(a, || Some(30));
        assert_eq!((expirations.due(29), expirations.next_after(29)), (vec![b], Some(30)));
        expirations.set(a, None);
        expirations.change(a, || Some(40));
        assert_eq!((expirations.due(100), expirations.next_after(0)), (vec![b], Some(20)), "it is gone");
    }
}
