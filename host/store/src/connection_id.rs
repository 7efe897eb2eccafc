//! The id of a live connection. Knows neither its socket nor its session.

use crate::random::random;
use std::fmt;

/// Identifies a live connection among all connections of all nodes. Displayed as `c_` and 16 hexadecimal
/// digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub(crate) u64);

impl ConnectionId {
    /// The last one in order.
    pub const MAX: Self = Self(u64::MAX);

    /// A new id, drawn at random.
    pub fn random() -> Self {
        Self(u64::from_le_bytes(random()))
    }

    /// Parses an id as it is displayed.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("c_").filter(|hex| hex.len() == 16)?;
        u64::from_str_radix(hex, 16).ok().map(Self)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "c_{:016x}", self.0)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
