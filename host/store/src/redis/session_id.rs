//! The name of a session in Redis. Knows nothing about what is stored under it.

use crate::SessionToken;
use sha2::{Digest, Sha256};
use std::fmt;

/// A digest of the session's token. Redis never sees the token itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId([u8; 16]);

impl SessionId {
    pub(super) fn of(token: &SessionToken) -> Self {
        let digest = Sha256::digest(token.0);
        Self(digest[..16].try_into().expect("sixteen bytes"))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let bits = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
        Some(Self(bits.to_be_bytes()))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}
