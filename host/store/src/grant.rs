//! Grants: in which rooms a key may do what. Knows no keys.

use serde::{Deserialize, Serialize};
use std::fmt;
use switchyard_protocol::room::{InvalidRoomPattern, RoomKind, RoomName, RoomPattern, is_valid_principal};

/// Maximum number of grants of a key. Each request compares its room with all of them.
const MAX_GRANTS: usize = 100;

/// What a key may do in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Joining it, and reading its history and members.
    Subscribe,
    /// Publishing to it, and reading receipts.
    Publish,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 2] = [Self::Subscribe, Self::Publish];

    /// The verb as it is written in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
        }
    }
}

/// An entry of `key.rooms`: what a key may do in the rooms that match.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RoomGrant {
    /// The rooms.
    #[serde(rename = "match")]
    pub rooms: GrantPattern,
    /// What it may do there.
    pub allow: Vec<Verb>,
}

impl RoomGrant {
    /// Whether this entry allows something in a room.
    ///
    /// ```
    /// use switchyard_protocol::room::RoomName;
    /// use switchyard_store::grant::{RoomGrant, Verb};
    ///
    /// let grant: RoomGrant = "dydx:*=subscribe".parse().unwrap();
    /// let room = RoomName::parse("dydx:eth-usd").unwrap();
    /// assert!(grant.allows(Verb::Subscribe, &room) && !grant.allows(Verb::Publish, &room));
    /// ```
    pub fn allows(&self, verb: Verb, room: &RoomName) -> bool {
        self.allow.contains(&verb) && self.rooms.matches(room)
    }
}

/// All grants of a key: `key.rooms`. A key that has them may do nothing in other rooms.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "Vec<RoomGrant>")]
pub struct Grants(Vec<RoomGrant>);

/// A list that cannot be the grants of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrants {
    /// There are too many.
    #[error(
        "{0} entries; at most {MAX_GRANTS} are allowed, and a pattern such as 'dydx:*' covers many rooms"
    )]
    TooMany(usize),
    /// One of them allows nothing.
    #[error("the entry for '{0}' allows nothing; expected subscribe, publish or both")]
    Nothing(GrantPattern),
}

impl TryFrom<Vec<RoomGrant>> for Grants {
    type Error = InvalidGrants;

    fn try_from(grants: Vec<RoomGrant>) -> Result<Self, InvalidGrants> {
        if grants.len() > MAX_GRANTS {
            return Err(InvalidGrants::TooMany(grants.len()));
        }
        match grants.iter().find(|grant| grant.allow.is_empty()) {
            Some(empty) => Err(InvalidGrants::Nothing(empty.rooms.clone())),
            None => Ok(Self(grants)),
        }
    }
}

impl Grants {
    /// Whether one of them allows something in a room.
    pub fn allow(&self, verb: Verb, room: &RoomName) -> bool {
        self.0.iter().any(|grant| grant.allows(verb, room))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &RoomGrant> {
        self.0.iter()
    }
}

impl fmt::Display for RoomGrant {
    /// As in `switchyard key add --allow`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verbs: Vec<_> = self.allow.iter().map(|verb| verb.as_str()).collect();
        write!(f, "{}={}", self.rooms, verbs.join(","))
    }
}

/// A text that is not a grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrant {
    /// The rooms are wrong.
    #[error(transparent)]
    Pattern(#[from] InvalidGrantPattern),
    /// There is no `=`, or nothing after it.
    #[error("expected rooms and what is allowed there, such as 'dydx:*=subscribe,publish'")]
    Syntax,
    /// There is no such verb.
    #[error("unknown verb '{0}', expected subscribe or publish")]
    Verb(String),
}

impl std::str::FromStr for RoomGrant {
    type Err = InvalidGrant;

    fn from_str(text: &str) -> Result<Self, InvalidGrant> {
        let (rooms, verbs) = text.split_once('=').ok_or(InvalidGrant::Syntax)?;
        let verb = |name: &str| {
            let verb = Verb::ALL.into_iter().find(|verb| verb.as_str() == name.trim());
            verb.ok_or_else(|| InvalidGrant::Verb(name.trim().to_owned()))
        };
        if verbs.trim().is_empty() {
            return Err(InvalidGrant::Syntax);
        }
        let rooms = GrantPattern::try_from(rooms.trim().to_owned())?;
        Ok(Self { rooms, allow: verbs.split(',').map(verb).collect::<Result<_, _>>()? })
    }
}

/// Which rooms a grant is about. It never matches `*`, which is a matter of scopes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum GrantPattern {
    /// Ordinary rooms.
    Rooms(RoomPattern),
    /// `@*`: all inboxes.
    Inboxes,
    /// `@NAME`: the inbox of this principal.
    Inbox(String),
}

