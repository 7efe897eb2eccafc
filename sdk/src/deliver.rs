//! The hook `deliver`: which filters does a message pass.

use crate::{Message, Plugin};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How the host answers for a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Every message passes; the plugin is not called.
    All,
    /// No message passes; the plugin is not called.
    None,
    /// The plugin is asked, in one call for all filters of the room.
    Ask,
}

/// Typed filters. The SDK keeps them under the host's numbers, so that a hook sees only filters and messages.
///
/// Listing `deliver` in [`crate::export!`] also answers the host's `subscribe` hook with the filter's canonical
/// form: the normalized filter, written by serde. Filters that mean the same are then one to the host.
pub trait Deliver: Plugin {
    /// A client's filter. Put `#[serde(deny_unknown_fields)]` on it, or a misspelt field filters nothing;
    /// and keep `HashMap` out of it, whose order would make equal filters differ.
    type Filter: DeserializeOwned + Serialize + 'static;

    /// What of a message the filters look at; it may borrow from the message.
    type Parsed<'a>;

    /// Once a message, however many filters there are. `None` matches no filter.
    fn parse<'a>(&self, message: Message<'a>) -> Option<Self::Parsed<'a>>;

    /// Once a message and filter: keep it cheap, everything that can be prepared belongs into the others.
    fn matches(&self, filter: &Self::Filter, parsed: &Self::Parsed<'_>) -> bool;

    /// Checks a filter and brings it into its one spelling (lists sorted, names in lower case). What it answers
    /// is given to it again when the host compiles the filter, so it must leave that as it is.
    ///
    /// # Errors
    /// Which field is wrong and what would be right; the client reads it.
    fn normalize(&self, filter: Self::Filter) -> Result<Self::Filter, String> {
        Ok(filter)
    }

    /// Saves calls for filters that need none. `filter` is normalized.
    fn plan(&self, filter: &Self::Filter) -> Plan {
        let _ = filter;
        Plan::Ask
    }
}
