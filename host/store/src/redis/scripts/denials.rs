//! The script that writes bans and revocations.

use crate::{
    Unavailable,
    denial::{KEPT_AFTER_END, MAX_DENIALS, MAX_PAST_DENIALS, Period},
    redis::{arguments, link::Link, names::Names, replies, revision},
};
use fred::types::Value;

script!(DENY = "deny");

/// An entry to be written, unless a newer version of it is there.
pub(crate) struct DenialWrite<'a> {
    pub name: &'a str,
    /// `None`: newer than all entries that are there.
    pub version: Option<u64>,
    /// `None`: as before.
    pub forgotten_at: Option<u64>,
    /// `None`: it is lifted.
    pub period: Option<Period>,
}

/// The result of writing entries.
pub(crate) enum DenialsWritten {
    /// How many of them were in force before.
    All(u64),
    /// Some were not written, because too many are in force.
    Full,
    /// A new one would have ended already, by the clock of Redis.
    Ended,
}

pub(crate) async fn write<'a>(
    link: &Link,
    names: &Names,
    entries: impl IntoIterator<Item = DenialWrite<'a>>,
) -> Result<DenialsWritten, Unavailable> {
    let number = |number: Option<u64>| number.map_or_else(|| "".into(), arguments::integer);
    let entries = entries.into_iter().flat_map(|DenialWrite { name, version, forgotten_at, period }| {
        let period = period.map(|Period { since, until }| format!("{since} {until}")).unwrap_or_default();
        [Value::from(name), number(version), number(forgotten_at), period.into()]
    });
    let bounds = [MAX_DENIALS, MAX_PAST_DENIALS].map(|bound| arguments::integer(bound as u64));
    let arguments = [revision::new_epoch().into()].into_iter().chain(bounds);
    let arguments = arguments.chain([arguments::millis(KEPT_AFTER_END)]).chain(entries).collect();
    let written = link.run(&DENY, vec![names.denials()], arguments).await?;
    match written {
        Value::Integer(-1) => Ok(DenialsWritten::Full),
        Value::Integer(-2) => Ok(DenialsWritten::Ended),
        written => Ok(DenialsWritten::All(replies::number(&written)?)),
    }
}
