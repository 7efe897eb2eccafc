//! A bounded number of places for connections that nobody vouches for. When there is none left, one that keeps the node waiting
//! makes room for who comes: of those from the address that has most of them, the one that has been there longest.
//!
//! Turning away who comes would let anybody lock all others out by holding every place in silence. The longest there goes, and not
//! just any, because a client that means well is through within a few round trips; and of the address that has most, so that
//! whoever opens many displaces its own. Nobody has to go within its grace, nor while it is this node that is late: until then who
//! comes waits, in the system's queue, so that a crowd that comes at once gets in as fast as the node can take it.

use super::Group;
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
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

/// Until it is looked again where it is the node that is late.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Connections of an address that are looked at for one that can go.
const LOOKED_AT: usize = 16;

pub(crate) struct Slots {
    most: usize,
    by_address: Option<usize>,
    /// How long a connection is left alone, however many wait.
    grace: Duration,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    /// In all; rises with each place that is taken.
    next: u64,
    taken: usize,
    /// Those that have been there longest come first.
    groups: HashMap<Group, BTreeMap<u64, Arc<Entry>>>,
    /// The groups by how many they have.
    by_size: BTreeSet<(usize, Group)>,
}

struct Entry {
    since: Instant,
    /// What it is about at this moment, where it is about anything.
    work: Mutex<Option<Arc<Work>>>,
    /// It serves somebody: it may be slow, but it is not the peer who keeps it waiting.
    busy: Arc<AtomicUsize>,
    dismissed: AtomicBool,
}

/// Why there is no place.
#[derive(Debug, PartialEq)]
pub(crate) enum Full {
    /// Its address has as many as it may have.
    Address,
    /// It is worth asking again then, at the latest.
    Until(Instant),
}

impl Slots {
    pub(crate) fn new(most: usize, by_address: Option<usize>, grace: Duration) -> Arc<Self> {
        Arc::new(Self { most, by_address, grace, state: Mutex::default(), freed: Notify::new() })
    }

    /// A place, and whether another had to go for it. The limit of an address does not hold for one that is trusted.
    pub(crate) fn take(self: &Arc<Self>, group: Group, is_trusted: bool) -> Result<(Slot, bool), Full> {
        let mut state = self.state();
        let own = state.groups.get(&group).map_or(0, BTreeMap::len);
        if !is_trusted && self.by_address.is_some_and(|most| own >= most) {
            return Err(Full::Address);
        }
        let is_full = state.taken >= self.most;
        if is_full {
            state.make_room(self.grace).map_err(Full::Until)?;
        }
        let busy = Arc::default();
        let (number, entry) = state.add(group, &busy);
        let place = Mutex::new(Some(Place { number, entry }));
        Ok((Slot { group, place, busy, slots: self.clone() }, is_full))
    }

    /// One that keeps the node waiting goes; `Err`: when that may be so of one, or `None` where there are none at all.
    pub(crate) fn make_room(&self) -> Result<(), Option<Instant>> {
        let mut state = self.state();
        match state.taken {
            0 => Err(None),
            _ => state.make_room(self.grace).map_err(Some),
        }
    }

    /// Returns when a place was left since this was made.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the places")
    }
}

impl State {
    fn add(&mut self, group: Group, busy: &Arc<AtomicUsize>) -> (u64, Arc<Entry>) {
        let number = self.next;
        self.next += 1;
        self.taken += 1;
        let entry = Arc::new(Entry {
            since: Instant::now(),
            work: Mutex::default(),
            busy: busy.clone(),
            dismissed: AtomicBool::new(false),
        });
        let entries = self.groups.entry(group).or_default();
        self.by_size.remove(&(entries.len(), group));
        entries.insert(number, entry.clone());
        self.by_size.insert((entries.len(), group));
        (number, entry)
    }

    fn remove(&mut self, group: Group, number: u64) -> Option<Arc<Entry>> {
        let entries = self.groups.get_mut(&group)?;
        let entry = entries.remove(&number)?;
        self.by_size.remove(&(entries.len() + 1, group));
        match entries.is_empty() {
            true => drop(self.groups.remove(&group)),
            false => drop(self.by_size.insert((entries.len(), group))),
        }
        self.taken -= 1;
        Some(entry)
    }

