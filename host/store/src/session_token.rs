//! The secret of a session. Knows nothing about the session itself.

use crate::random::random;
use std::fmt;

/// The secret with which a client resumes its session. `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionToken(pub(crate) [u8; 16]);

impl SessionToken {
    /// A new token, drawn at random.
    pub fn random() -> Self {
        Self(random())
    }

    /// Parses a token as [`reveal`](Self::reveal) writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("s_").filter(|hex| hex.len() == 32)?;
        u128::from_str_radix(hex, 16).ok().map(|bits| Self(bits.to_be_bytes()))
    }

    /// The token as clients send and receive it: `s_` and 32 hexadecimal digits.
    pub fn reveal(&self) -> String {
        format!("s_{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("s_…")
    }
}
