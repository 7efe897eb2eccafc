//! The limits that plugins give to a principal when it connects, for all rooms together. Kept per principal,
//! so that they apply to all its connections and to HTTP, and also after connecting again. Does not ask
//! plugins.

use super::publish_limiter::PublishLimiter;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use switchyard_plugin::Limits;
use switchyard_protocol::Refusal;

/// Maximum number of principals that are remembered. Beyond it, those that published longest ago are forgotten.
const MAX_PRINCIPALS: usize = 65_536;
/// How many are forgotten at a time, so that the cost of finding them is spread over many new principals.
const PRINCIPALS_EVICTED_AT_ONCE: usize = MAX_PRINCIPALS / 8;

/// The limits of all principals that have any.
#[derive(Default)]
pub(super) struct Allowances(Mutex<HashMap<Arc<str>, Allowance>>);

struct Allowance {
    limiter: PublishLimiter,
    used: Instant,
}

impl Allowances {
    /// Sets the limits of a principal. The limits of its latest connection apply to all its connections.
    pub(super) fn set_limits(&self, principal: &Arc<str>, limits: &Limits, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let limited = limits.publishes_per_second.is_some() || limits.message_bytes.is_some();
        if !all.contains_key(principal) {
            if !limited {
                return;
            }
            if all.len() >= MAX_PRINCIPALS {
                evict_oldest(&mut all);
            }
        }
        let allowance = all
            .entry(principal.clone())
            .or_insert(Allowance { limiter: PublishLimiter::default(), used: now });
        allowance.used = now;
        allowance.limiter.set_limits(limits, now);
    }

    /// Counts one message of this size, or refuses it.
    pub(super) fn take(&self, principal: &str, bytes: usize, now: Instant) -> Result<(), Refusal> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(allowance) = all.get_mut(principal) else { return Ok(()) };
        allowance.used = now;
        let too_many = |after| {
            format!("principal '{principal}' publishes too many messages per second; wait {after} ms")
        };
        allowance.limiter.take(bytes, now, too_many)
    }
}

fn evict_oldest(all: &mut HashMap<Arc<str>, Allowance>) {
    let mut used: Vec<_> = all.values().map(|allowance| allowance.used).collect();
    let (_, newest_forgotten, _) = used.select_nth_unstable(PRINCIPALS_EVICTED_AT_ONCE);
    let newest_forgotten = *newest_forgotten;
    all.retain(|_, allowance| allowance.used > newest_forgotten);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use switchyard_protocol::ErrorCode;

    #[test]
    fn connecting_again_does_not_refill_a_bucket_and_the_table_is_bounded() {
        let (allowances, now) = (Allowances::default(), Instant::now());
        let limits = Limits { rooms: None, publishes_per_second: Some(1), message_bytes: Some(4) };
        let code = |bytes, now| allowances.take("acme", bytes, now).err().map(|refusal| refusal.code);
        assert_eq!(code(100, now), None, "it has no limits");
        for n in 0..3 {
            allowances.set_limits(&"acme".into(), &limits, now);
            assert_eq!(code(4, now), (n > 0).then_some(ErrorCode::RateLimited));
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(code(5, later), Some(ErrorCode::MessageTooLarge));
        assert_eq!(code(4, later), None);
        for n in 0..2 * MAX_PRINCIPALS as u32 {
            allowances.set_limits(&n.to_string().into(), &limits, later + n * Duration::from_millis(1));
        }
        {
            let all = allowances.0.lock().unwrap();
            assert!(
                (MAX_PRINCIPALS - PRINCIPALS_EVICTED_AT_ONCE..=MAX_PRINCIPALS).contains(&all.len()),
                "{}",
                all.len()
            );
            assert!(!all.contains_key("acme") && all.contains_key(&*(2 * MAX_PRINCIPALS - 1).to_string()));
        }
        // A principal without limits takes no space.
        allowances.set_limits(&"free".into(), &Limits::default(), later);
        assert!(!allowances.0.lock().unwrap().contains_key("free"));
    }
}
