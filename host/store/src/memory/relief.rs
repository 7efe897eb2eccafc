//! What the memory store lets go when the node keeps nearly as much as it may, of those for whom it keeps most: the histories of rooms that
//! are idle for longest, then the idempotency keys that would end first.

use super::{HELD, Memory};
use crate::KEY_TTL;
use std::{sync::Mutex, time::Duration};
use tokio::time::Instant;

/// How often all rooms are gone through at most, where that does not help.
const PAUSE: Duration = Duration::from_millis(100);
/// Into so many parts of equal length the time to live of keys is divided.
const PARTS: u32 = 300;

/// How often it is told at most that something is let go.
const TELL: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Relief(Mutex<Last>);

#[derive(Default)]
struct Last {
    /// When making room did not help.
    failed: Option<Instant>,
    told: Option<Instant>,
}

impl Memory {
    pub(super) fn relieve(&self) {
        if !self.account.is_under_pressure() {
            return;
        }
        if let Ok(mut last) = self.relief.0.try_lock()
            && last.failed.is_none_or(|failed| failed.elapsed() >= PAUSE)
        {
            if last.told.is_none_or(|told| told.elapsed() >= TELL) {
                last.told = Some(Instant::now());
                let (used, limit) = (self.account.total(), self.account.limit());
                tracing::warn!(
                    used,
                    limit,
                    "little memory is left (memory.limit): histories of idle rooms are let go, then idempotency keys"
                );
            }
            self.drop_histories();
            self.drop_keys();
            // What helped may be done again at once: it let a part of all go, however fast that comes again.
            last.failed = self.account.is_under_pressure().then(Instant::now);
        }
    }

    fn drop_histories(&self) {
        let (excess, level) = (self.account.excess(), self.account.eviction_level());
        let mut histories = vec![];
        for stripe in &self.rooms {
            let rooms = stripe.lock().expect(HELD);
            let beyond = rooms.values().filter(|log| log.is_beyond(level));
            histories.extend(beyond.map(|log| log.history()));
        }
        histories.sort_unstable();
        let Some(last) = reaching(excess, histories) else { return };
        let mut dropped = 0;
        for stripe in &self.rooms {
            for log in stripe.lock().expect(HELD).values_mut() {
                let (used, bytes) = log.history();
                // Several may have been used at the same moment.
                if used <= last && dropped < excess && log.is_beyond(level) {
                    dropped += bytes;
                    log.let_go();
                }
            }
        }
        tracing::debug!(dropped, "let the histories of idle rooms go");
    }

    fn drop_keys(&self) {
        let (excess, now) = (self.account.excess(), Instant::now());
        if excess == 0 || !self.account.is_under_pressure() {
            return;
        }
        let level = self.account.eviction_level();
        let part = (self.retention.key.max(KEY_TTL) / PARTS).max(Duration::from_millis(1));
        let mut parts = [0; PARTS as usize + 1];
        for stripe in &self.rooms {
            for (end, bytes) in stripe.lock().expect(HELD).values().flat_map(|log| log.keys(level)) {
                let nth = end.saturating_duration_since(now).as_millis() / part.as_millis();
                parts[(nth as usize).min(PARTS as usize)] += bytes;
            }
        }
        let ends = (1..).map(|nth| now + part * nth).zip(parts);
        let Some(then) = reaching(excess, ends) else { return };
        for stripe in &self.rooms {
            stripe.lock().expect(HELD).values_mut().for_each(|log| log.drop_keys(then, level));
        }
    }
}

/// The first of these at which all up to it take so much, or the last of them.
fn reaching(excess: usize, found: impl IntoIterator<Item = (Instant, usize)>) -> Option<Instant> {
    let (mut sum, mut last) = (0, None);
    for (at, bytes) in found {
        if sum >= excess {
            break;
        }
        sum += bytes;
        last = Some(at);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Broker, HistoryConfig, Message, PageLimit, Reader, Retention};
    use std::sync::Arc;
    use switchyard_process::{
        memory::{MemoryAccount, MemoryKind},
        vital::VitalTasks,
    };
    use switchyard_protocol::{Position, room::RoomName};

    const LIMIT: usize = 1 << 20;

    fn store(messages: usize) -> (Arc<Memory>, Arc<MemoryAccount>) {
        let account = MemoryAccount::new(LIMIT);
        let history = HistoryConfig { messages, ..HistoryConfig::default() };
        let retention = Retention { history, session: Duration::from_secs(120), key: KEY_TTL };
        (Memory::new(retention, Arc::new(|_| true), &account, &VitalTasks::default()), account)
    }

    fn room(n: u32) -> RoomName {
        RoomName::parse(&format!("room:{n}")).unwrap()
    }

    async fn publish(store: &Memory, n: u32, data: &str, key: Option<&str>) -> (Position, bool) {
        let message =
            Message { room: &room(n), event: None, data, who: &"p".into(), key, needs_member: false };
        let stored = store.publish(message).await.unwrap().unwrap();
        (stored.position, stored.duplicate)
    }

    #[tokio::test(start_paused = true)]
    async fn histories_of_rooms_idle_for_longest_go_first() {
        let (store, account) = store(1000);
        let data = format!("\"{}\"", "x".repeat(10_000));
        let mut first = vec![];
        for n in 0..1000 {
            first.push(publish(&store, n, &data, None).await.0);
            // One room is in use all the time.
            publish(&store, 5000, "1", None).await;
            assert!(!account.is_full(), "{} after {n}", account.total());
            tokio::time::advance(Duration::from_millis(200)).await;
        }
        let whole = async |n: u32| {
            let after = Position { offset: 0, ..first[n as usize].clone() };
            store.history(&room(n), Some(&after), PageLimit::NONE, Reader::Other).await.unwrap().whole
        };
        assert!(!whole(500).await && whole(999).await && whole(990).await, "the newest are held");
        assert_eq!(
            store
                .history(&room(5000), None, PageLimit { messages: 1000, bytes: usize::MAX }, Reader::Other)
                .await
                .unwrap()
                .messages
                .len(),
            1000
        );
        assert!(account.used(MemoryKind::History) > LIMIT / 3, "no more is let go than must be");
    }

    #[tokio::test(start_paused = true)]
    async fn keys_go_that_end_first() {
        let (store, account) = store(0);
        for n in 0..10_000 {
            assert!(!publish(&store, n % 7, "1", Some(&format!("key {n}"))).await.1);
            assert!(!account.is_full(), "{} after {n}", account.total());
            tokio::time::advance(Duration::from_millis(20)).await;
        }
        assert!(publish(&store, 9_999 % 7, "1", Some("key 9999")).await.1, "the newest is known");
        assert!(publish(&store, 9_000 % 7, "1", Some("key 9000")).await.1);
        assert!(!publish(&store, 3, "1", Some("key 3")).await.1, "the oldest is not");
        tokio::time::sleep(KEY_TTL + Duration::from_secs(60)).await;
        assert_eq!(
            (account.used(MemoryKind::Keys), account.used(MemoryKind::Rooms)),
            (0, 0),
            "all of it ends"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_keep_leaves_no_room() {
        let (store, account) = store(10);
        publish(&store, 1, "1", None).await;
        let publisher = account.share(&"p".into());
        let others = account.charge(MemoryKind::Sessions, LIMIT);
        store.relieve();
        assert!(!publisher.may_grow(), "there is nothing left to let go");
        drop(others);
        assert!(publisher.may_grow());
    }
}
