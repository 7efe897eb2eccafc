//! The limits of one address on the listener for clients. What exceeds them is counted, logged and refused, or
//! only counted and logged. Does not know which addresses are exempt, and closes nothing.

use super::{
    AddressRange, KeyFailures, LimitMode, LimitsConfig,
    address_connections::{AddressConnections, CountedConnection},
    connects::ConnectRates,
    refusal_log::RefusalLog,
};
use crate::metrics::{LimitKind, ListenerKind, Metrics};
use std::{net::IpAddr, num::NonZeroUsize, sync::Arc, time::Duration};
use switchyard_protocol::{ErrorCode, Refusal};

/// When a client behind a proxy may try again whose address has too many connections that have not
/// authenticated. They authenticate or are closed within seconds.
const UNAUTHENTICATED_RETRY_DELAY: Duration = Duration::from_secs(1);

/// What all addresses have used of their limits.
pub(super) struct AddressLimits {
    mode: LimitMode,
    max_connections: Option<usize>,
    connections: Arc<AddressConnections>,
    connects: ConnectRates,
    failures: KeyFailures,
    log: RefusalLog,
    metrics: Metrics,
}

impl AddressLimits {
    pub(super) fn new(config: &LimitsConfig, metrics: Metrics) -> Self {
        let address = &config.address;
        Self {
            mode: config.mode,
            max_connections: address.connections.map(NonZeroUsize::get),
            connections: Arc::default(),
            connects: ConnectRates::new(address.connects),
            failures: KeyFailures::new(address.failures, ListenerKind::Clients, metrics.clone()),
            log: RefusalLog::default(),
            metrics,
        }
    }

    /// Counts a connect of the address, and a live connection. `Err`: it is one too many.
    pub(super) fn connect(&self, group: AddressRange) -> Result<Option<CountedConnection>, Refusal> {
        if let Err(wait) = self.connects.take(group) {
            self.exceeded(LimitKind::AddressConnects, group, || {
                let message =
                    format!("{group} connects too often: this node limits how often an address may connect");
                retry_after(message, wait)
            })?;
        }
        let Some(max) = self.max_connections else { return Ok(None) };
        let (counted, count) = self.connections.count(group);
        if count > max {
            self.exceeded(LimitKind::AddressConnections, group, || {
                let message =
                    format!("there are {max} connections from {group}, and an address may not have more");
                Refusal::new(ErrorCode::ConnectionLimit, message)
            })?;
        }
        Ok(Some(counted))
    }

    /// Notes that the address has as many unauthenticated connections as it may have, and gets no other one.
    pub(super) fn unauthenticated_exceeded(&self, group: AddressRange) -> Result<(), Refusal> {
        self.exceeded(LimitKind::AddressUnauthenticated, group, || {
            let message = format!("too many connections from {group} have not authenticated yet");
            retry_after(message, UNAUTHENTICATED_RETRY_DELAY)
        })
    }

    /// `Err`: the address has presented too many invalid keys or tokens, and must wait before it tries another.
    pub(super) fn check_failures(&self, address: IpAddr) -> Result<(), Refusal> {
        let Some(wait) = self.failures.wait(address) else { return Ok(()) };
        let group = AddressRange::of(address);
        self.exceeded(LimitKind::AddressFailures, group, || {
            retry_after(format!("too many invalid keys or tokens from {group}; try again later"), wait)
        })
    }

    /// Counts a refused key, and returns when the answer may be sent.
    pub(super) async fn key_refused(&self, address: IpAddr, is_trusted: bool, code: ErrorCode) {
        self.failures.refused(address, is_trusted, code).await;
    }

    /// Counts and logs what exceeds a limit. `Ok`: limits are only observed.
    fn exceeded(
        &self,
        limit: LimitKind,
        group: AddressRange,
        refusal: impl FnOnce() -> Refusal,
    ) -> Result<(), Refusal> {
        self.metrics.count_limited(limit, self.mode);
        // The invalid keys themselves were logged, and an address has one line at a time.
        if !matches!(limit, LimitKind::AddressFailures) {
            self.log.refused(group, limit, self.mode);
        }
        match self.mode {
            LimitMode::Enforce => Err(refusal()),
            LimitMode::Observe => Ok(()),
        }
    }
}

fn retry_after(message: String, wait: Duration) -> Refusal {
    // Rounded up, because an attempt that comes too early is refused again.
    Refusal::retry(ErrorCode::RateLimited, message, wait.as_millis() as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(mode: &str) -> AddressLimits {
        let text = format!("mode = \"{mode}\"\naddress = {{ connections = 2, connects = \"3/s\" }}");
        AddressLimits::new(&toml::from_str(&text).unwrap(), Metrics::default())
    }

    fn group(address: &str) -> AddressRange {
        AddressRange::of(address.parse().unwrap())
    }

    fn code(connected: Result<Option<CountedConnection>, Refusal>) -> Option<ErrorCode> {
        connected.err().map(|refusal| refusal.code)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_beyond_a_limit_is_refused_and_not_counted() {
        let (limits, own) = (limits("enforce"), group("192.0.2.1"));
        let held = [limits.connect(own), limits.connect(own)];
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(code(limits.connect(own)), Some(ErrorCode::ConnectionLimit));
        assert_eq!(code(limits.connect(own)), Some(ErrorCode::RateLimited), "the fourth within a second");
        assert_eq!(code(limits.connect(group("192.0.2.2"))), None, "another address");
        drop(held);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let held = [limits.connect(own), limits.connect(own)];
        assert!(held.iter().all(Result::is_ok), "closed connections and refused ones do not count");
        let text = limits.metrics.encode();
        for series in ["address_connections\",mode=\"enforce\"} 1", "address_connects\",mode=\"enforce\"} 1"]
        {
            assert!(text.contains(series), "{series}: {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn limits_that_are_observed_refuse_nothing_and_count_the_same() {
        let (limits, own) = (limits("observe"), group("192.0.2.1"));
        let held: Vec<_> = (0..4).map(|_| limits.connect(own)).collect();
        assert!(held.iter().all(Result::is_ok));
        limits.unauthenticated_exceeded(own).unwrap();
        let text = limits.metrics.encode();
        for series in [
            "address_connections\",mode=\"observe\"} 2",
            "address_connects\",mode=\"observe\"} 1",
            "address_unauthenticated\",mode=\"observe\"} 1",
            "address_connections\",mode=\"enforce\"} 0",
        ] {
            assert!(text.contains(series), "{series}: {text}");
        }
    }
}