impl GrantPattern {
    /// Whether a room matches.
    pub fn matches(&self, room: &RoomName) -> bool {
        match self {
            Self::Rooms(pattern) => room.kind() == RoomKind::Ordinary && pattern.matches(room),
            Self::Inboxes => room.kind() == RoomKind::Inbox,
            Self::Inbox(principal) => room.inbox_of() == Some(principal),
        }
    }

    /// Whether every room that the other pattern matches also matches this one.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rooms(pattern), Self::Rooms(other)) => pattern.covers(other),
            (Self::Inboxes, Self::Inboxes | Self::Inbox(_)) => true,
            (Self::Inbox(principal), Self::Inbox(other)) => principal == other,
            _ => false,
        }
    }
}

/// A text that is not a [`GrantPattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrantPattern {
    /// It begins with `@`, and is no inbox.
    #[error("invalid inbox '{0}'; expected '@' and the name of a principal, or '@*' for all inboxes")]
    Inbox(String),
    /// It is no pattern of room names.
    #[error(transparent)]
    Rooms(#[from] InvalidRoomPattern),
}

impl TryFrom<String> for GrantPattern {
    type Error = InvalidGrantPattern;

    fn try_from(text: String) -> Result<Self, InvalidGrantPattern> {
        match text.strip_prefix('@') {
            None => Ok(Self::Rooms(text.try_into()?)),
            Some("*") => Ok(Self::Inboxes),
            Some(principal) if is_valid_principal(principal) => Ok(Self::Inbox(principal.to_owned())),
            Some(_) => Err(InvalidGrantPattern::Inbox(text)),
        }
    }
}

impl From<GrantPattern> for String {
    fn from(pattern: GrantPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for GrantPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rooms(pattern) => pattern.fmt(f),
            Self::Inboxes => f.write_str("@*"),
            Self::Inbox(principal) => write!(f, "@{principal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_matches_the_rooms_of_its_kind() {
        let room = |name: &str| RoomName::parse(name).unwrap();
        for (pattern, matching, other) in [
            ("dydx:*", "dydx:eth-usd", "dydx:a:b"),
            ("**", "a:b", "@acme"),
            ("**", "a", "*"),
            ("*", "a", "*"),
            ("@*", "@acme", "acme"),
            ("@*", "@acme", "*"),
            ("@acme", "@acme", "@acme2"),
            ("@acme", "@acme", "@Acme"),
        ] {
            let pattern = GrantPattern::try_from(pattern.to_owned()).unwrap();
            assert!(pattern.matches(&room(matching)) && !pattern.matches(&room(other)), "{pattern} {other}");
        }
    }

    #[test]
    fn the_grants_of_a_key_are_bounded_and_allow_something() {
        let grants = |text: &str, count: usize| Grants::try_from(vec![text.parse().unwrap(); count]);
        let room = RoomName::parse("dydx:eth-usd").unwrap();
        let allowed = grants("dydx:*=publish", MAX_GRANTS).unwrap();
        assert!(allowed.allow(Verb::Publish, &room) && !allowed.allow(Verb::Subscribe, &room));
        assert!(!Grants::default().allow(Verb::Publish, &room));
        assert_eq!(grants("a=publish", MAX_GRANTS + 1), Err(InvalidGrants::TooMany(MAX_GRANTS + 1)));
        let nothing = serde_json::from_str::<Grants>(r#"[{"match":"a","allow":[]}]"#).unwrap_err();
        assert!(nothing.to_string().starts_with("the entry for 'a' allows nothing"), "{nothing}");
    }

    #[test]
    fn a_grant_is_written_as_text_and_as_a_table() {
        let text = "@*=subscribe,publish";
        let grant: RoomGrant = text.parse().unwrap();
        assert_eq!(grant.to_string(), text);
        let json = serde_json::to_string(&grant).unwrap();
        assert_eq!(json, r#"{"match":"@*","allow":["subscribe","publish"]}"#);
        assert_eq!(serde_json::from_str::<RoomGrant>(&json).unwrap(), grant);
        let error = |text: &str| text.parse::<RoomGrant>().unwrap_err().to_string();
        assert_eq!(error("dydx:*"), InvalidGrant::Syntax.to_string());
        assert_eq!(error("dydx:*="), InvalidGrant::Syntax.to_string());
        assert_eq!(error("dydx:*=write"), "unknown verb 'write', expected subscribe or publish");
        assert!(error("@a b=publish").starts_with("invalid inbox '@a b'; expected"));
        assert!(error("a::b=publish").starts_with("invalid room pattern 'a::b'"));
    }
}
