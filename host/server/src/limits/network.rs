//! Networks as written in the configuration.
//! Counts nothing.

use serde::Deserialize;
use std::{fmt, net::IpAddr};

/// A network, such as "10.0.0.0/8" or "2001:db8::/32", or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct IpNetwork {
    address: IpAddr,
    /// The length of the prefix in bits.
    prefix: u8,
}

/// A text that is not a network.
#[derive(Debug, thiserror::Error)]
pub enum InvalidNetwork {
    /// It is not of the form "10.0.0.0/8", or its prefix is longer than an address.
    #[error(
        r#"invalid network '{0}'; expected something like "10.0.0.0/8", "2001:db8::/32" or a single address"#
    )]
    Syntax(String),
    /// Bits are set after the prefix, so it may be a typing error.
    #[error("'{text}' has bits set after its first {prefix}; the rest of a network's address is zero")]
    HostBits {
        /// The text.
        text: String,
        /// The length of the prefix in bits.
        prefix: u8,
    },
}

impl TryFrom<String> for IpNetwork {
    type Error = InvalidNetwork;

    fn try_from(text: String) -> Result<Self, InvalidNetwork> {
        let Some(network) = Self::parse(&text) else { return Err(InvalidNetwork::Syntax(text)) };
        if network.masked(network.address) != Some(bits(network.address)) {
            return Err(InvalidNetwork::HostBits { text, prefix: network.prefix });
        }
        Ok(network)
    }
}

/// The bits before the IPv4 address in an IPv6 address that contains one, such as `::ffff:10.0.0.1`.
const MAPPED_PREFIX: u8 = 96;

impl IpNetwork {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let max_prefix = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(max_prefix);
        // Peers with such an address are known by their IPv4 address.
        let network = match address.to_canonical() {
            mapped @ IpAddr::V4(_) if address.is_ipv6() && prefix >= MAPPED_PREFIX => {
                Self { address: mapped, prefix: prefix - MAPPED_PREFIX }
            }
            _ => Self { address, prefix },
        };
        (prefix <= max_prefix).then_some(network)
    }

    /// Its first address.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let address = match self.address {
            IpAddr::V4(_) => address.to_canonical(),
            IpAddr::V6(_) => address,
        };
        self.masked(address) == Some(bits(self.address))
    }

    /// Whether it contains all addresses of its family.
    pub(crate) fn is_everything(&self) -> bool {
        self.prefix == 0
    }

    /// The first `prefix` bits of an address. `None`: it is of the other family.
    fn masked(&self, address: IpAddr) -> Option<u128> {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
        (self.address.is_ipv4() == address.is_ipv4()).then(|| bits(address) & mask)
    }
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The bits of an address, left-aligned.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_the_addresses_with_its_prefix() {
        let contains = |network: &str, address: &str| {
            IpNetwork::try_from(network.to_owned()).unwrap().contains(address.parse().unwrap())
        };
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.4/30", "::ffff:192.0.2.7", "::ffff:192.0.2.8"),
            ("::ffff:10.0.0.0/104", "10.255.0.1", "11.0.0.1"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
            ("::1", "::1", "127.0.0.1"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
        ] {
            assert!(contains(network, inside), "{inside} is in {network}");
            assert!(!contains(network, outside), "{outside} is not in {network}");
        }
        for wrong in ["", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.1/8", "example.org", "10.0.0.0/", "::/129"] {
            assert!(IpNetwork::try_from(wrong.to_owned()).is_err(), "{wrong:?}");
        }
    }
}
