//! An entry in the set of what a node owns, which others clean up if the node dies, and its text in Redis.
//! Does not read or write the set.

use crate::{ConnectionId, redis::session_key::SessionKey};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnedEntry<'a> {
    /// How many connections of a principal the node has.
    ConnectionCount { principal: &'a str },
    /// A session that a connection of the node holds.
    Session { key: SessionKey<'a>, connection: ConnectionId },
}

impl<'a> OwnedEntry<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        match text.rsplit_once(' ') {
            None => Some(Self::ConnectionCount { principal: text }),
            Some((session, connection)) => Some(Self::Session {
                key: SessionKey::parse(session)?,
                connection: ConnectionId::parse(connection)?,
            }),
        }
    }
}

impl fmt::Display for OwnedEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::ConnectionCount { principal } => f.write_str(principal),
            Self::Session { key, connection } => write!(f, "{key} {connection}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SessionToken, redis::session_id::SessionId};

    #[test]
    fn an_entry_parses_what_it_displays() {
        let key = SessionKey { principal: "acme", id: SessionId::of(&SessionToken::random()) };
        let session = OwnedEntry::Session { key, connection: ConnectionId::random() };
        for entry in [OwnedEntry::ConnectionCount { principal: "acme" }, session] {
            assert_eq!(OwnedEntry::parse(&entry.to_string()), Some(entry));
        }
        assert_eq!(SessionKey::parse(&key.to_string()), Some(key));
        for malformed in ["acme x", "acme x y", &format!("{key} x"), &format!("{session} x")] {
            assert_eq!(OwnedEntry::parse(malformed), None, "{malformed}");
        }
    }
}
