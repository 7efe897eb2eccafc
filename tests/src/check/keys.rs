//! Reads sessions, members and nodes from Redis. Only this module knows the keys, of either schema.

use crate::Redis;
use std::collections::{BTreeMap, BTreeSet};

/// The contents of Redis at one moment.
#[derive(Debug, Default)]
pub struct Keys {
    /// The sessions by key, with the connection that holds each.
    pub sessions: BTreeMap<String, Option<String>>,
    /// The members of each room.
    pub members: BTreeMap<String, usize>,
    /// The number of connections of each principal.
    pub connections: BTreeMap<String, u64>,
    /// The number of sessions that nodes own.
    pub owned_entries: usize,
    /// The names of nodes that own something.
    pub owner_nodes: BTreeSet<String>,
    pub leases: usize,
    pub dead: usize,
    pub ends: usize,
}

const PREFIX: &str = "switchyard";

/// The part of a key in braces.
fn tag(key: &str) -> &str {
    key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(tag, _)| tag)
}

async fn list(redis: &Redis, words: &[&str]) -> Vec<String> {
    let text = redis.try_command(words).await.unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

async fn number(redis: &Redis, words: &[&str]) -> usize {
    redis.try_command(words).await.ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub async fn read(redis: &Redis) -> Keys {
    let connection = match redis.try_command(&["GET", &format!("{PREFIX}:schema")]).await.as_deref() {
        Ok("1") => "/connection",
        _ => "conn",
    };
    let mut keys = Keys::default();
    for key in list(redis, &["KEYS", &format!("{PREFIX}:*")]).await {
        if key.contains("}:session:") {
            let holder = redis.try_command(&["HGET", &key, connection]).await.unwrap_or_default();
            // Later schemas keep the holder's name after it has released the session.
            let is_held = redis.try_command(&["HEXISTS", &key, "until"]).await.as_deref() != Ok("1");
            keys.sessions.insert(key, Some(holder).filter(|holder| !holder.is_empty() && is_held));
        } else if key.ends_with("}:members") {
            keys.members.insert(tag(&key).to_owned(), number(redis, &["ZCARD", &key]).await);
        } else if key.ends_with("}:connections") {
            let counts = list(redis, &["HVALS", &key]).await;
            let count = counts.iter().filter_map(|count| count.parse::<u64>().ok()).sum();
            keys.connections.insert(tag(&key).trim_start_matches('@').to_owned(), count);
        } else if key.ends_with("}:estate") {
            let entries = list(redis, &["SMEMBERS", &key]).await;
            keys.owned_entries += entries.iter().filter(|entry| entry.contains(' ')).count();
            keys.owner_nodes.insert(tag(&key).to_owned());
        }
    }
    let nodes = |name: &str| format!("{PREFIX}:{{/nodes}}:{name}");
    keys.leases = number(redis, &["ZCARD", &nodes("leases")]).await;
    keys.dead = number(redis, &["ZCARD", &nodes("dead")]).await;
    keys.ends = number(redis, &["ZCARD", &nodes("ends")]).await;
    keys
}

/// The number of commands that Redis has executed so far.
pub async fn commands(redis: &Redis) -> u64 {
    let info = redis.try_command(&["INFO", "stats"]).await.unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}
