//! The policies of all rooms, as they are now, and what they mean for a message and for a question. They are
//! replaced when the configuration changes. Stores nothing and delivers nothing.

use super::{
    room_policy::{MembersAccess, RoomPolicy, RoomPolicyView, show_byte_rate, show_rate},
    room_rates::{Exceeded, RoomRate, RoomRates},
};
use crate::{
    key::Key,
    limits::LimitMode,
    metrics::{LimitKind, Metrics},
};
use arc_swap::ArcSwap;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use switchyard_protocol::{ErrorCode, Publication, Refusal, room::RoomName};
use switchyard_store::{HistoryPolicies, RoomTable, key::Scope};

/// A message that is about to be published.
pub(super) struct Offered<'a> {
    /// The canonical name of its room.
    pub room: &'a RoomName,
    pub principal: &'a Arc<str>,
    /// The size of its data.
    pub bytes: usize,
}

/// What holds in which rooms.
pub(crate) struct RoomPolicies {
    table: ArcSwap<RoomTable<RoomPolicy>>,
    /// The part that the store obeys.
    history: HistoryPolicies,
    rates: RoomRates,
    mode: LimitMode,
}

impl Default for RoomPolicies {
    fn default() -> Self {
        Self::new(RoomPolicy::default().table(&[]), LimitMode::default())
    }
}

impl RoomPolicies {
    /// `mode` is about rates only.
    pub(crate) fn new(table: RoomTable<RoomPolicy>, mode: LimitMode) -> Self {
        let history = HistoryPolicies::new(table.map(|policy| policy.history));
        Self { table: ArcSwap::from_pointee(table), history, rates: RoomRates::default(), mode }
    }

    /// The history policies, which change with these.
    pub(crate) fn history(&self) -> HistoryPolicies {
        self.history.clone()
    }

    pub(crate) fn replace(&self, table: RoomTable<RoomPolicy>) {
        self.history.replace(table.map(|policy| policy.history));
        self.table.store(Arc::new(table));
    }

    /// The policy of a room, by its canonical name.
    pub(crate) fn of(&self, room: &RoomName) -> RoomPolicy {
        *self.table.load().get(room)
    }

    pub(crate) fn view(&self, room: &RoomName) -> RoomPolicyView {
        RoomPolicyView::of(&self.table.load(), room)
    }

    /// Whether a key may see the members of a room. What the key allows in the room was checked before.
    pub(crate) fn check_members(&self, room: &RoomName, key: &Key) -> Result<(), Refusal> {
        match self.of(room).members {
            MembersAccess::Subscribe => Ok(()),
            MembersAccess::Admin => {
                let room = &**room;
                key.require(
                    Scope::Admin,
                    format_args!("see the members of '{room}', where members = \"admin\" holds"),
                )
            }
            MembersAccess::None => {
                let message = format!(
                    "nobody may see the members of room '{}', where members = \"none\" holds",
                    &**room
                );
                Err(Refusal::new(ErrorCode::Forbidden, message))
            }
        }
    }

    /// Refuses a message if too much is being published to its room, before its plugin is asked about it. Counts
    /// nothing: a message that the plugin refuses must not keep others from publishing.
    pub(super) fn check_rate(
        &self,
        offered: &Offered<'_>,
        metrics: &Metrics,
        now: Instant,
    ) -> Result<(), Refusal> {
        let policy = self.of(offered.room);
        match rate_of(&policy).filter(|_| self.mode == LimitMode::Enforce) {
            None => Ok(()),
            Some(rate) => {
                let checked = self.rates.check(offered.room, rate, offered.bytes, now);
                checked.map_err(|exceeded| self.exceeded(offered.room, &policy, exceeded, metrics))
            }
        }
    }

    /// Counts a message that is about to be stored, or refuses it.
    pub(super) fn take_rate(
        &self,
        policy: &RoomPolicy,
        offered: &Offered<'_>,
        metrics: &Metrics,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Some(rate) = rate_of(policy) else { return Ok(()) };
        let Offered { room, principal, bytes } = *offered;
        self.rates.take(room, rate, principal, bytes, now).or_else(|exceeded| {
            let refusal = self.exceeded(room, policy, exceeded, metrics);
            if self.mode == LimitMode::Observe { Ok(()) } else { Err(refusal) }
        })
    }

    fn exceeded(
        &self,
        room: &RoomName,
        policy: &RoomPolicy,
        exceeded: Exceeded,
        metrics: &Metrics,
    ) -> Refusal {
        let room = &**room;
        let limited = |what: &str, rate: Option<String>| {
            format!("room '{room}' takes at most {} {what} on this node", rate.unwrap_or_default())
        };
        let (limit, wait, problem) = match exceeded {
            Exceeded::Publishes(wait) => {
                (LimitKind::RoomPublishes, wait, limited("messages", policy.publishes.map(show_rate)))
            }
            Exceeded::Bytes(wait) => {
                (LimitKind::RoomBytes, wait, limited("of data", policy.bytes.map(show_byte_rate)))
            }
            Exceeded::Rooms(wait) => {
                let problem = format!(
                    "this principal publishes to too many rooms with a rate at a time, so not to '{room}', too"
                );
                (LimitKind::RoomPublishes, wait, problem)
            }
        };
        metrics.count_limited(limit, self.mode);
        let after = whole_millis(wait);
        Refusal::retry(ErrorCode::RateLimited, format!("{problem}; wait {after} ms"), after)
    }

