//! The script that writes the entries of a registry, such as the API keys.

use crate::{
    Unavailable,
    redis::{
        arguments,
        link::{Link, Replication},
        names::Names,
        replies, revision,
    },
};
use fred::types::Value;
use std::time::Duration;

script!(REGISTER = "register");

/// An entry to be written, unless a newer version of it is there.
pub(crate) struct EntryWrite<'a> {
    pub name: &'a str,
    /// `None`: newer than all entries that are there.
    pub version: Option<u64>,
    /// `None`: the entry is revoked.
    pub content: Option<&'a str>,
}

fn register_arguments<'a>(
    forget_after: Duration,
    entries: impl IntoIterator<Item = EntryWrite<'a>>,
) -> Vec<Value> {
    let entries = entries.into_iter().flat_map(|EntryWrite { name, version, content }| {
        let version = version.map_or_else(|| "".into(), arguments::integer);
        [Value::from(name), version, content.unwrap_or_default().into()]
    });
    [revision::new_epoch().into(), arguments::millis(forget_after)].into_iter().chain(entries).collect()
}

/// Writes entries of the registry of API keys. It forgets revoked entries after `forget_after`.
pub(crate) async fn write_keys<'a>(
    link: &Link,
    names: &Names,
    forget_after: Duration,
    entries: impl IntoIterator<Item = EntryWrite<'a>>,
) -> Result<(), Unavailable> {
    link.run(&REGISTER, vec![names.keys()], register_arguments(forget_after, entries)).await.map(drop)
}

/// Writes one entry of the registry of API keys, and waits a moment for the replicas. Returns whether the
/// entry was there before, and not revoked.
pub(crate) async fn write_key_replicated(
    link: &Link,
    names: &Names,
    forget_after: Duration,
    entry: EntryWrite<'_>,
) -> Result<(bool, Replication), Unavailable> {
    let arguments = register_arguments(forget_after, [entry]);
    let (before, replication) = link.run_replicated(&REGISTER, vec![names.keys()], arguments).await?;
    Ok((replies::number(&before)? == 1, replication))
}
