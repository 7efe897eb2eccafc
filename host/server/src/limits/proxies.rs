//! `limits.trusted` and `limits.header`: the proxies that are believed, and how they name their clients. Reads
//! no header.

use super::IpNetwork;
use serde::Deserialize;
use std::net::IpAddr;
use switchyard_store::denial::AddressRange;

/// Where trusted proxies name the client of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// In the HTTP header `X-Forwarded-For`.
    XForwardedFor,
    /// In the HTTP header `Forwarded` (RFC 7239).
    Forwarded,
    /// In the header of the PROXY protocol, version 2, which comes before TLS and HTTP.
    Proxy,
}

/// The proxies that are believed.
pub(super) struct TrustedProxies {
    networks: Vec<IpNetwork>,
    /// `None`: they do not name their clients, so all of those count as the proxy.
    header: Option<ProxyHeader>,
}

impl TrustedProxies {
    pub(super) fn new(networks: Vec<IpNetwork>, header: Option<ProxyHeader>) -> Self {
        Self { networks, header }
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// Whether one of the addresses in a range is among them.
    pub(super) fn overlap(&self, range: AddressRange) -> bool {
        let overlaps =
            |network: &IpNetwork| network.contains(range.first()) || range.contains(network.address());
        self.networks.iter().any(overlaps)
    }

    /// Where this peer names its client. `None`: the peer is the client.
    pub(super) fn header_of(&self, peer: IpAddr) -> Option<ProxyHeader> {
        self.header.filter(|_| self.contains(peer))
    }
}
