//! The hook `deliver`: which filters a message passes.

use crate::{Message, Plugin};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Whether the host has to call the plugin to evaluate a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Every message passes. The host does not call the plugin.
    All,
    /// No message passes. The host does not call the plugin.
    None,
    /// The host asks the plugin about each message, in one call for all filters of the room.
    Ask,
}

/// The hook `deliver`, with typed filters. List it in [`crate::export!`].
///
/// The SDK stores the filters under the ids that the host assigns, so a plugin sees only filters and
/// messages.
///
/// Listing `deliver` in [`crate::export!`] also provides the host's `subscribe` hook, which returns the
/// filter in canonical form: normalized, then serialized by serde. The host then treats filters with the same
/// meaning as one.
pub trait Deliver: Plugin {
    /// A client's filter. Add `#[serde(deny_unknown_fields)]`, or a misspelled field filters nothing. Do not
    /// use `HashMap` in it: its order makes equal filters differ.
    type Filter: DeserializeOwned + Serialize + 'static;

    /// The parts of a message that filters look at. It may borrow from the message.
    type Parsed<'a>;

    /// Reads a message. The SDK calls this once per message, however many filters there are. With `None`, the
    /// message passes no filter.
    fn parse<'a>(&self, message: Message<'a>) -> Option<Self::Parsed<'a>>;

    /// Whether the message passes the filter. The SDK calls this once per message and filter, so keep it
    /// cheap: prepare what you can in [`parse`](Self::parse) and [`normalize`](Self::normalize).
    fn matches(&self, filter: &Self::Filter, parsed: &Self::Parsed<'_>) -> bool;

    /// Checks a filter and brings it into canonical form, for example with sorted lists and names in lower
    /// case. It must be idempotent, because the SDK calls it again when the host compiles the canonical
    /// filter. By default, it returns the filter unchanged.
    ///
    /// # Errors
    /// Which field is wrong, and what would be right. The client sees this text after `filter: `, cut to 512
    /// bytes.
    fn normalize(&self, filter: Self::Filter) -> Result<Self::Filter, String> {
        Ok(filter)
    }

    /// Identifies filters that need no call per message. `filter` is normalized. By default, every filter
    /// needs one.
    fn plan(&self, filter: &Self::Filter) -> Plan {
        let _ = filter;
        Plan::Ask
    }

    /// A JSON Schema of [`Deliver::Filter`], for those who write clients. By default it is made from the type, with
    /// [`schema_of`](crate::schema_of). The host shows it and refuses no filter because of it.
    fn filter_schema() -> Option<String> {
        Some(crate::schema_of::<Self::Filter>())
    }
}
