//! How many live connections each address has. Does not close any.

use super::AddressRange;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use switchyard_process::lock::LockExt;

/// The live connections of all addresses. There is an entry only for addresses that have one, so there are at
/// most as many entries as connections, each of which takes a file and far more memory.
#[derive(Default)]
pub(super) struct AddressConnections {
    counts: Mutex<HashMap<AddressRange, usize>>,
}

/// A connection that is counted for its address until this is dropped.
pub(crate) struct CountedConnection {
    group: AddressRange,
    all: Arc<AddressConnections>,
}

impl AddressConnections {
    /// Counts a connection. Also returns how many the address has now.
    pub(super) fn count(self: &Arc<Self>, group: AddressRange) -> (CountedConnection, usize) {
        let mut counts = self.counts.locked();
        let count = counts.entry(group).or_default();
        *count += 1;
        (CountedConnection { group, all: self.clone() }, *count)
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let mut counts = self.all.counts.locked();
        let Some(count) = counts.get_mut(&self.group) else { return };
        *count -= 1;
        if *count == 0 {
            counts.remove(&self.group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn group(address: &str) -> AddressRange {
        AddressRange::of(address.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn a_connection_counts_until_it_is_dropped_and_leaves_nothing_behind() {
        let all = Arc::new(AddressConnections::default());
        let (first, one) = all.count(group("2001:db8::1"));
        let (second, two) = all.count(group("2001:db8::ffff"));
        let (other, of_another) = all.count(group("2001:db8:0:1::1"));
        assert_eq!([one, two, of_another], [1, 2, 1], "a /64 is one address");
        drop(first);
        assert_eq!(all.count(group("2001:db8::2")).1, 2, "one was given back");
        drop((second, other));
        assert!(all.counts.locked().is_empty());
    }
}
