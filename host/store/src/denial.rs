//! Who and what is refused for a time: banned principals and addresses, and revoked tokens. Does not store them and
//! closes no connection.

mod entry;
mod registry;
mod table;
mod target;

pub use registry::{DenialRegistry, DenyError, StoredDenials};
pub use target::{AddressRange, DenialTarget, InvalidTarget};

pub(crate) use entry::DenialEntry;
pub(crate) use registry::{DenialEntries, merge};
pub(crate) use table::{DenialTable, KEPT_AFTER_END};

use std::{collections::HashMap, net::IpAddr, sync::Arc};

/// Maximum number of bans and revocations that are in force at a time.
pub const MAX_DENIALS: usize = 10_000;
/// Maximum number of those that were lifted or have ended, and are remembered in case a node still knows them as
/// they were. Beyond it, the oldest are forgotten.
pub(crate) const MAX_PAST_DENIALS: usize = 10_000;

/// One ban or revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Who or what is refused.
    pub target: DenialTarget,
    /// When it was decided, in Unix milliseconds.
    pub since: u64,
    /// When it ends, in Unix milliseconds.
    pub until: u64,
}

/// From when to when something is refused, in Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period {
    pub since: u64,
    pub until: u64,
}

/// Everything that is refused, as a node knows it. Those that have ended since it was read are in it, but refuse
/// nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Denials {
    principals: HashMap<Arc<str>, Period>,
    addresses: HashMap<AddressRange, Period>,
    tokens: HashMap<Arc<str>, Period>,
    tokens_of: HashMap<Arc<str>, Period>,
}

impl Denials {
    /// Until when this principal is banned, if it is at the time `now`. Both are Unix milliseconds.
    pub fn principal(&self, principal: &str, now: u64) -> Option<u64> {
        end_of(self.principals.get(principal), now)
    }

    /// Until when this address is banned, if it is at the time `now`. Both are Unix milliseconds.
    pub fn address(&self, address: IpAddr, now: u64) -> Option<u64> {
        end_of(self.addresses.get(&AddressRange::of(address)), now)
    }

    /// Whether a token is revoked at the time `now`: by its id, or because its principal's tokens that were issued
    /// before a revocation are. `issued_at` and `now` are Unix milliseconds. A token that does not say when it was
    /// issued counts as issued before.
    pub fn token(&self, id: Option<&str>, principal: &str, issued_at: Option<u64>, now: u64) -> bool {
        if id.is_some_and(|id| end_of(self.tokens.get(id), now).is_some()) {
            return true;
        }
        let Some(period) = self.tokens_of.get(principal) else { return false };
        now < period.until && issued_at.is_none_or(|issued_at| issued_at < period.since)
    }

    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        let Self { principals, addresses, tokens, tokens_of } = self;
        principals.is_empty() && addresses.is_empty() && tokens.is_empty() && tokens_of.is_empty()
    }

    /// The one about this target, if it is in force at the time `now`.
    pub fn of(&self, target: &DenialTarget, now: u64) -> Option<Denial> {
        let period = match target {
            DenialTarget::Principal(name) => self.principals.get(name),
            DenialTarget::Address(range) => self.addresses.get(range),
            DenialTarget::Token(id) => self.tokens.get(id),
            DenialTarget::TokensOf(principal) => self.tokens_of.get(principal),
        };
        let Period { since, until } = *period.filter(|period| now < period.until)?;
        Some(Denial { target: target.clone(), since, until })
    }

    /// All that are in force at the time `now`, sorted by target.
    pub fn list(&self, now: u64) -> Vec<Denial> {
        let of = |target: DenialTarget, period: &Period| {
            let Period { since, until } = *period;
            (now < until).then_some(Denial { target, since, until })
        };
        let principals =
            self.principals.iter().map(|(name, at)| of(DenialTarget::Principal(name.clone()), at));
        let addresses = self.addresses.iter().map(|(range, at)| of(DenialTarget::Address(*range), at));
        let tokens = self.tokens.iter().map(|(id, at)| of(DenialTarget::Token(id.clone()), at));
        let tokens_of = self.tokens_of.iter().map(|(name, at)| of(DenialTarget::TokensOf(name.clone()), at));
        let mut all: Vec<_> = principals.chain(addresses).chain(tokens).chain(tokens_of).flatten().collect();
        all.sort_by(|a, b| a.target.cmp(&b.target));
        all
    }

    /// The same without bans of addresses that some rule excepts, such as proxies.
    #[must_use]
    pub fn without_addresses(mut self, is_excepted: impl Fn(AddressRange) -> bool) -> Self {
        self.addresses.retain(|range, _| !is_excepted(*range));
        self
    }

    fn insert(&mut self, target: DenialTarget, period: Period) {
        match target {
            DenialTarget::Principal(name) => self.principals.insert(name, period),
            DenialTarget::Address(range) => self.addresses.insert(range, period),
            DenialTarget::Token(id) => self.tokens.insert(id, period),
            DenialTarget::TokensOf(principal) => self.tokens_of.insert(principal, period),
        };
    }
}

impl FromIterator<Denial> for Denials {
    fn from_iter<I: IntoIterator<Item = Denial>>(all: I) -> Self {
        let mut denials = Self::default();
        for Denial { target, since, until } in all {
            denials.insert(target, Period { since, until });
        }
        denials
    }
}

fn end_of(period: Option<&Period>, now: u64) -> Option<u64> {
    period.map(|period| period.until).filter(|until| now < *until)
}

#[cfg(test)]
mod tests;
