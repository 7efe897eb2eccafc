//! The idempotency keys of messages that this node has stored recently, so that it knows some repetitions without
//! asking Redis. Never says that a message was not stored: other nodes publish, too.

use std::{collections::HashMap, mem, sync::Mutex};
use switchyard_process::lock::LockExt;
use switchyard_protocol::Position;
use tokio::time::Instant;

/// How many keys are added before the older ones are forgotten. Twice as many are remembered at most, which takes 4 MiB
/// with keys of 100 bytes, and 8 MiB with the longest rooms, principals and keys. A principal with very many keys makes others' repetitions unknown, which costs them a call of the plugin.
const MAX_KEYS_PER_SET: usize = 8192;

/// Recent keys, by their names in Redis.
#[derive(Default)]
pub(crate) struct RecentKeys(Mutex<KeySets>);

#[derive(Default)]
struct KeySets {
    current: HashMap<String, RecentKey>,
    previous: HashMap<String, RecentKey>,
}

struct RecentKey {
    position: Position,
    /// Redis remembers it for longer.
    expires: Instant,
}

impl RecentKeys {
    pub(crate) fn add(&self, key: String, position: Position, expires: Instant) {
        let mut sets = self.0.locked();
        if sets.current.len() >= MAX_KEYS_PER_SET {
            sets.previous = mem::take(&mut sets.current);
        }
        sets.current.insert(key, RecentKey { position, expires });
    }

    /// The position of the message with this key, if this node knows it.
    pub(crate) fn find(&self, key: &str) -> Option<Position> {
        let sets = self.0.locked();
        let known = sets.current.get(key).or_else(|| sets.previous.get(key))?;
        (Instant::now() < known.expires).then(|| known.position.clone())
    }

    /// Forgets all keys, because Redis may have lost messages that it had confirmed.
    pub(crate) fn clear(&self) {
        *self.0.locked() = KeySets::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(offset: u64) -> Position {
        Position { epoch: "e".into(), offset }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_known_until_it_expires_or_redis_may_have_lost_it() {
        let (keys, ttl) = (RecentKeys::default(), Duration::from_secs(300));
        keys.add("a".into(), at(1), Instant::now() + ttl);
        assert_eq!(keys.find("a"), Some(at(1)));
        assert_eq!(keys.find("b"), None);
        tokio::time::advance(ttl).await;
        assert_eq!(keys.find("a"), None);
        keys.add("a".into(), at(2), Instant::now() + ttl);
        keys.clear();
        assert_eq!(keys.find("a"), None);
    }

    #[test]
    fn only_so_many_keys_are_remembered() {
        let keys = RecentKeys::default();
        let expires = Instant::now() + Duration::from_secs(300);
        for n in 0..=2 * MAX_KEYS_PER_SET {
            keys.add(n.to_string(), at(n as u64), expires);
        }
        assert_eq!(keys.find("0"), None);
        assert_eq!(keys.find(&MAX_KEYS_PER_SET.to_string()), Some(at(MAX_KEYS_PER_SET as u64)));
        let sets = keys.0.locked();
        assert!(sets.current.len() + sets.previous.len() <= 2 * MAX_KEYS_PER_SET);
    }
}
