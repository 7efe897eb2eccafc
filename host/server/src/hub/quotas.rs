//! The limits that a plugin gives to publishers: messages per second, and bytes per message. Kept per
//! principal and room for the whole node, so that they apply to members and others, to all connections and to
//! HTTP, and also after leaving, joining and connecting again. Does not ask the plugin.

use super::publish_limiter::PublishLimiter;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use switchyard_plugin::Limits;
use switchyard_protocol::{ErrorCode, Refusal, room::RoomName};

/// Maximum number of quotas of one plugin. They take about 1 MB.
const MAX_QUOTAS: usize = 8192;

/// How long limits are valid for which the plugin was asked because of a publish. Those of a member are valid
/// until it joins again.
const ANSWER_TTL: Duration = Duration::from_secs(60);

/// How long before an answer expires the plugin's thread is used again, so that it does not expire between the decision
/// to do without the thread and the check.
const KNOWN_MARGIN: Duration = Duration::from_secs(1);

/// After this time, a token bucket is full again. Forgetting it then changes nothing.
const REFILL_TIME: Duration = Duration::from_secs(1);

/// The refusal for a message whose publisher has no place left in the table.
pub(crate) fn too_many_rooms(room: &RoomName) -> Refusal {
    let message = format!("too many rooms are being published to; wait before you publish to '{}'", &**room);
    Refusal::retry(ErrorCode::RateLimited, message, REFILL_TIME.as_millis() as u64)
}

/// The quotas of all publishers in the rooms of one plugin.
#[derive(Default)]
pub(crate) struct Quotas {
    quotas: HashMap<(Arc<str>, RoomName), Quota>,
}

struct Quota {
    limiter: PublishLimiter,
    /// When the plugin was asked because of a publish. `None` if the limits are those of a member.
    queried_at: Option<Instant>,
    used: Instant,
}

impl Quota {
    fn is_known(&self, now: Instant) -> bool {
        self.queried_at.is_none_or(|at| now.duration_since(at) < ANSWER_TTL)
    }

    fn take(&mut self, room: &RoomName, bytes: usize, now: Instant) -> Result<(), Refusal> {
        self.used = now;
        let too_many = |after| format!("too many messages per second to '{}'; wait {after} ms", &**room);
        self.limiter.take(bytes, now, too_many)
    }
}

impl Quotas {
    /// Sets the limits of a member.
    pub(crate) fn set_member_limits(
        &mut self,
        principal: &Arc<str>,
        room: &RoomName,
        limits: &Limits,
        now: Instant,
    ) {
        self.set(principal, room, limits, None, now);
    }

    /// Sets the limits of a publisher that may not be a member.
    pub(crate) fn set_publisher_limits(
        &mut self,
        principal: &Arc<str>,
        room: &RoomName,
        limits: &Limits,
        now: Instant,
    ) {
        self.set(principal, room, limits, Some(now), now);
    }

    /// Whether the limits are known for another while, so that the plugin need not be asked. They are not forgotten
    /// meanwhile.
    pub(crate) fn stay_known(&mut self, principal: &Arc<str>, room: &RoomName, now: Instant) -> bool {
        let quota = self.quotas.get_mut(&(principal.clone(), room.clone()));
        quota.is_some_and(|quota| {
            quota.used = now;
            quota.is_known(now + KNOWN_MARGIN)
        })
    }

    /// Counts one message of this size, or refuses it. `None` if the limits are not known, so that the plugin has to be
    /// asked.
    pub(crate) fn take(
        &mut self,
        principal: &Arc<str>,
        room: &RoomName,
        bytes: usize,
        now: Instant,
    ) -> Option<Result<(), Refusal>> {
        let quota = self.quotas.get_mut(&(principal.clone(), room.clone()))?;
        quota.is_known(now).then(|| quota.take(room, bytes, now))
    }

    /// Makes the next publish ask the plugin again, because another version may answer differently. Keeps the
    /// counts.
    pub(crate) fn expire_answers(&mut self, now: Instant) {
        let long_ago = now.checked_sub(ANSWER_TTL).unwrap_or(now);
        self.quotas.values_mut().filter_map(|quota| quota.queried_at.as_mut()).for_each(|at| *at = long_ago);
    }

