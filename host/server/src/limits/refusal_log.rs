//! Logs what limits refuse to an address: at most one line in 10 s for each address. Does not decide what is
//! refused.

use super::{
    AddressRange, LimitMode,
    address_table::{AddressTable, Forgettable},
};
use crate::metrics::LimitKind;
use std::{sync::Mutex, time::Duration};
use switchyard_process::lock::LockExt;
use tokio::time::Instant;

/// Minimum time between two log lines about one address.
pub(super) const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What was refused, by address.
#[derive(Default)]
pub(super) struct RefusalLog {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    addresses: AddressTable<Refusals>,
    /// All addresses for which there was no room in `addresses`.
    others: Option<Refusals>,
}

/// The refusals of one address.
struct Refusals {
    logged: Option<Instant>,
    /// Refusals since the last log line.
    unlogged: u64,
}

impl Refusals {
    /// Counts a refusal. Returns how many to log now, if any.
    fn add(&mut self, now: Instant) -> Option<u64> {
        self.unlogged += 1;
        if self.logged.is_some_and(|logged| now - logged < LOG_INTERVAL) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

impl Forgettable for Refusals {
    fn is_forgettable(&mut self, now: Instant) -> bool {
        self.logged.is_none_or(|logged| now - logged >= LOG_INTERVAL)
    }
}

impl RefusalLog {
    /// Logs that a limit refused something to an address, or would have refused it, unless the address was
    /// logged a moment ago.
    pub(super) fn refused(&self, group: AddressRange, limit: LimitKind, mode: LimitMode) {
        let (limit, mode) = (limit.as_str(), mode.as_str());
        match self.add(group, Instant::now()) {
            Some((true, count)) => {
                tracing::warn!(address = %group, limit, mode, count, "an address exceeded a limit");
            }
            Some((false, count)) => {
                tracing::warn!(limit, mode, count, "more addresses exceeded limits than are remembered");
            }
            None => {}
        }
    }

    /// Counts a refusal. `Some`: how many to log now, and whether the line may name the address.
    fn add(&self, group: AddressRange, now: Instant) -> Option<(bool, u64)> {
        let new = || Refusals { logged: None, unlogged: 0 };
        let mut state = self.state.locked();
        let State { addresses, others } = &mut *state;
        match addresses.entry(group, now, new) {
            Some(refusals) => refusals.add(now).map(|count| (true, count)),
            None => others.get_or_insert_with(new).add(now).map(|count| (false, count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::address_table::MAX_ADDRESSES, *};
    use std::net::Ipv4Addr;

    fn group(n: u32) -> AddressRange {
        AddressRange::of(Ipv4Addr::from_bits(n).into())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_logged_once_in_a_while() {
        let log = RefusalLog::default();
        assert_eq!(log.add(group(1), Instant::now()), Some((true, 1)), "the first one at once");
        for _ in 0..5 {
            assert_eq!(log.add(group(1), Instant::now()), None);
        }
        assert_eq!(log.add(group(2), Instant::now()), Some((true, 1)), "another address");
        tokio::time::sleep(LOG_INTERVAL).await;
        assert_eq!(log.add(group(1), Instant::now()), Some((true, 6)), "with those in between");
    }

    #[tokio::test(start_paused = true)]
    async fn a_million_addresses_fit_into_a_bounded_table() {
        let log = RefusalLog::default();
        let lines = (0..1_000_000).filter_map(|n| log.add(group(n), Instant::now())).count();
        assert_eq!(lines, MAX_ADDRESSES + 1, "those that are not remembered have one line together");
        let state = log.state.locked();
        assert!(state.addresses.len() <= MAX_ADDRESSES);
        let bytes = state.addresses.bytes();
        assert!(bytes <= 800 << 10, "{bytes} bytes");
    }
}
