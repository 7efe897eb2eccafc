//! What plugins allow a principal that connects, in all rooms together: kept by principal, so that it holds for all its
//! connections and over HTTP, and after connecting again.

use super::grant::Grant;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use switchyard_plugin::Limits;
use switchyard_protocol::Refusal;

/// Principals that are remembered; those that published longest ago are forgotten first.
const MOST: usize = 65_536;

#[derive(Default)]
pub(super) struct Allowances(Mutex<HashMap<Arc<str>, Allowance>>);

struct Allowance {
    grant: Grant,
    used: Instant,
}

impl Allowances {
    /// What a connection of the principal was allowed. The last one that connected tells for all.
    pub(super) fn grant(&self, who: &Arc<str>, limits: &Limits, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let limited = limits.publishes_per_second.is_some() || limits.message_bytes.is_some();
        if !all.contains_key(who) {
            if !limited {
                return;
            }
            if all.len() >= MOST {
                let oldest =
                    all.iter().min_by_key(|(_, allowance)| allowance.used).map(|(who, _)| who.clone());
                oldest.map(|who| all.remove(&who));
            }
        }
        let allowance = all.entry(who.clone()).or_insert(Allowance { grant: Grant::default(), used: now });
        allowance.used = now;
        allowance.grant.change(limits, now);
    }

    /// Takes one message of so many bytes.
    pub(super) fn take(&self, who: &str, bytes: usize, now: Instant) -> Result<(), Refusal> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(allowance) = all.get_mut(who) else { return Ok(()) };
        allowance.used = now;
        let too_many =
            |after| format!("principal '{who}' publishes too many messages a second; wait {after} ms");
        allowance.grant.take(bytes, now, too_many)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use switchyard_protocol::Code;

    #[test]
    fn connecting_again_fills_no_bucket_and_the_table_is_bounded() {
        let (allowances, now) = (Allowances::default(), Instant::now());
        let limits = Limits { rooms: None, publishes_per_second: Some(1), message_bytes: Some(4) };
        let code = |bytes, now| allowances.take("acme", bytes, now).err().map(|refusal| refusal.code);
        assert_eq!(code(100, now), None, "nobody limits it");
        for n in 0..3 {
            allowances.grant(&"acme".into(), &limits, now);
            assert_eq!(code(4, now), (n > 0).then_some(Code::RateLimited));
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(code(5, later), Some(Code::MessageTooLarge));
        assert_eq!(code(4, later), None);
        for n in 0..2 * MOST as u32 {
            allowances.grant(&n.to_string().into(), &limits, later + n * Duration::from_millis(1));
        }
        assert_eq!(allowances.0.lock().unwrap().len(), MOST);
        // One without limits takes none.
        allowances.grant(&"free".into(), &Limits::default(), later);
        assert!(!allowances.0.lock().unwrap().contains_key("free"));
    }
}