    fn make_room(&mut self, grace: Duration) -> Result<(), Instant> {
        let now = Instant::now();
        let mut again = now + LOOK_AGAIN;
        let Some((_, group)) = self.by_size.last().copied() else { return Err(again) };
        let mut found = None;
        for (number, entry) in self.groups[&group].iter().take(LOOKED_AT) {
            if now < entry.since + grace {
                // So are all behind it.
                again = again.max(entry.since + grace);
                break;
            }
            if entry.waits_for_peer() {
                found = Some(*number);
                break;
            }
        }
        let entry = found.and_then(|number| self.remove(group, number)).ok_or(again)?;
        entry.dismiss();
        Ok(())
    }
}

impl Entry {
    fn waits_for_peer(&self) -> bool {
        let is_idle = |work: &Arc<Work>| work.state.load(Ordering::Acquire) == IDLE;
        self.busy.load(Ordering::Acquire) == 0 && self.work().as_ref().is_some_and(is_idle)
    }

    fn dismiss(&self) {
        self.dismissed.store(true, Ordering::Release);
        self.work().iter().for_each(|work| work.task.wake());
    }

    fn work(&self) -> MutexGuard<'_, Option<Arc<Work>>> {
        self.work.lock().expect("no code panics while it holds the work")
    }
}

/// A connection's place, left when this is dropped.
pub(crate) struct Slot {
    group: Group,
    place: Mutex<Option<Place>>,
    busy: Arc<AtomicUsize>,
    slots: Arc<Slots>,
}

struct Place {
    number: u64,
    entry: Arc<Entry>,
}

impl Slot {
    /// Does this for the connection, one thing at a time; `None`: it had to make room.
    pub(crate) async fn run<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        let own = Arc::new(Work::default());
        let waker = Waker::from(own.clone());
        if let Some(place) = &*self.place() {
            *place.entry.work() = Some(own.clone());
        }
        poll_fn(|cx| {
            own.task.register(cx.waker());
            if self.place().as_ref().is_some_and(|place| place.entry.dismissed.load(Ordering::Acquire)) {
                return Poll::Ready(None);
            }
            own.state.store(RUNNING, Ordering::Release);
            let polled = work.as_mut().poll(&mut Context::from_waker(&waker));
            // Unless it was woken meanwhile.
            let (was, is) = (Ordering::AcqRel, Ordering::Acquire);
            own.state.compare_exchange(RUNNING, IDLE, was, is).ok();
            polled.map(Some)
        })
        .await
    }

    /// Somebody vouches for it now; whether it had a place until then.
    pub(crate) fn leave(&self) -> bool {
        let Some(Place { number, .. }) = self.place().take() else { return false };
        self.slots.state().remove(self.group, number);
        self.slots.freed.notify_waiters();
        true
    }

    /// It is at work for its peer, until this is dropped; then it counts as one that has just come.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Busy(self.clone())
    }

    fn place(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().expect("no code panics while it holds a place")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.leave();
    }
}

pub(crate) struct Busy(Arc<Slot>);

impl Drop for Busy {
    fn drop(&mut self) {
        let Self(slot) = self;
        slot.busy.fetch_sub(1, Ordering::AcqRel);
        let mut place = slot.place();
        let Some(Place { number, entry }) = &mut *place else { return };
        let mut state = slot.slots.state();
        // Not where it is to go already.
        if state.remove(slot.group, *number).is_some() {
            let (new, renewed) = state.add(slot.group, &slot.busy);
            *renewed.work() = entry.work().take();
            (*number, *entry) = (new, renewed);
        }
    }
}

/// What a connection is about, and whether that waits for the system or the system for it.
#[derive(Default)]
struct Work {
    state: AtomicU8,
    task: AtomicWaker,
}

/// What came has not been looked at yet.
const WOKEN: u8 = 0;
const RUNNING: u8 = 1;
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