    fn set(
        &mut self,
        principal: &Arc<str>,
        room: &RoomName,
        limits: &Limits,
        queried_at: Option<Instant>,
        now: Instant,
    ) {
        let key = (principal.clone(), room.clone());
        if !self.quotas.contains_key(&key) && !self.make_room(principal, now) {
            return;
        }
        let quota = self.quotas.entry(key).or_insert(Quota {
            limiter: PublishLimiter::default(),
            queried_at,
            used: now,
        });
        (quota.queried_at, quota.used) = (queried_at, now);
        quota.limiter.set_limits(limits, now);
    }

    /// Whether there is space for another quota. If the table is full, the principal with the most quotas
    /// loses its oldest one to other principals, and gets no more itself.
    fn make_room(&mut self, principal: &Arc<str>, now: Instant) -> bool {
        if self.quotas.len() < MAX_QUOTAS {
            return true;
        }
        self.quotas.retain(|_, quota| now.duration_since(quota.used) < REFILL_TIME);
        if self.quotas.len() < MAX_QUOTAS {
            return true;
        }
        let mut counts: HashMap<&Arc<str>, usize> = HashMap::new();
        self.quotas.keys().for_each(|(principal, _)| *counts.entry(principal).or_default() += 1);
        let Some((largest, _)) = counts.into_iter().max_by_key(|(_, count)| *count) else { return true };
        if largest == principal {
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

    fn code(taken: Option<Result<(), Refusal>>) -> Option<ErrorCode> {
        taken.expect("known limits").err().map(|refusal| refusal.code)
    }

    #[test]
    fn joining_again_does_not_refill_a_bucket() {
        let (mut quotas, now, principal, room) =
            (Quotas::default(), Instant::now(), "acme".into(), room("a"));
        for n in 0..10 {
            quotas.set_member_limits(&principal, &room, &ONE, now);
            assert_eq!(
                code(quotas.take(&principal, &room, 4, now)),
                (n > 0).then_some(ErrorCode::RateLimited)
            );
            quotas.set_publisher_limits(&principal, &room, &ONE, now);
            assert_eq!(code(quotas.take(&principal, &room, 4, now)), Some(ErrorCode::RateLimited));
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(code(quotas.take(&principal, &room, 5, later)), Some(ErrorCode::MessageTooLarge));
        assert_eq!(code(quotas.take(&principal, &room, 4, later)), None);
    }

    #[test]
    fn a_plugin_is_asked_again_after_a_while_and_when_its_version_changes() {
        let (mut quotas, now, principal, room) =
            (Quotas::default(), Instant::now(), "acme".into(), room("a"));
        assert!(
            quotas.take(&principal, &room, 1, now).is_none() && !quotas.stay_known(&principal, &room, now)
        );
        quotas.set_publisher_limits(&principal, &room, &ONE, now);
        let almost = now + ANSWER_TTL - KNOWN_MARGIN;
        assert!(quotas.stay_known(&principal, &room, now) && !quotas.stay_known(&principal, &room, almost));
        assert_eq!(code(quotas.take(&principal, &room, 1, almost)), None, "it is still known");
        assert!(quotas.take(&principal, &room, 1, now + ANSWER_TTL).is_none());
        let later = now + ANSWER_TTL / 2;
        quotas.expire_answers(later);
        assert!(quotas.take(&principal, &room, 1, later).is_none());
        quotas.set_member_limits(&principal, &room, &ONE, later);
        quotas.expire_answers(later);
        assert!(quotas.stay_known(&principal, &room, later + 10 * ANSWER_TTL));
    }

    #[test]
    fn the_table_is_bounded_and_a_principal_that_fills_it_gets_no_more() {
        let (mut quotas, now, mallory) = (Quotas::default(), Instant::now(), "mallory".into());
        for n in 0..MAX_QUOTAS + 10 {
            let room = room(&n.to_string());
            quotas.set_publisher_limits(&mallory, &room, &ONE, now);
            assert_eq!(quotas.take(&mallory, &room, 1, now).is_some(), n < MAX_QUOTAS, "{n}");
        }
        let acme = "acme".into();
        quotas.set_publisher_limits(&acme, &room("a"), &ONE, now);
        assert_eq!(code(quotas.take(&acme, &room("a"), 1, now)), None);
        assert_eq!(quotas.quotas.len(), MAX_QUOTAS);
        // Buckets that are full again are forgotten.
        let later = now + REFILL_TIME;
        quotas.set_publisher_limits(&mallory, &room("more"), &ONE, later);
        assert_eq!(quotas.quotas.len(), 1);
    }
}
