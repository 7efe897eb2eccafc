//! A client connection that has not authenticated yet: its slot, the address of its client, and what limits by
//! address refuse it. Knows no socket.

use super::{AddressRange, ClientLimits, ProxyHeader, Slot, address_connections::CountedConnection};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};
use switchyard_process::lock::LockExt;
use switchyard_protocol::{ErrorCode, Refusal};

/// It gives its slot back once it has authenticated, or when this is dropped.
pub(crate) struct PendingConnection {
    slot: Slot,
    peer: SocketAddr,
    client: Mutex<PendingClient>,
    limits: Arc<ClientLimits>,
}

/// What is known about the client.
pub(super) struct PendingClient {
    /// That of the peer until a trusted proxy has named the client.
    pub address: SocketAddr,
    /// `None` if connections of its address are not limited.
    pub counted: Option<CountedConnection>,
    /// Why the client only gets a refusal.
    pub refusal: Option<Refusal>,
}

impl PendingConnection {
    pub(super) fn new(
        slot: Slot,
        peer: SocketAddr,
        client: PendingClient,
        limits: Arc<ClientLimits>,
    ) -> Self {
        limits.metrics.unauthenticated.inc();
        Self { slot, peer, client: Mutex::new(client), limits }
    }

    /// Runs `work` for the connection. `None`: the connection was evicted.
    pub(crate) async fn run<F: Future>(&self, work: F) -> Option<F::Output> {
        self.slot.run(work).await
    }

    /// Gives the slot back, because the connection has authenticated.
    pub(crate) fn release_slot(&self) {
        if self.slot.release() {
            self.limits.metrics.unauthenticated.dec();
        }
    }

    /// The other end of the TCP connection.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address of the client, as far as it is known.
    pub(crate) fn address(&self) -> SocketAddr {
        self.client.locked().address
    }

    /// Where the peer names its client, if it is a trusted proxy that does.
    pub(crate) fn header(&self) -> Option<ProxyHeader> {
        self.limits.proxies.header_of(self.peer.ip())
    }

    pub(crate) fn is_trusted(&self, address: IpAddr) -> bool {
        self.limits.proxies.contains(address)
    }

    /// A trusted proxy has named its client. From now on the connection counts for that address, and no longer
    /// for the proxy or for a client that was named before.
    pub(crate) fn identify(&self, address: SocketAddr) {
        let identified = self.count_for(address.ip());
        let mut client = self.client.locked();
        client.address = address;
        (client.counted, client.refusal) = match identified {
            Ok(counted) => (counted, None),
            Err(refusal) => (None, Some(refusal)),
        };
    }

    fn count_for(&self, address: IpAddr) -> Result<Option<CountedConnection>, Refusal> {
        let group = AddressRange::of(address);
        // Before the new one is counted, which may be for the same address.
        self.client.locked().counted = None;
        if self.is_trusted(address) {
            self.slot.move_to(group, true);
            return Ok(None);
        }
        if !self.slot.move_to(group, false) {
            let exceeded = self.limits.addresses.unauthenticated_exceeded(group);
            // Also if it is refused: it has to answer, and must not stay in a slot of the proxy until then.
            self.slot.move_to(group, true);
            exceeded?;
        }
        self.limits.addresses.connect(group)
    }

    /// Why the client only gets a refusal. `None`: it is served.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.client.locked().refusal.clone()
    }

    /// Passes on what counts the connection for its address, so that it outlives this.
    pub(crate) fn take_counted(&self) -> Option<CountedConnection> {
        self.client.locked().counted.take()
    }

    /// Why clients at this address may not try a key now. `None`: they may.
    pub(crate) fn key_refusal(&self) -> Option<Refusal> {
        let address = self.address().ip();
        match self.is_trusted(address) {
            true => None,
            false => self.limits.addresses.check_failures(address).err(),
        }
    }

    /// Counts a refused key, and returns when the answer may be sent.
    pub(crate) async fn key_refused(&self, code: ErrorCode) {
        let address = self.address().ip();
        self.limits.addresses.key_refused(address, self.is_trusted(address), code).await;
    }
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        self.release_slot();
    }
}
