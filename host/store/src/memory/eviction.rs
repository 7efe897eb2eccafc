//! What the memory store evicts while the node is under memory pressure: of the principals that use most, the
//! histories of the rooms that were idle for longest, and then the idempotency keys that expire first.
//! Nothing else is evicted.
//!
//! Each pass walks all rooms twice: once to find out how much must go, once to drop it. It holds the lock of
//! a stripe for one page of rooms, or one page of the keys of a room, at a time. So rooms may be used between
//! the two walks. That only makes the pass inexact: the next one continues if it was not enough.

use super::{MemoryStore, room_log::RoomLog, stripe::Stripe};
use crate::IDEMPOTENCY_KEY_TTL;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use switchyard_process::lock::LockExt;
use tokio::time::Instant;

/// How long eviction pauses after a pass that did not free enough.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// How many intervals of equal length the lifetime of an idempotency key is divided into, to find those that
/// expire first.
const KEY_BUCKETS: usize = 300;
/// How many messages, or idempotency keys, are visited or dropped before the lock of their room is released,
/// apart from the history of the last room.
const PAGE_ITEMS: usize = 1024;
/// The shortest time between two warnings that something is evicted.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Eviction(Mutex<LastPass>);

#[derive(Default)]
struct LastPass {
    /// When a pass last ended that did not free enough.
    failed: Option<Instant>,
    warned: Option<Instant>,
}

impl MemoryStore {
    /// Evicts what can be missed, if the node is under memory pressure. Does nothing if another thread is at
    /// it.
    pub(super) fn evict(&self) {
        if !self.account.is_under_pressure() {
            return;
        }
        if let Ok(mut last) = self.eviction.0.try_lock()
            && last.failed.is_none_or(|failed| failed.elapsed() >= RETRY_DELAY)
        {
            if last.warned.is_none_or(|warned| warned.elapsed() >= WARNING_INTERVAL) {
                last.warned = Some(Instant::now());
                let (used, limit) = (self.account.total(), self.account.limit());
                tracing::warn!(
                    used,
                    limit,
                    "little memory is left (memory.limit); evicting histories of idle rooms, then idempotency keys"
                );
            }
            self.evict_histories();
            self.evict_keys();
            // A pass that freed enough may be followed by another one at once, because each frees a fixed
            // part of the limit, however fast memory fills up again.
            last.failed = self.account.is_under_pressure().then(Instant::now);
        }
    }

    fn evict_histories(&self) {
        let (excess, level) = (self.account.excess(), self.account.eviction_level());
        let mut histories = vec![];
        self.for_each_page(|stripe, page| {
            let logs = page.iter().filter_map(|name| stripe.get(name));
            histories.extend(logs.filter(|log| log.is_above(level)).map(RoomLog::history_use));
            page.len()
        });
        histories.sort_unstable();
        let Some(last) = reaching(excess, histories) else { return };
        let mut dropped = 0;
        self.for_each_page(|stripe, page| {
            let mut messages = 0;
            for (n, name) in page.iter().enumerate() {
                let Some(log) = stripe.get_mut(name) else { continue };
                let (used, bytes) = log.history_use();
                // Several may have been used at the same moment.
                if used <= last && dropped < excess && log.is_above(level) {
                    dropped += bytes;
                    messages += log.drop_history();
                }
                if messages >= PAGE_ITEMS {
                    return n + 1;
                }
            }
            page.len()
        });
        tracing::debug!(dropped, "evicted the histories of idle rooms");
    }

    fn evict_keys(&self) {
        let (excess, now) = (self.account.excess(), Instant::now());
        if excess == 0 || !self.account.is_under_pressure() {
            return;
        }
        let level = self.account.eviction_level();
        let interval = (self.retention.idempotency_key_ttl.max(IDEMPOTENCY_KEY_TTL) / KEY_BUCKETS as u32)
            .max(Duration::from_millis(1));
        let mut bytes = [0; KEY_BUCKETS + 1];
        self.for_each_key_page(|log, after| {
            let mut last = None;
            for key in log.keys_after(after, PAGE_ITEMS) {
                last = Some(key.offset);
                if key.used_by_principal > level {
                    let bucket =
                        key.expires.saturating_duration_since(now).as_millis() / interval.as_millis();
                    bytes[(bucket as usize).min(KEY_BUCKETS)] += key.bytes;
                }
            }
            last
        });
        let ends = (1..).map(|nth| now + interval * nth).zip(bytes);
        let Some(end) = reaching(excess, ends) else { return };
        self.for_each_key_page(|log, after| log.drop_keys(after, PAGE_ITEMS, end, level));
    }

    /// Visits all rooms in pages, each under the lock of its stripe. `visit` gets the names of a page and
    /// returns how many of them it has visited, which is at least one; the next page starts after those.
    fn for_each_page(&self, mut visit: impl FnMut(&mut Stripe, &[Arc<str>]) -> usize) {
        for stripe in &self.stripes {
            let mut after = None;
            loop {
                let mut stripe = stripe.locked();
                let mut page = stripe.page(after.as_deref());
                if page.is_empty() {
                    break;
                }
                let visited = visit(&mut stripe, &page);
                after = Some(page.swap_remove(visited - 1));
            }
        }
    }

    /// Visits the idempotency keys of all rooms in pages, each under the lock of its room. `visit` gets the
    /// offset after which the page starts, and returns that of the last key that it has visited, or `None` at
    /// the end of the room.
    fn for_each_key_page(&self, mut visit: impl FnMut(&mut RoomLog, u64) -> Option<u64>) {
        for stripe in &self.stripes {
            let lock = || stripe.locked();
            let mut after = None;
            loop {
                let page = lock().page(after.as_deref());
                let Some(last) = page.last().cloned() else { break };
                for name in &page {
                    let mut offset = Some(0);
                    while let Some(after) = offset {
                        offset = lock().get_mut(name).and_then(|log| visit(log, after));
                    }
                }
                after = Some(last);
            }
        }
    }
}

/// Of items in order, the time of the first at which they have reached `excess` bytes together, or else of
/// the last one.
fn reaching(excess: usize, items: impl IntoIterator<Item = (Instant, usize)>) -> Option<Instant> {
    let (mut sum, mut last) = (0, None);
    for (at, bytes) in items {
        if sum >= excess {
            break;
        }
        sum += bytes;
        last = Some(at);
    }
    last
}

#[cfg(test)]
mod tests;