    /// Whether a message names its sender although the policy of its room does not, or not any more.
    pub(super) fn hides_sender(&self, message: &Publication) -> bool {
        message.shows_sender() && !self.table.load().get(&message.room).sender
    }

    /// Leaves out who published messages that were stored when the policy of their room still named senders.
    /// `encoded` is called with each message that is encoded anew.
    pub(super) fn hide_senders(
        &self,
        room: &RoomName,
        messages: &mut [Arc<Publication>],
        encoded: impl Fn(Publication) -> Publication,
    ) {
        if messages.iter().any(|message| message.shows_sender()) && !self.of(room).sender {
            for message in messages.iter_mut().filter(|message| message.shows_sender()) {
                *message = Arc::new(encoded(message.without_sender()));
            }
        }
    }
}

fn rate_of(policy: &RoomPolicy) -> Option<RoomRate> {
    let RoomPolicy { publishes, bytes, .. } = *policy;
    (publishes.is_some() || bytes.is_some()).then_some(RoomRate { publishes, bytes })
}

/// Rounds up, so that whoever waits this long does not come too early.
fn whole_millis(wait: Duration) -> u64 {
    wait.as_nanos().div_ceil(1_000_000).max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::room_policy::RoomConfig;

    fn policies(entry: &str, mode: LimitMode) -> RoomPolicies {
        let entry: RoomConfig = toml::from_str(entry).unwrap();
        RoomPolicies::new(RoomPolicy::default().table(&[entry]), mode)
    }

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    #[test]
    fn a_refusal_names_the_room_the_rate_and_how_long_to_wait() {
        let (now, metrics, who) = (Instant::now(), Metrics::default(), "acme".into());
        let policies = policies("match = 'a:*'\npublishes = '2/s'\nbytes = '1KiB/s'", LimitMode::Enforce);
        let room = room("a:b");
        let take = |bytes| {
            let offered = Offered { room: &room, principal: &who, bytes };
            let checked = policies.check_rate(&offered, &metrics, now);
            assert_eq!(
                checked.is_ok(),
                policies.rates.check(&room, rate_of(&policies.of(&room)).unwrap(), bytes, now).is_ok()
            );
            policies.take_rate(&policies.of(&room), &offered, &metrics, now)
        };
        take(512).unwrap();
        let refusal = take(1024).unwrap_err();
        assert_eq!(refusal.message, "room 'a:b' takes at most 1KiB/s of data on this node; wait 500 ms");
        assert_eq!((refusal.code, refusal.retry_after), (ErrorCode::RateLimited, Some(500)));
        take(512).unwrap();
        let refusal = take(0).unwrap_err();
        assert_eq!(refusal.message, "room 'a:b' takes at most 2/s messages on this node; wait 500 ms");
        let text = metrics.encode();
        assert!(
            text.contains(r#"switchyard_limited_total{limit="room_publishes",mode="enforce"} 2"#),
            "{text}"
        );
    }

    #[test]
    fn a_limit_that_is_only_observed_counts_and_permits() {
        let (now, metrics, who) = (Instant::now(), Metrics::default(), "acme".into());
        let policies = policies("match = 'a'\npublishes = '1/m'", LimitMode::Observe);
        let room = room("a");
        for _ in 0..3 {
            let offered = Offered { room: &room, principal: &who, bytes: 1 };
            policies.check_rate(&offered, &metrics, now).unwrap();
            policies.take_rate(&policies.of(&room), &offered, &metrics, now).unwrap();
        }
        let text = metrics.encode();
        assert!(
            text.contains(r#"switchyard_limited_total{limit="room_publishes",mode="observe"} 2"#),
            "{text}"
        );
    }

    #[test]
    fn the_members_of_a_room_are_shown_to_whom_its_policy_says() {
        let policies = policies("match = 'a'\nmembers = 'admin'", LimitMode::Enforce);
        let key = Key::detached("acme");
        policies.check_members(&room("b"), &key).unwrap();
        let refusal = policies.check_members(&room("a"), &key).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Forbidden);
        assert!(refusal.message.contains("'a', where members = \"admin\" holds"), "{}", refusal.message);
    }

    #[test]
    fn senders_of_stored_messages_are_hidden_when_their_room_names_none_any_more() {
        let policies = policies("match = 'a'\nsender = true", LimitMode::Enforce);
        let publication = || {
            let (name, epoch) = ("a".into(), "e".into());
            vec![Arc::new(Publication::from_sender(name, epoch, 1, 2, None, "3", "acme".into()))]
        };
        let mut messages = publication();
        policies.hide_senders(&room("a"), &mut messages, |_| unreachable!("the policy still names them"));
        assert!(messages[0].shows_sender());
        policies.replace(RoomPolicy::default().table(&[]));
        policies.hide_senders(&room("a"), &mut messages, |message| message);
        assert_eq!(
            messages[0].frame().text(),
            r#"{"type":"message","room":"a","offset":1,"time":2,"data":3}"#
        );
    }
}
