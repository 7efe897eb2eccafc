//! What a room may be called, and the patterns by which plugins govern rooms. Knows no members.

use crate::{Code, Refusal};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Bytes of a name.
pub const MAX_NAME: usize = 128;
/// The room that everyone hears.
pub const BROADCAST: &str = "*";

/// A name of valid form. Clones share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomName(Arc<str>);

/// Who may reach a room and how: only ordinary rooms are subscribed, and only they have governors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Broadcast,
    Inbox,
    Ordinary,
}

impl RoomName {
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        let refuse = |why: String| {
            let right = "1 to 128 of A-Z a-z 0-9 . _ - in parts joined by single colons";
            Err(Refusal::new(Code::RoomInvalid, format!("room {why}; a name is {right}")))
        };
        if name == BROADCAST {
            return Ok(Self(name.into()));
        }
        if let Some(principal) = name.strip_prefix('@') {
            return match is_principal(principal) {
                true => Ok(Self(name.into())),
                false => refuse("is no inbox: @ and a principal's name".into()),
            };
        }
        if name.is_empty() {
            return refuse("is empty".into());
        }
        if name.len() > MAX_NAME {
            return refuse(format!("has {} bytes", name.len()));
        }
        if let Some(bad) = name.chars().find(|c| !(is_plain(*c) || *c == ':')) {
            return refuse(format!("'{}' holds {bad:?}", name.escape_debug()));
        }
        if name.split(':').any(str::is_empty) {
            return refuse(format!("'{name}' has an empty part"));
        }
        Ok(Self(name.into()))
    }

    pub fn broadcast() -> Self {
        Self(BROADCAST.into())
    }

    pub fn inbox(principal: &str) -> Self {
        Self(format!("@{principal}").into())
    }

    /// Whose inbox it is.
    pub fn inbox_of(&self) -> Option<&str> {
        self.0.strip_prefix('@')
    }

    pub fn kind(&self) -> Kind {
        match self.0.as_bytes()[0] {
            b'*' => Kind::Broadcast,
            b'@' => Kind::Inbox,
            _ => Kind::Ordinary,
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

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

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// A principal's name: short enough that its inbox is a valid room.
pub fn is_principal(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(is_plain)
}

/// Rooms by pattern: `*` stands for any rest of one part, `**` at the end for any rest. Letters match in either
/// case, so that nobody opens an ungoverned room beside a governed one by writing its name differently.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let open = text.strip_suffix("**").unwrap_or(&text);
        for (n, part) in open.split(':').enumerate() {
            let last_is_open = open.len() < text.len() && n == open.matches(':').count();
            let literal = part.strip_suffix('*').unwrap_or(part);
            let unclear = last_is_open && part.ends_with('*');
            if unclear || !literal.chars().all(is_plain) || (part.is_empty() && !last_is_open) {
                let right = "a room name in which '*' ends a part or '**' ends the pattern";
                return Err(format!("'{text}' is no pattern of rooms, which is {right}"));
            }
        }
        Ok(Self(text))
    }
}

impl Pattern {
    pub fn matches(&self, room: &str) -> bool {
        fn rest(pattern: &str, room: &str) -> bool {
            let Some(star) = pattern.find('*') else { return pattern.eq_ignore_ascii_case(room) };
            let (literal, after) = (&pattern[..star], &pattern[star + 1..]);
            if !room.get(..star).is_some_and(|start| start.eq_ignore_ascii_case(literal)) {
                return false;
            }
            let room = &room[star..];
            if after == "*" {
                return !room.is_empty() || !(literal.is_empty() || literal.ends_with(':'));
            }
            let end = room.find(':').unwrap_or(room.len());
            // A whole part is at least one byte, so `a:*` is not met by `a:`, which is no name anyway.
            rest(after, &room[end..])
        }
        rest(&self.0, room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for good in ["a", "uniswap-v3:ethereum", "A.b_c-9:x:y", &"a".repeat(128)] {
            assert_eq!(RoomName::parse(good).unwrap().kind(), Kind::Ordinary, "{good}");
        }
        for bad in ["", ":", "a:", ":a", "a::b", "a b", "é", "a*", "**", "a@b", "@", "@a:b", &"a".repeat(129)]
        {
            assert_eq!(RoomName::parse(bad).unwrap_err().code, Code::RoomInvalid, "{bad}");
        }
        assert_eq!(RoomName::parse("*").unwrap().kind(), Kind::Broadcast);
        assert_eq!(RoomName::parse("@acme").unwrap().kind(), Kind::Inbox);
    }

    #[test]
    fn patterns_end_a_part_or_everything() {
        let matches = |pattern: &str, room| Pattern::try_from(pattern.to_owned()).unwrap().matches(room);
        assert!(matches("trades", "Trades") && !matches("trades", "trades2"));
        assert!(
            matches("dydx:*", "DYDX:eth-usd") && !matches("dydx:*", "dydx:a:b") && !matches("dydx:*", "dydx")
        );
        assert!(matches("dydx:eth*", "dydx:eth") && matches("dydx:eth*", "dydx:eth-usd"));
        assert!(matches("*:ethereum", "uniswap-v3:ethereum") && !matches("*:ethereum", "a:b:ethereum"));
        assert!(matches("dydx:**", "dydx:a:b") && !matches("dydx:**", "dydx") && matches("**", "any:thing"));
        assert!(matches("dy**", "dy") && matches("dy**", "dydx:a"));
        for bad in ["", "a::b", "a*b", "**:a", "a:", "a b", "***"] {
            assert!(Pattern::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
