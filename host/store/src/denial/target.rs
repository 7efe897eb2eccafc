//! What a ban or a revocation is about, and how that is written in the store. Knows no times.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};
use switchyard_protocol::room::is_valid_principal;

/// Maximum length of the id of a token that can be revoked, in bytes. It bounds what nodes and the store keep.
const MAX_TOKEN_ID_BYTES: usize = 256;

/// What a ban or a revocation is about. Displayed and parsed as it is written in the store: a word for the kind, a
/// space, and the rest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DenialTarget {
    /// A banned principal.
    Principal(Arc<str>),
    /// Banned addresses.
    Address(AddressRange),
    /// A revoked token, by its id (`jti`).
    Token(Arc<str>),
    /// The revoked tokens of a principal: those that were issued before the revocation.
    TokensOf(Arc<str>),
}

/// The addresses that are banned, and counted, together: a single IPv4 address, or an IPv6 /64, because one customer
/// usually has all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressRange(IpAddr);

/// A text that cannot be the target of a ban or revocation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// It is not the name of a principal.
    #[error("invalid principal '{}'; expected 1 to 64 of the characters A-Z a-z 0-9 . _ -, and ~XX for each other byte", .0.escape_debug())]
    Principal(String),
    /// It is not an address, or another range than an IPv6 /64.
    #[error(
        "invalid address '{}'; expected an IPv4 address such as 192.0.2.7, or an IPv6 address or /64 such as 2001:db8::/64",
        .0.escape_debug()
    )]
    Address(String),
    /// It is not the id of a token. The error does not repeat it, because it may be the token itself.
    #[error(
        "invalid id of a token; expected its claim `jti`, which has 1 to {MAX_TOKEN_ID_BYTES} bytes and no control characters"
    )]
    Token,
}

impl DenialTarget {
    /// A principal with this name.
    ///
    /// # Errors
    ///
    /// If it is not the name of a principal.
    pub fn principal(name: &str) -> Result<Self, InvalidTarget> {
        valid_principal(name).map(Self::Principal)
    }

    /// The tokens of a principal with this name.
    ///
    /// # Errors
    ///
    /// If it is not the name of a principal.
    pub fn tokens_of(principal: &str) -> Result<Self, InvalidTarget> {
        valid_principal(principal).map(Self::TokensOf)
    }

    /// The token with this id.
    ///
    /// # Errors
    ///
    /// If the id is empty or too long, or contains control characters.
    pub fn token(id: &str) -> Result<Self, InvalidTarget> {
        let is_valid = (1..=MAX_TOKEN_ID_BYTES).contains(&id.len()) && !id.chars().any(char::is_control);
        if is_valid { Ok(Self::Token(id.into())) } else { Err(InvalidTarget::Token) }
    }

    /// Its kind, as the store and answers name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Principal(_) => "principal",
            Self::Address(_) => "address",
            Self::Token(_) => "token",
            Self::TokensOf(_) => "tokens",
        }
    }

    /// Whether it is a revocation of tokens, not a ban.
    pub fn is_of_tokens(&self) -> bool {
        matches!(self, Self::Token(_) | Self::TokensOf(_))
    }

    /// What it names, without the kind.
    pub fn name(&self) -> String {
        match self {
            Self::Principal(name) | Self::Token(name) | Self::TokensOf(name) => name.to_string(),
            Self::Address(range) => range.to_string(),
        }
    }

    /// What [`Display`](fmt::Display) shows. `None`: a later version of Switchyard may have written it.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(' ')?;
        match kind {
            "principal" => Self::principal(name).ok(),
            "address" => AddressRange::parse(name).ok().map(Self::Address),
            "token" => Self::token(name).ok(),
            "tokens" => Self::tokens_of(name).ok(),
            _ => None,
        }
    }
}

fn valid_principal(name: &str) -> Result<Arc<str>, InvalidTarget> {
    match is_valid_principal(name) {
        true => Ok(name.into()),
        false => Err(InvalidTarget::Principal(name.to_owned())),
    }
}

impl fmt::Display for DenialTarget {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

impl AddressRange {
    /// The range that an address is in.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !0 << 64)),
        })
    }

    /// Parses an address, which means its whole range, or an IPv6 /64.
    ///
    /// # Errors
    ///
    /// If the text is something else.
    pub fn parse(text: &str) -> Result<Self, InvalidTarget> {
        let invalid = || InvalidTarget::Address(text.to_owned());
        let address = text.strip_suffix("/64").unwrap_or(text);
        let parsed: IpAddr = address.parse().map_err(|_| invalid())?;
        match (parsed.to_canonical(), address == text) {
            (IpAddr::V4(_), false) => Err(invalid()),
            _ => Ok(Self::of(parsed)),
        }
    }

    /// Its first address.
    pub fn first(self) -> IpAddr {
        self.0
    }

    /// Whether an address is in it.
    pub fn contains(self, address: IpAddr) -> bool {
        Self::of(address) == self
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}
