//! A bounded number of slots for connections that have not authenticated. If all are taken, one connection
//! that waits for its peer is evicted: the oldest of the address that has the most.
//!
//! If new connections were refused instead, anybody could lock out all others by taking every slot and
//! staying silent. The oldest is evicted because a well-behaved client has authenticated after a few round
//! trips, and it is one of the address with the most because a client that opens many connections should
//! displace its own. No connection is evicted within its grace period, or while it waits for this node. Until
//! one can be evicted, new connections wait in the system's accept queue. So a crowd that connects at once
//! gets in as fast as the node can serve it.

use super::AddressRange;
use futures_util::task::AtomicWaker;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};
use switchyard_process::lock::LockExt;
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

/// How long to wait before looking again for a connection to evict, if all of them wait for this node.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// How many connections of the largest group are considered for eviction.
const MAX_CANDIDATES: usize = 16;

/// The slots of one listener.
pub(crate) struct Slots {
    capacity: usize,
    max_per_address: Option<usize>,
    /// How long a connection is safe from eviction.
    grace: Duration,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    /// The number of the next occupant. The oldest occupant has the lowest number.
    next_number: u64,
    taken: usize,
    groups: HashMap<AddressRange, BTreeMap<u64, Arc<Occupant>>>,
    /// The groups, ordered by how many slots they have.
    by_size: BTreeSet<(usize, AddressRange)>,
}

/// The connection that has a slot.
struct Occupant {
    since: Instant,
    /// What the connection runs at the moment. `None` if it runs nothing.
    work: Mutex<Option<Arc<Work>>>,
    /// How many guards say that it works for its peer. It may be slow then, but it does not wait for the peer.
    busy: Arc<AtomicUsize>,
    evicted: AtomicBool,
}

/// Why there is no slot.
#[derive(Debug, PartialEq)]
pub(crate) enum NoSlot {
    /// The address has reached its limit.
    AddressLimit,
    /// All slots are taken. Try again at this time, or earlier if one is freed.
    RetryAt(Instant),
}

impl Slots {
    pub(crate) fn new(capacity: usize, max_per_address: Option<usize>, grace: Duration) -> Arc<Self> {
        Arc::new(Self { capacity, max_per_address, grace, state: Mutex::default(), freed: Notify::new() })
    }

    /// Takes a slot. Also returns whether another connection was evicted for it. The limit per address does
    /// not apply to a trusted address.
    pub(crate) fn acquire(
        self: &Arc<Self>,
        group: AddressRange,
        is_trusted: bool,
    ) -> Result<(Slot, bool), NoSlot> {
        let mut state = self.state();
        if !is_trusted && self.is_limit_reached(&state, group) {
            return Err(NoSlot::AddressLimit);
        }
        let is_full = state.taken >= self.capacity;
        if is_full {
            state.evict_one(self.grace).map_err(NoSlot::RetryAt)?;
        }
        let busy = Arc::default();
        let (number, occupant) = state.add(group, &busy);
        let occupancy = Mutex::new(Some(Occupancy { group, number, occupant }));
        Ok((Slot { occupancy, busy, slots: self.clone() }, is_full))
    }

    /// Whether a slot is free.
    pub(crate) fn has_room(&self) -> bool {
        self.state().taken < self.capacity
    }

    /// Whether an address has as many slots as it may have.
    fn is_limit_reached(&self, state: &State, group: AddressRange) -> bool {
        let own = state.groups.get(&group).map_or(0, BTreeMap::len);
        self.max_per_address.is_some_and(|max| own >= max)
    }

    /// Evicts a connection that waits for its peer. `Err`: when to try again, or `None` if no slot is taken.
    pub(crate) fn evict_one(&self) -> Result<(), Option<Instant>> {
        let mut state = self.state();
        match state.taken {
            0 => Err(None),
            _ => state.evict_one(self.grace).map_err(Some),
        }
    }

    /// Completes once a connection gives its slot back after this call.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }
}

impl State {
    fn add(&mut self, group: AddressRange, busy: &Arc<AtomicUsize>) -> (u64, Arc<Occupant>) {
        let number = self.next_number;
        self.next_number += 1;
        let occupant = Arc::new(Occupant {
            since: Instant::now(),
            work: Mutex::default(),
            busy: busy.clone(),
            evicted: AtomicBool::new(false),
        });
        self.insert(group, number, occupant.clone());
        (number, occupant)
    }

    fn insert(&mut self, group: AddressRange, number: u64, occupant: Arc<Occupant>) {
        self.taken += 1;
        let occupants = self.groups.entry(group).or_default();
        self.by_size.remove(&(occupants.len(), group));
        occupants.insert(number, occupant);
        self.by_size.insert((occupants.len(), group));
    }

    fn remove(&mut self, group: AddressRange, number: u64) -> Option<Arc<Occupant>> {
        let occupants = self.groups.get_mut(&group)?;
        let occupant = occupants.remove(&number)?;
        self.by_size.remove(&(occupants.len() + 1, group));
        match occupants.is_empty() {
            true => drop(self.groups.remove(&group)),
            false => drop(self.by_size.insert((occupants.len(), group))),
        }
        self.taken -= 1;
        Some(occupant)
    }

