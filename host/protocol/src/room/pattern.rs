//! Patterns of room names, by which plugins govern rooms. Knows no plugin.

use super::is_name_char;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A pattern of room names: a name in which `*` ends a part and stands for any rest of that part, or `**`
/// ends the pattern and stands for any rest at all. `dydx:*` matches `dydx:eth-usd` but not `dydx:a:b`, which
/// `dydx:**` matches.
///
/// ```
/// use switchyard_protocol::room::RoomPattern;
///
/// let pattern = RoomPattern::try_from("dydx:*".to_owned()).unwrap();
/// assert!(pattern.matches("dydx:eth-usd") && !pattern.matches("dydx:a:b"));
/// ```
///
/// Letters match in either case: otherwise a client could bypass a plugin by spelling the name of its room
/// differently.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub struct RoomPattern(String);

/// Maximum length of a pattern, in bytes. Longer than any useful one.
const MAX_PATTERN_BYTES: usize = 256;

/// Why a text is not a [`RoomPattern`]. Holds the text, or its length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoomPattern {
    /// It is the name of an inbox, which no plugin governs.
    #[error("invalid room pattern '{0}'; a plugin cannot govern inboxes")]
    Inbox(String),
    /// It is longer than any room name.
    #[error("invalid room pattern of {0} bytes; at most {MAX_PATTERN_BYTES} are allowed")]
    TooLong(usize),
    /// It is not a room name with `*` or `**` in the right place.
    #[error(
        "invalid room pattern '{0}'; expected a room name in which '*' ends a part or '**' ends the pattern"
    )]
    Syntax(String),
}

impl TryFrom<String> for RoomPattern {
    type Error = InvalidRoomPattern;

    fn try_from(text: String) -> Result<Self, InvalidRoomPattern> {
        if text.starts_with('@') {
            return Err(InvalidRoomPattern::Inbox(text));
        }
        if text.len() > MAX_PATTERN_BYTES {
            return Err(InvalidRoomPattern::TooLong(text.len()));
        }
        let open = text.strip_suffix("**").unwrap_or(&text);
        let last = open.matches(':').count();
        for (n, part) in open.split(':').enumerate() {
            let last_is_open = open.len() < text.len() && n == last;
            let literal = part.strip_suffix('*').unwrap_or(part);
            let is_ambiguous = last_is_open && part.ends_with('*');
            if is_ambiguous || !literal.chars().all(is_name_char) || (part.is_empty() && !last_is_open) {
                return Err(InvalidRoomPattern::Syntax(text));
            }
        }
        Ok(Self(text))
    }
}

impl RoomPattern {
    /// Whether a room name, which must be valid, matches.
    pub fn matches(&self, room: &str) -> bool {
        matches(&self.0, room)
    }

    /// Whether every room name that the other pattern matches also matches this one.
    ///
    /// ```
    /// use switchyard_protocol::room::RoomPattern;
    ///
    /// let pattern = |text: &str| RoomPattern::try_from(text.to_owned()).unwrap();
    /// assert!(pattern("dydx:**").covers(&pattern("dydx:eth*")));
    /// assert!(!pattern("dydx:*").covers(&pattern("dydx:**")));
    /// ```
    pub fn covers(&self, other: &RoomPattern) -> bool {
        matches(&self.0, &other.0)
    }
}

impl fmt::Display for RoomPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a plugin with these patterns may govern a room, which must have a valid name. The room `*` and inboxes are
/// never governed.
///
/// ```
/// use switchyard_protocol::room::{RoomPattern, any_governs};
///
/// let patterns = ["trades", "**"].map(|text| RoomPattern::try_from(text.to_owned()).unwrap());
/// assert!(any_governs(&patterns, "dydx:eth-usd") && !any_governs(&patterns, "@acme"));
/// ```
pub fn any_governs(patterns: &[RoomPattern], room: &str) -> bool {
    !room.starts_with(['*', '@']) && patterns.iter().any(|pattern| pattern.matches(room))
}

/// Whether a pattern matches a room name, or all room names that another pattern matches.
fn matches(pattern: &str, room: &str) -> bool {
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
    // `a:*` would also match `a:`, but that is not a valid name.
    !room[..end].ends_with("**") && matches(after, &room[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_a_part_and_two_stars_match_everything() {
        let matches = |pattern: &str, room| RoomPattern::try_from(pattern.to_owned()).unwrap().matches(room);
        assert!(matches("trades", "Trades") && !matches("trades", "trades2"));
        assert!(
            matches("dydx:*", "DYDX:eth-usd") && !matches("dydx:*", "dydx:a:b") && !matches("dydx:*", "dydx")
        );
        assert!(matches("dydx:eth*", "dydx:eth") && matches("dydx:eth*", "dydx:eth-usd"));
        assert!(matches("*:ethereum", "uniswap-v3:ethereum") && !matches("*:ethereum", "a:b:ethereum"));
        assert!(matches("dydx:**", "dydx:a:b") && !matches("dydx:**", "dydx") && matches("**", "any:thing"));
        assert!(matches("dy**", "dy") && matches("dy**", "dydx:a"));
        for bad in ["", "a::b", "a*b", "**:a", "a:", "a b", "***"] {
            assert!(RoomPattern::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        let error = RoomPattern::try_from("@acme".to_owned()).unwrap_err().to_string();
        assert_eq!(error, "invalid room pattern '@acme'; a plugin cannot govern inboxes");
    }

    #[test]
    fn a_pattern_covers_another_if_it_matches_all_of_its_rooms() {
        let pattern = |text: &str| RoomPattern::try_from(text.to_owned()).unwrap();
        for (wide, narrow) in [
            ("**", "**"),
            ("**", "a:*"),
            ("a:**", "a:*:c"),
            ("a:*", "A:b*"),
            ("a:*", "a:*"),
            ("*:c", "a*:c"),
            ("a*", "ab"),
            ("a**", "a*:b"),
        ] {
            assert!(pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
            assert!(wide == narrow || !pattern(narrow).covers(&pattern(wide)), "{narrow} {wide}");
        }
        for (one, other) in [("a:*", "a:**"), ("*", "**"), ("a:*", "b:*"), ("a*:b", "*:b"), ("a:*", "a**")] {
            assert!(!pattern(one).covers(&pattern(other)), "{one} {other}");
        }
    }
}
