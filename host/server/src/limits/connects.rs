//! How often each address connects: a token bucket for each. Does not know why an address connects, or what it
//! is told.

use super::{
    AddressRange, Rate, TokenBucket,
    address_table::{AddressTable, Forgettable},
};
use std::{sync::Mutex, time::Duration};
use switchyard_process::lock::LockExt;
use tokio::time::Instant;

/// The connects of all addresses.
pub(super) struct ConnectRates {
    /// The rate of one address. `None` means no limit.
    rate: Option<Rate>,
    buckets: Mutex<AddressTable<TokenBucket>>,
}

impl Forgettable for TokenBucket {
    fn is_forgettable(&mut self, now: Instant) -> bool {
        self.is_full(now.into_std())
    }
}

impl ConnectRates {
    pub(super) fn new(rate: Option<Rate>) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Counts a connect. `Err`: it is one too many, and there may be another after this time. An address for
    /// which there is no room in the table may connect.
    pub(super) fn take(&self, group: AddressRange) -> Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        let now = Instant::now();
        let full = || TokenBucket::full(rate, now.into_std());
        let mut buckets = self.buckets.locked();
        buckets.entry(group, now, full).map_or(Ok(()), |bucket| bucket.take(now.into_std()))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::address_table::MAX_ADDRESSES, *};
    use std::net::Ipv4Addr;

    fn group(n: u32) -> AddressRange {
        AddressRange::of(Ipv4Addr::from_bits(n).into())
    }

    fn rates(rate: &str) -> ConnectRates {
        ConnectRates::new(Some(Rate::try_from(rate.to_owned()).unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_connects_as_often_as_its_rate_allows() {
        let rates = rates("2/s");
        assert_eq!([rates.take(group(1)), rates.take(group(1))], [Ok(()), Ok(())]);
        let wait = Duration::from_millis(500);
        assert_eq!(rates.take(group(1)), Err(wait));
        assert_eq!(rates.take(group(2)), Ok(()), "another address has its own bucket");
        tokio::time::sleep(wait).await;
        assert_eq!(rates.take(group(1)), Ok(()));
        let unlimited = ConnectRates::new(None);
        assert!((0..1000).all(|_| unlimited.take(group(1)).is_ok()));
        assert_eq!(unlimited.buckets.locked().len(), 0, "nothing is remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn a_million_addresses_fit_into_a_bounded_table_and_nobody_is_refused_for_them() {
        let rates = rates("1/m");
        for n in 0..1_000_000 {
            assert_eq!(rates.take(group(n)), Ok(()), "{n} has not connected before");
            if n % 1000 == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert!(rates.buckets.locked().len() <= MAX_ADDRESSES);
        assert!(rates.take(group(0)).is_err(), "the first ones are remembered");
        assert_eq!(rates.take(group(999_999)), Ok(()), "there was no room for the last ones");
        tokio::time::sleep(Duration::from_secs(61)).await;
        for expected in [Ok(()), Err(Duration::from_secs(60))] {
            assert_eq!(rates.take(group(7_000_000)), expected, "there is room again");
        }
        let bytes = rates.buckets.locked().bytes();
        assert!(bytes <= 1200 << 10, "{bytes} bytes");
    }
}
