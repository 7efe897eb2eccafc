//! Which session: the principal that it belongs to and its ID, as keys and lists in Redis name it. Knows
//! nothing about what is stored.

use crate::redis::{names::Names, session_id::SessionId};
use std::fmt;

/// Displayed and parsed as in lists of sessions. The name of a principal contains no space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionKey<'a> {
    pub principal: &'a str,
    pub id: SessionId,
}

impl<'a> SessionKey<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (principal, id) = text.split_once(' ')?;
        Some(Self { principal, id: SessionId::parse(id)? })
    }

    /// The key of the session's record.
    pub(super) fn record(self, names: &Names) -> String {
        names.session(self.principal, self.id)
    }
}

impl fmt::Display for SessionKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.principal, self.id)
    }
}
