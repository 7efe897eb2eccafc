//! What a plugin allows its publishers: so many messages a second, of so many bytes. Kept by principal and room for all of a
//! node, so that it holds however a message comes: from members and others, over any connection and over HTTP, and after
//! leaving, joining and connecting again.

use super::grant::Grant;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use switchyard_plugin::Limits;
use switchyard_protocol::{ErrorCode, Refusal, room::RoomName};

/// Publishers that are remembered of one plugin, about a megabyte of them.
const MOST: usize = 8192;

/// How long an answer to a question that was asked for a publisher alone is good for. What a member was granted is until it
/// is granted something else.
const ASKED: Duration = Duration::from_secs(60);

/// After this long a bucket is full again, so that forgetting it gives nobody anything.
const IDLE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Quotas {
    quotas: HashMap<(Arc<str>, RoomName), Quota>,
}

struct Quota {
    grant: Grant,
    /// When the plugin was asked for a publisher; `None`: it was granted to a member.
    asked: Option<Instant>,
    used: Instant,
}

impl Quotas {
    /// What a member was granted.
    pub(crate) fn grant(&mut self, who: &Arc<str>, room: &RoomName, limits: &Limits, now: Instant) {
        self.set(who, room, limits, None, now);
    }

    /// What the plugin said of a publisher that is maybe no member.
    pub(crate) fn answer(&mut self, who: &Arc<str>, room: &RoomName, limits: &Limits, now: Instant) {
        self.set(who, room, limits, Some(now), now);
    }

    /// Whether the plugin need not be asked.
    pub(crate) fn knows(&self, who: &Arc<str>, room: &RoomName, now: Instant) -> bool {
        let quota = self.quotas.get(&(who.clone(), room.clone()));
        quota.is_some_and(|quota| quota.asked.is_none_or(|at| now.duration_since(at) < ASKED))
    }

    /// Takes one message of so many bytes.
    pub(crate) fn take(
        &mut self,
        who: &Arc<str>,
        room: &RoomName,
        bytes: usize,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Some(quota) = self.quotas.get_mut(&(who.clone(), room.clone())) else {
            let message = format!("too many rooms are published to at once; room '{}' has to wait", &**room);
            return Err(Refusal::retry(ErrorCode::RateLimited, message, IDLE.as_millis() as u64));
        };
        quota.used = now;
        let too_many = |after| format!("too many messages a second to '{}'; wait {after} ms", &**room);
        quota.grant.take(bytes, now, too_many)
    }

    /// Another version has other answers. What is left of a second's messages stays as it is.
    pub(crate) fn ask_again(&mut self, now: Instant) {
        let long_ago = now.checked_sub(ASKED).unwrap_or(now);
        self.quotas.values_mut().filter_map(|quota| quota.asked.as_mut()).for_each(|at| *at = long_ago);
    }

    fn set(
        &mut self,
        who: &Arc<str>,
        room: &RoomName,
        limits: &Limits,
        asked: Option<Instant>,
        now: Instant,
    ) {
        let key = (who.clone(), room.clone());
        if !self.quotas.contains_key(&key) && !self.make_room(who, now) {
            return;
        }
        let quota = self.quotas.entry(key).or_insert(Quota { grant: Grant::default(), asked, used: now });
        (quota.asked, quota.used) = (asked, now);
        quota.grant.change(limits, now);
    }

    /// Whether there is room for another. Who has the most makes room for others, and gets no more itself.
    fn make_room(&mut self, who: &Arc<str>, now: Instant) -> bool {
        if self.quotas.len() < MOST {
            return true;
        }
        self.quotas.retain(|_, quota| now.duration_since(quota.used) < IDLE);
        if self.quotas.len() < MOST {
            return true;
        }
        let mut counts: HashMap<&Arc<str>, usize> = HashMap::new();
        self.quotas.keys().for_each(|(principal, _)| *counts.entry(principal).or_default() += 1);
        let Some((largest, _)) = counts.into_iter().max_by_key(|(_, count)| *count) else { return true };
        if largest == who {
            return false;
        }
        let of_largest = self.quotas.iter().filter(|((principal, _), _)| principal == largest);
        let oldest = of_largest.min_by_key(|(_, quota)| quota.used).map(|(key, _)| key.clone());
        oldest.and_then(|key| self.quotas.remove(&key)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Limits = Limits { rooms: None, publishes_per_second: Some(1), message_bytes: Some(4) };

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn code(taken: Result<(), Refusal>) -> Option<ErrorCode> {
        taken.err().map(|refusal| refusal.code)
    }

    #[test]
    fn joining_again_fills_no_bucket() {
        let (mut quotas, now, who, room) = (Quotas::default(), Instant::now(), "acme".into(), room("a"));
        for n in 0..10 {
            quotas.grant(&who, &room, &ONE, now);
            assert_eq!(code(quotas.take(&who, &room, 4, now)), (n > 0).then_some(ErrorCode::RateLimited));
            quotas.answer(&who, &room, &ONE, now);
            assert_eq!(code(quotas.take(&who, &room, 4, now)), Some(ErrorCode::RateLimited));
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(code(quotas.take(&who, &room, 5, later)), Some(ErrorCode::MessageTooLarge));
        assert_eq!(code(quotas.take(&who, &room, 4, later)), None);
    }

    #[test]
    fn a_plugin_is_asked_again_after_a_while_and_for_another_version() {
        let (mut quotas, now, who, room) = (Quotas::default(), Instant::now(), "acme".into(), room("a"));
        assert!(!quotas.knows(&who, &room, now));
        quotas.answer(&who, &room, &ONE, now);
        assert!(quotas.knows(&who, &room, now) && !quotas.knows(&who, &room, now + ASKED));
        let later = now + ASKED / 2;
        quotas.ask_again(later);
        assert!(!quotas.knows(&who, &room, later));
        quotas.grant(&who, &room, &ONE, later);
        quotas.ask_again(later);
        assert!(quotas.knows(&who, &room, later + 10 * ASKED));
    }

    #[test]
    fn the_table_is_bounded_and_who_fills_it_gets_no_more() {
        let (mut quotas, now, mallory) = (Quotas::default(), Instant::now(), "mallory".into());
        for n in 0..MOST + 10 {
            let room = room(&n.to_string());
            quotas.answer(&mallory, &room, &ONE, now);
            let expected = (n >= MOST).then_some(ErrorCode::RateLimited);
            assert_eq!(code(quotas.take(&mallory, &room, 1, now)), expected, "{n}");
        }
        let acme = "acme".into();
        quotas.answer(&acme, &room("a"), &ONE, now);
        assert_eq!(code(quotas.take(&acme, &room("a"), 1, now)), None);
        assert_eq!(quotas.quotas.len(), MOST);
        // What was full again anyway is forgotten.
        let later = now + IDLE;
        quotas.answer(&mallory, &room("more"), &ONE, later);
        assert_eq!(quotas.quotas.len(), 1);
    }
}
