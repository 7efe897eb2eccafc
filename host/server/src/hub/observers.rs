//! Candidates of plugins that govern nothing yet. They see what clients ask about the rooms that they would govern, and
//! what was decided without them. Decides nothing.

use super::{Hub, conflict};
use arc_swap::ArcSwap;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use switchyard_plugin::{ConnectRequest, Counts, Mirror, Principal, PublishRequest};
use switchyard_protocol::{
    Refusal,
    room::{RoomPattern, any_governs},
};

/// Maximum number of observers of a node. Each needs an instance of its plugin.
pub(crate) const MAX_OBSERVERS: usize = 8;

/// A candidate of a plugin that governs nothing yet.
#[derive(Clone)]
pub(crate) struct Observer {
    /// The name that its plugin will have.
    pub name: String,
    /// The rooms that it would govern.
    pub patterns: Arc<[RoomPattern]>,
    /// The names of the headers that its connect hook sees, in lower case.
    pub headers: Vec<String>,
    pub mirror: Mirror,
}

/// The observers of a node.
#[derive(Default)]
pub(super) struct Observers {
    all: ArcSwap<Vec<Observer>>,
    /// Read with each request, so that they cost nothing as long as there are none.
    are_there: AtomicBool,
}

impl Hub {
    /// Adds an observer, or replaces the one of that name.
    pub(crate) fn add_observer(&self, observer: Observer) -> Result<(), Refusal> {
        let mut all = Vec::clone(&self.observers.all.load());
        all.retain(|other| other.name != observer.name);
        if all.len() >= MAX_OBSERVERS {
            return Err(conflict(format!(
                "this node already runs {MAX_OBSERVERS} candidates of new plugins; drop one first"
            )));
        }
        all.push(observer);
        self.observers.store(all);
        Ok(())
    }

    pub(crate) fn remove_observer(&self, name: &str) {
        let mut all = Vec::clone(&self.observers.all.load());
        all.retain(|other| other.name != name);
        self.observers.store(all);
    }
}

impl Observers {
    fn store(&self, all: Vec<Observer>) {
        self.are_there.store(!all.is_empty(), Ordering::Release);
        self.all.store(Arc::new(all));
    }

    pub(super) fn are_there(&self) -> bool {
        self.are_there.load(Ordering::Acquire)
    }

    /// The headers that observers see.
    pub(super) fn headers(&self) -> Vec<String> {
        self.all.load().iter().flat_map(|observer| observer.headers.clone()).collect()
    }

    pub(super) fn connecting(&self, request: &ConnectRequest, refusal: Option<&Refusal>) {
        for observer in self.all.load().iter() {
            observer.mirror.observe_connect(request, reason(refusal));
        }
    }

    pub(super) fn subscribing(
        &self,
        principal: &Principal,
        room: &str,
        filter: Option<&str>,
        counts: Counts,
        refusal: Option<&Refusal>,
    ) {
        self.each_of(room, |mirror| {
            mirror.observe_subscribe(principal, room, filter, counts, reason(refusal));
        });
    }

    pub(super) fn publishing(&self, request: &PublishRequest<'_>, refusal: Option<&str>) {
        self.each_of(request.room, |mirror| mirror.observe_publish(request, refusal));
    }

    /// The observers of a room.
    fn each_of(&self, room: &str, show: impl Fn(&Mirror)) {
        for observer in self.all.load().iter() {
            if any_governs(&observer.patterns, room) {
                show(&observer.mirror);
            }
        }
    }
}

fn reason(refusal: Option<&Refusal>) -> Option<&str> {
    refusal.map(|refusal| &*refusal.message)
}
