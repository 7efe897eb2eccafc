//! Holds messages of the store back while this node does not know whether their rooms still have the plugins that it
//! thinks they have: after the process was stopped, and after a connection to the store was lost. Other nodes wait
//! for a silent node before they change which plugin governs a room, so what was read is valid for a while. Does not
//! read anything.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use switchyard_process::lock::LockExt;
use switchyard_store::Event;
use tokio::sync::Notify;

/// How long a node may rely on what it has read. Other nodes wait for 15 s after its last report, which may be 8 s
/// older than what was read if the store answers slowly. The store carries out nothing that is more than 2 s late.
const VALIDITY: Duration = Duration::from_secs(5);

/// Whether this node knows which plugin governs which rooms, and the events that wait until it does.
pub(crate) struct GovernanceGate {
    started: Instant,
    /// Milliseconds after `started`.
    open_until: AtomicU64,
    /// Since when nothing that was read before counts, in milliseconds after `started`.
    closed_since: AtomicU64,
    held: Mutex<HeldEvents>,
    /// Whether events are held. Changes only under the lock of `held`.
    is_holding: AtomicBool,
    /// Wakes whoever reads the record.
    wanted: Notify,
    /// Wakes those who wait until the gate is open.
    opened: Notify,
}

/// Events that wait.
#[derive(Default)]
struct HeldEvents {
    events: VecDeque<Event>,
    /// The size of their messages.
    bytes: usize,
}

/// Maximum size of the messages that wait, in bytes. Beyond it, the store keeps them and delivers them later.
const MAX_HELD_BYTES: usize = 16 << 20;

impl HeldEvents {
    /// Returns how many wait; more than any limit if they are too large together.
    fn push(&mut self, event: Event) -> usize {
        if let Event::Published(message) = &event {
            self.bytes += message.size();
        }
        self.events.push_back(event);
        if self.bytes > MAX_HELD_BYTES { usize::MAX } else { self.events.len() }
    }
}

impl GovernanceGate {
    /// A gate that is closed until something was read.
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            open_until: AtomicU64::new(0),
            closed_since: AtomicU64::new(0),
            held: Mutex::default(),
            is_holding: AtomicBool::new(false),
            wanted: Notify::new(),
            opened: Notify::new(),
        }
    }

    /// Opens the gate for ever, because no other node can change anything.
    pub(super) fn open_for_ever(&self) {
        self.open_until.store(u64::MAX, Ordering::Release);
    }

    fn millis_at(&self, time: Instant) -> u64 {
        time.saturating_duration_since(self.started).as_millis() as u64
    }

    pub(super) fn is_open(&self) -> bool {
        let until = self.open_until.load(Ordering::Acquire);
        until == u64::MAX || self.millis_at(Instant::now()) < until
    }

    /// Closes the gate until the record is read, unless it is open for ever.
    pub(super) fn close(&self) {
        if self.open_until.load(Ordering::Acquire) != u64::MAX {
            // So that a reader does not open it in between, with what it had read before.
            let _held = self.held.locked();
            self.closed_since.store(self.millis_at(Instant::now()) + 1, Ordering::Release);
            self.open_until.store(0, Ordering::Release);
            self.wanted.notify_one();
        }
    }

    /// Whether the gate is open, and no event waits here.
    pub(super) fn is_clear(&self) -> bool {
        !self.is_holding.load(Ordering::Acquire) && self.is_open()
    }

    /// Passes an event on with `route`, or keeps it until the gate is open. Returns how many messages wait before this
    /// one, at its shard or here. The caller passes events in their order.
    pub(super) fn pass(&self, event: Event, route: impl FnOnce(Event) -> usize) -> usize {
        if self.is_clear() {
            return route(event);
        }
        let mut held = self.held.locked();
        if held.events.is_empty() && self.is_open() {
            drop(held);
            return route(event);
        }
        let waiting = held.push(event);
        self.is_holding.store(true, Ordering::Release);
        self.wanted.notify_one();
        waiting
    }

    /// The record was read, and rooms have the plugins that it names; or the store has several servers, and that of the
    /// record could not be asked. `began` is when reading began. Passes on what was held.
    pub(super) fn renew(&self, began: Instant, mut route: impl FnMut(Event) -> usize) {
        let began = self.millis_at(began);
        let mut held = self.held.locked();
        if began < self.closed_since.load(Ordering::Acquire) {
            self.wanted.notify_one();
            return;
        }
        self.open_until.fetch_max(began + VALIDITY.as_millis() as u64, Ordering::AcqRel);
        if self.is_open() {
            for event in held.events.drain(..) {
                route(event);
            }
            self.is_holding.store(false, Ordering::Release);
            *held = HeldEvents::default();
            self.opened.notify_waiters();
        }
    }

    /// Waits until somebody needs the record to be read.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Waits until the gate is open.
    pub(super) async fn opened(&self) {
        loop {
            let opened = self.opened.notified();
            if self.is_open() {
                return;
            }
            self.wanted.notify_one();
            opened.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn event(room: &str) -> Event {
        Event::SubscribeFailed { room: room.into() }
    }

    fn room(event: Event) -> Arc<str> {
        match event {
            Event::SubscribeFailed { room } => room,
            other => panic!("{other:?}"),
        }
    }

    /// Passes an event, and returns the rooms that were routed.
    fn pass(gate: &GovernanceGate, name: &str) -> Vec<Arc<str>> {
        let mut routed = vec![];
        gate.pass(event(name), |event| {
            routed.push(room(event));
            0
        });
        routed
    }

    fn renew(gate: &GovernanceGate, began: Instant) -> Vec<Arc<str>> {
        let mut routed = vec![];
        gate.renew(began, |event| {
            routed.push(room(event));
            0
        });
        routed
    }

    #[test]
    fn events_wait_in_their_order_until_the_record_was_read() {
        let gate = GovernanceGate::new();
        assert_eq!((pass(&gate, "a"), pass(&gate, "b")), (vec![], vec![]));
        assert_eq!(renew(&gate, Instant::now()), ["a".into(), "b".into()]);
        assert_eq!(pass(&gate, "c"), ["c".into()]);
        gate.close();
        assert_eq!(pass(&gate, "d"), []);
        let before = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(renew(&gate, before), [], "reading had begun before the gate was closed");
        assert_eq!(renew(&gate, Instant::now() + Duration::from_millis(2)), ["d".into()]);
    }

    #[test]
    fn what_was_read_is_valid_for_a_while_only() {
        let gate = GovernanceGate::new();
        let old = GovernanceGate {
            started: Instant::now().checked_sub(2 * VALIDITY).unwrap(),
            ..GovernanceGate::new()
        };
        let long_ago = Instant::now().checked_sub(VALIDITY).unwrap();
        assert_eq!(renew(&old, long_ago), []);
        assert!(!old.is_open() && pass(&old, "a").is_empty(), "the process was stopped while it was read");
        assert_eq!(renew(&old, Instant::now()), ["a".into()]);
        gate.open_for_ever();
        gate.close();
        assert_eq!(pass(&gate, "a"), ["a".into()], "a single node has nobody to wait for");
    }

    #[tokio::test]
    async fn those_who_wait_are_woken() {
        let gate = Arc::new(GovernanceGate::new());
        let waiting = gate.clone();
        let waiting = tokio::spawn(async move { waiting.opened().await });
        gate.wanted().await;
        renew(&gate, Instant::now());
        waiting.await.unwrap();
    }
}