    /// `Err`: when to try again.
    fn evict_one(&mut self, grace: Duration) -> Result<(), Instant> {
        let now = Instant::now();
        let mut retry_at = now + RETRY_INTERVAL;
        let Some((_, largest)) = self.by_size.last().copied() else { return Err(retry_at) };
        let mut found = None;
        for (number, occupant) in self.groups[&largest].iter().take(MAX_CANDIDATES) {
            if now < occupant.since + grace {
                // The following ones are younger still.
                retry_at = retry_at.max(occupant.since + grace);
                break;
            }
            if occupant.waits_for_peer() {
                found = Some(*number);
                break;
            }
        }
        let occupant = found.and_then(|number| self.remove(largest, number)).ok_or(retry_at)?;
        occupant.evict();
        Ok(())
    }
}

impl Occupant {
    fn waits_for_peer(&self) -> bool {
        let is_idle = |work: &Arc<Work>| work.state.load(Ordering::Acquire) == IDLE;
        self.busy.load(Ordering::Acquire) == 0 && self.work().as_ref().is_some_and(is_idle)
    }

    fn evict(&self) {
        self.evicted.store(true, Ordering::Release);
        self.work().iter().for_each(|work| work.task.wake());
    }

    fn work(&self) -> MutexGuard<'_, Option<Arc<Work>>> {
        self.work.locked()
    }
}

/// A connection's slot. It is given back when this is dropped.
pub(crate) struct Slot {
    /// `None` once the slot was given back.
    occupancy: Mutex<Option<Occupancy>>,
    busy: Arc<AtomicUsize>,
    slots: Arc<Slots>,
}

struct Occupancy {
    group: AddressRange,
    number: u64,
    occupant: Arc<Occupant>,
}

impl Slot {
    /// Runs `work` for the connection. Only one call may run at a time. `None`: the connection was evicted.
    pub(crate) async fn run<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        let own = Arc::new(Work::default());
        let waker = Waker::from(own.clone());
        if let Some(occupancy) = &*self.occupancy() {
            *occupancy.occupant.work() = Some(own.clone());
        }
        poll_fn(|cx| {
            own.task.register(cx.waker());
            let is_evicted = |occupancy: &Occupancy| occupancy.occupant.evicted.load(Ordering::Acquire);
            if self.occupancy().as_ref().is_some_and(is_evicted) {
                return Poll::Ready(None);
            }
            own.state.store(RUNNING, Ordering::Release);
            let polled = work.as_mut().poll(&mut Context::from_waker(&waker));
            // Fails if it was woken during the poll, and is not idle then.
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            own.state.compare_exchange(RUNNING, IDLE, success, failure).ok();
            polled.map(Some)
        })
        .await
    }

    /// Gives the slot back. Returns whether the connection still had it.
    pub(crate) fn release(&self) -> bool {
        let Some(Occupancy { group, number, .. }) = self.occupancy().take() else { return false };
        self.slots.state().remove(group, number);
        self.slots.freed.notify_waiters();
        true
    }

    /// Counts the slot for another address from now on, without changing how long the connection has had it.
    /// Returns false if that address has reached its limit, which applies unless it `is_exempt`. Nothing has
    /// changed then.
    pub(crate) fn move_to(&self, group: AddressRange, is_exempt: bool) -> bool {
        let mut occupancy = self.occupancy();
        let Some(occupancy) = occupancy.as_mut().filter(|occupancy| occupancy.group != group) else {
            return true;
        };
        let mut state = self.slots.state();
        if !is_exempt && self.slots.is_limit_reached(&state, group) {
            return false;
        }
        // It is gone from there if the connection was evicted.
        if let Some(occupant) = state.remove(occupancy.group, occupancy.number) {
            state.insert(group, occupancy.number, occupant);
        }
        occupancy.group = group;
        true
    }

    /// Marks the connection as working for its peer until the guard is dropped. Its grace period then starts
    /// again.
    pub(crate) fn busy(self: &Arc<Self>) -> EvictionGuard {
        self.busy.fetch_add(1, Ordering::AcqRel);
        EvictionGuard(self.clone())
    }

    fn occupancy(&self) -> MutexGuard<'_, Option<Occupancy>> {
        self.occupancy.locked()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.release();
    }
}

/// Keeps a connection from being evicted while it works for its peer.
pub(crate) struct EvictionGuard(Arc<Slot>);

impl Drop for EvictionGuard {
    fn drop(&mut self) {
        let Self(slot) = self;
        slot.busy.fetch_sub(1, Ordering::AcqRel);
        let mut occupancy = slot.occupancy();
        let Some(Occupancy { group, number, occupant }) = &mut *occupancy else { return };
        let mut state = slot.slots.state();
        // It is gone from there if it was evicted before it was busy.
        if state.remove(*group, *number).is_some() {
            let (new_number, renewed) = state.add(*group, &slot.busy);
            *renewed.work() = occupant.work().take();
            (*number, *occupant) = (new_number, renewed);
        }
    }
}

/// The waker of what a connection runs. It knows whether that waits to be polled, or for something else to
/// happen.
#[derive(Default)]
struct Work {
    state: AtomicU8,
    task: AtomicWaker,
}

/// Woken, but not polled since: it waits for this node.
const WOKEN: u8 = 0;
/// Being polled.
const RUNNING: u8 = 1;
/// Polled, and not woken since: it waits for its peer.
const IDLE: u8 = 2;

impl Wake for Work {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.state.store(WOKEN, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests;
