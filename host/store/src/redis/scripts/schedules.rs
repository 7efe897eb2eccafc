//! The scripts for sorted sets of what is due at some time: sessions that end, dead nodes, rooms to be checked.

use crate::{
    Unavailable,
    redis::{arguments, link::Link, names::Names, replies},
};
use fred::types::Value;
use std::sync::Arc;

script!(CLAIM_DUE = "claim_due");
script!(UNSCHEDULE = "unschedule");
script!(UNLIST_ROOMS = "unlist_rooms");

/// Which entries a node claims.
pub(crate) struct Claim {
    /// Cluster time in milliseconds: entries with this score or a lower one are due.
    pub now: u64,
    /// The new score of claimed entries, after which another node is given them.
    pub until: u64,
    /// The maximum number of entries.
    pub max_entries: u64,
    /// In milliseconds by Redis' clock. After it nobody receives the reply, so nothing is claimed.
    pub deadline: u64,
}

/// Claims the entries of a list that are due.
pub(crate) async fn claim_due(
    link: &Link,
    list: String,
    claim: &Claim,
) -> Result<Vec<Arc<str>>, Unavailable> {
    let arguments = [claim.now, claim.until, claim.max_entries, claim.deadline].map(arguments::integer);
    Ok(replies::texts(link.run(&CLAIM_DUE, vec![list], arguments.into()).await?)?)
}

/// Removes entries from a list, each unless its score has changed since.
pub(crate) async fn remove(
    link: &Link,
    list: String,
    entries: &[(impl AsRef<str>, u64)],
) -> Result<(), Unavailable> {
    let arguments =
        entries.iter().flat_map(|(entry, score)| [Value::from(entry.as_ref()), arguments::integer(*score)]);
    link.run(&UNSCHEDULE, vec![list], arguments.collect()).await.map(drop)
}

/// A room that does not exist, and the time of its next check as it was found, if it had one.
pub(crate) type GoneRoom<'a> = (&'a str, Option<u64>);

/// Removes rooms that are gone from the list of rooms, each unless it was listed again since. Returns how
/// many were removed.
pub(crate) async fn unlist_rooms(
    link: &Link,
    names: &Names,
    rooms: &[GoneRoom<'_>],
) -> Result<u64, Unavailable> {
    let score = |check: Option<u64>| check.map_or_else(|| "".into(), arguments::integer);
    let arguments = rooms.iter().flat_map(|(room, check)| [Value::from(*room), score(*check)]).collect();
    let removed = link.run(&UNLIST_ROOMS, vec![names.rooms(), names.checks()], arguments).await?;
    Ok(replies::number(&removed)?)
}
