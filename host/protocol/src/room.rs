//! Names of rooms and principals, and patterns of room names. Knows no members.

mod pattern;

pub use pattern::{InvalidRoomPattern, RoomPattern, any_governs};

use crate::{ErrorCode, Refusal};
use std::sync::Arc;

/// The longest name of a room, in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// The longest name of a principal, in bytes. Its inbox, with an `@` in front, is then a valid room name.
pub const MAX_PRINCIPAL_BYTES: usize = 64;
/// The name of the broadcast room, which every client receives.
pub const BROADCAST: &str = "*";

/// A valid room name: 1 to 128 characters from `A-Z a-z 0-9 . _ -`, in parts joined by single colons, such as
/// `uniswap-v3:ethereum`; or [`BROADCAST`]; or an inbox, which is `@` and the name of a principal. Whether
/// such a room exists is another question. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomName(Arc<str>);

/// The kinds of rooms. Clients can subscribe to, and plugins can govern, only ordinary rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomKind {
    /// `*`: every client receives it.
    Broadcast,
    /// `@PRINCIPAL`: every session of the principal receives it.
    Inbox,
    /// Any other room.
    Ordinary,
}

impl RoomName {
    /// Checks the form of a name.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::RoomInvalid`], with what is wrong and what would be right.
    ///
    /// ```
    /// use switchyard_protocol::room::{RoomKind, RoomName};
    ///
    /// let name = RoomName::parse("uniswap-v3:ethereum").unwrap();
    /// assert_eq!(name.kind(), RoomKind::Ordinary);
    ///
    /// let refusal = RoomName::parse("a::b").unwrap_err();
    /// assert!(refusal.message.starts_with("room 'a::b' has an empty part; expected 1 to 128 characters"));
    /// ```
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        let refuse = |problem: String| {
            let expected = "1 to 128 characters from A-Z a-z 0-9 . _ - in parts joined by single colons";
            Err(Refusal::new(ErrorCode::RoomInvalid, format!("room {problem}; expected {expected}")))
        };
        if name == BROADCAST {
            return Ok(Self(name.into()));
        }
        if let Some(principal) = name.strip_prefix('@') {
            return match is_valid_principal(principal) {
                true => Ok(Self(name.into())),
                false => refuse("is not a valid inbox, which is @ and the name of a principal".into()),
            };
        }
        if name.is_empty() {
            return refuse("has an empty name".into());
        }
        if name.len() > MAX_NAME_BYTES {
            return refuse(format!("has a name of {} bytes", name.len()));
        }
        if let Some(bad) = name.chars().find(|c| !(is_name_char(*c) || *c == ':')) {
            return refuse(format!("'{}' contains {bad:?}", name.escape_debug()));
        }
        if name.split(':').any(str::is_empty) {
            return refuse(format!("'{name}' has an empty part"));
        }
        Ok(Self(name.into()))
    }

    /// The broadcast room.
    pub fn broadcast() -> Self {
        Self(BROADCAST.into())
    }

    /// The inbox of a principal, whose name must be valid.
    pub fn inbox(principal: &str) -> Self {
        Self(format!("@{principal}").into())
    }

    /// The principal whose inbox this is; `None` for other rooms.
    pub fn inbox_of(&self) -> Option<&str> {
        self.0.strip_prefix('@')
    }

    /// The kind of room that has this name.
    pub fn kind(&self) -> RoomKind {
        match self.0.as_bytes()[0] {
            b'*' => RoomKind::Broadcast,
            b'@' => RoomKind::Inbox,
            _ => RoomKind::Ordinary,
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, sharing its allocation.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl std::ops::Deref for RoomName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for RoomName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Whether a principal may have this name: 1 to 64 characters from `A-Z a-z 0-9 . _ -`, and `~XX` for each other byte
/// of the subject of a user token, with XX in hexadecimal. The principal of an API key is a [word](is_valid_word).
pub fn is_valid_principal(name: &str) -> bool {
    let is_escape = |text: &str| text.get(..2).is_some_and(|hex| hex.bytes().all(is_upper_hex_digit));
    (1..=MAX_PRINCIPAL_BYTES).contains(&name.len())
        && name.split('~').next().is_some_and(|start| start.chars().all(is_name_char))
        && name.split('~').skip(1).all(|part| is_escape(part) && part.chars().all(is_name_char))
}

fn is_upper_hex_digit(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte)
}

/// The name of the principal with this subject: bytes that names of principals do not have become `~XX`. Different
/// subjects have different names. `None` if it is empty or longer than 64 bytes.
///
/// ```
/// use switchyard_protocol::room::principal_of_subject;
///
/// assert_eq!(principal_of_subject("", "ann@example.org").as_deref(), Some("ann~40example.org"));
/// assert_eq!(principal_of_subject("app-", "7").as_deref(), Some("app-7"));
/// assert_eq!(principal_of_subject("", &"é".repeat(11)), None);
/// ```
pub fn principal_of_subject(prefix: &str, subject: &str) -> Option<String> {
    let mut name = prefix.to_owned();
    for byte in subject.bytes() {
        match is_name_char(byte.into()) {
            true => name.push(byte.into()),
            false => name.push_str(&format!("~{byte:02X}")),
        }
        if name.len() > MAX_PRINCIPAL_BYTES {
            return None;
        }
    }
    (!subject.is_empty()).then_some(name)
}

/// Whether a text has 1 to 64 characters from `A-Z a-z 0-9 . _ -`, as names of principals and ids of keys have.
pub fn is_valid_word(text: &str) -> bool {
    (1..=MAX_PRINCIPAL_BYTES).contains(&text.len()) && text.chars().all(is_name_char)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_principals_have_escapes_and_nothing_else() {
        for good in ["a", "ann~40example.org", "~7E", "a~C3~A9", &"a".repeat(64)] {
            assert!(is_valid_principal(good), "{good}");
            assert_eq!(RoomName::parse(&format!("@{good}")).unwrap().inbox_of(), Some(good));
        }
        for bad in ["", "~", "a~", "a~4", "a~4g", "a~c3", "a@b", "~~", "a~4~40", &"a".repeat(65)] {
            assert!(!is_valid_principal(bad), "{bad}");
        }
        assert!(RoomName::parse("a~40").is_err(), "only inboxes have them");
        for subject in ["ann@example.org", "~", "é", "auth0|1", " "] {
            assert!(is_valid_principal(&principal_of_subject("", subject).unwrap()), "{subject}");
        }
        assert_eq!(principal_of_subject("app-", ""), None);
    }

    #[test]
    fn only_names_of_the_grammar_are_valid() {
        for good in ["a", "uniswap-v3:ethereum", "A.b_c-9:x:y", &"a".repeat(128)] {
            assert_eq!(RoomName::parse(good).unwrap().kind(), RoomKind::Ordinary, "{good}");
        }
        for bad in ["", ":", "a:", ":a", "a::b", "a b", "é", "a*", "**", "a@b", "@", "@a:b", &"a".repeat(129)]
        {
            assert_eq!(RoomName::parse(bad).unwrap_err().code, ErrorCode::RoomInvalid, "{bad}");
        }
        assert_eq!(RoomName::parse("*").unwrap().kind(), RoomKind::Broadcast);
        assert_eq!(RoomName::parse("@acme").unwrap().kind(), RoomKind::Inbox);
    }
}
