//! The secret of a session. Knows nothing of what the session holds.

use crate::random::random;
use std::fmt;

/// The secret by which a client comes back to its session. `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionToken(pub(crate) [u8; 16]);

impl SessionToken {
    pub fn random() -> Self {
        Self(random())
    }

    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("s_").filter(|hex| hex.len() == 32)?;
        u128::from_str_radix(hex, 16).ok().map(|bits| Self(bits.to_be_bytes()))
    }

    /// As the wire carries it.
    pub fn reveal(&self) -> String {
        format!("s_{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("s_…")
    }
}
