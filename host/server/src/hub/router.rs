//! Which shard owns a room: that of the first plugin with a matching pattern, or else one of the shards for
//! ungoverned rooms, by hash. Passes commands to the owner. Does not own the shards.
//!
//! The owners can change while the node runs. A command is looked up and queued under one lock, so every
//! shard receives all commands by the old owners before the handover, and all by the new ones after it.

use super::{
    MAX_SHARD_BACKLOG,
    command::{Handover, ShardCommand, ShardQueue},
    recent_publishers::RecentPublishers,
};
use std::{
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use switchyard_process::lock::NOT_POISONED;
use switchyard_protocol::{ErrorCode, Refusal, room::RoomPattern};
use tokio::sync::oneshot;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// When a publisher may try again if its room is just changing its owner.
const RETRY_AFTER_HANDOVER_MS: u64 = 200;

/// Identifies a shard. Ids are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShardId(usize);

/// Finds the shard of a room, and passes commands to it.
pub(crate) struct Router {
    table: RwLock<Table>,
}

/// Which shard owns which rooms. Whoever holds it can find an owner and put commands into its queue, while no
/// owner changes. Held for that only.
pub(super) struct Table {
    owners: Arc<Owners>,
    /// The owners after the change that is under way. Rooms whose owner will change accept no messages.
    next: Option<Arc<Owners>>,
    /// By id. `None` if the slot was removed.
    shards: Vec<Option<ShardHandle>>,
}

/// The owners of all rooms.
#[derive(Clone, Debug)]
pub(crate) struct Owners {
    /// The patterns of each slot, in the order of precedence.
    governed: Vec<(ShardId, Arc<[RoomPattern]>)>,
    ungoverned: Vec<ShardId>,
    hasher: RandomState,
}

/// How the router reaches a shard.
#[derive(Clone)]
pub(super) struct ShardHandle {
    pub queue: ShardQueue,
    /// Number of messages that wait for the shard.
    pub backlog: Arc<AtomicUsize>,
    /// `None` for ungoverned rooms.
    pub governed: Option<Arc<GovernedRooms>>,
    /// The messages that are being published to the rooms of the shard. Replaced when some of its rooms are
    /// closed.
    publishing: TaskTracker,
}

/// The rooms of a plugin, as publishers see them.
pub(super) struct GovernedRooms {
    /// The plugin's name in the configuration.
    pub name: Arc<str>,
    pub publishers: RecentPublishers,
    /// Whether the plugin's shard must check messages before they are stored. Set by the shard between two
    /// commands.
    wants_publishes: AtomicBool,
}

/// Where a message is published.
pub(super) struct PublishRoute {
    pub shard: ShardId,
    pub governed: Option<Arc<GovernedRooms>>,
    pub permit: PublishPermit,
}

/// Held while a message is being published. The room's owner does not change meanwhile.
pub(super) struct PublishPermit {
    _token: TaskTrackerToken,
}

impl ShardId {
    /// The ungoverned shards have the first ids.
    pub(super) fn of_ungoverned(index: usize) -> Self {
        Self(index)
    }
}

impl ShardHandle {
    pub(super) fn new(queue: ShardQueue, governed: Option<Arc<GovernedRooms>>) -> Self {
        Self { queue, backlog: Arc::default(), governed, publishing: TaskTracker::new() }
    }
}

impl GovernedRooms {
    /// Messages must be checked until the shard says otherwise.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            publishers: RecentPublishers::default(),
            wants_publishes: AtomicBool::new(true),
        }
    }

    pub(super) fn wants_publishes(&self) -> bool {
        self.wants_publishes.load(Ordering::Acquire)
    }

    pub(super) fn set_wants_publishes(&self, wants: bool) {
        if self.wants_publishes.load(Ordering::Relaxed) != wants {
            self.wants_publishes.store(wants, Ordering::Release);
        }
    }
}

impl Owners {
    pub(super) fn owner(&self, room: &str) -> ShardId {
        // The room `*` and inboxes are never governed.
        let governed = match room.starts_with(['*', '@']) {
            true => None,
            false => self
                .governed
                .iter()
                .find(|(_, patterns)| patterns.iter().any(|pattern| pattern.matches(room))),
        };
        match governed {
            Some((shard, _)) => *shard,
            None => self.ungoverned[self.hasher.hash_one(room) as usize % self.ungoverned.len()],
        }
    }

    /// The shards that may own other rooms than before. The slots before the first difference have the same
    /// rooms as ever.
    fn affected(&self, next: &Owners) -> BTreeSet<ShardId> {
        let same = self.governed.iter().zip(&next.governed).take_while(|(old, new)| old == new).count();
        let slots = self.governed[same..].iter().chain(&next.governed[same..]);
        let slots: BTreeSet<_> = slots.map(|(shard, _)| *shard).collect();
        match slots.is_empty() {
            true => slots,
            false => slots.into_iter().chain(self.ungoverned.iter().copied()).collect(),
        }
    }
}

impl Table {
    pub(super) fn shard(&self, id: ShardId) -> Option<&ShardHandle> {
        self.shards[id.0].as_ref()
    }

    pub(super) fn owner(&self, room: &str) -> &ShardHandle {
        self.owner_and_id(room).1
    }

    fn owner_and_id(&self, room: &str) -> (ShardId, &ShardHandle) {
        let id = self.owners.owner(room);
        (id, self.shard(id).expect("a slot is removed after its rooms have other owners"))
    }
}

impl Router {
    /// A router for these shards, which own the ungoverned rooms.
    pub(super) fn new(ungoverned: Vec<ShardHandle>) -> Self {
        let ids = (0..ungoverned.len()).map(ShardId).collect();
        let owners = Owners { governed: vec![], ungoverned: ids, hasher: RandomState::new() };
        let shards = ungoverned.into_iter().map(Some).collect();
        Self { table: RwLock::new(Table { owners: Arc::new(owners), next: None, shards }) }
    }

    /// Waits while owners are changing, for microseconds.
    pub(super) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().expect(NOT_POISONED)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().expect(NOT_POISONED)
    }

    /// Adds a shard that owns no rooms yet.
    pub(super) fn add(&self, shard: ShardHandle) -> ShardId {
        let mut table = self.table_mut();
        table.shards.push(Some(shard));
        ShardId(table.shards.len() - 1)
    }

    /// Removes a shard that owns no rooms any more. It ends when it has handled what is in its queue.
    pub(super) fn remove(&self, id: ShardId) {
        self.table_mut().shards[id.0] = None;
    }

    /// Passes a command to the owner of a room.
    pub(super) fn send(&self, room: &str, command: ShardCommand) {
        self.table().owner(room).queue.send(command).ok();
    }

    /// Passes a command to a shard, whichever rooms it owns.
    pub(super) fn send_to(&self, id: ShardId, command: ShardCommand) {
        if let Some(shard) = self.table().shard(id) {
            shard.queue.send(command).ok();
        }
    }

    pub(super) fn owner(&self, room: &str) -> ShardId {
        self.table().owners.owner(room)
    }

    /// The plugin that governs a room.
    pub(super) fn governed(&self, room: &str) -> Option<Arc<GovernedRooms>> {
        self.table().owner(room).governed.clone()
    }

    /// Finds the way of a message, or refuses it if the shard of its room does not keep up, or if the room is
    /// about to have another owner.
    pub(super) fn publish_route(&self, room: &str) -> Result<PublishRoute, Refusal> {
        let table = self.table();
        let (id, shard) = table.owner_and_id(room);
        if shard.backlog.load(Ordering::Relaxed) >= MAX_SHARD_BACKLOG {
            let message =
                format!("room '{room}' has {MAX_SHARD_BACKLOG} messages waiting to be delivered; slow down");
            return Err(Refusal::retry(ErrorCode::Overloaded, message, 1000));
        }
        if table.next.as_ref().is_some_and(|next| next.owner(room) != id) {
            return Err(changing_governor(room));
        }
        let permit = PublishPermit { _token: shard.publishing.token() };
        Ok(PublishRoute { shard: id, governed: shard.governed.clone(), permit })
    }

    /// The owners of all rooms if these slots have these patterns, in this order.
    pub(super) fn with_slots(&self, slots: Vec<(ShardId, Arc<[RoomPattern]>)>) -> Arc<Owners> {
        let Owners { ungoverned, hasher, .. } = &*self.table().owners;
        Arc::new(Owners { governed: slots, ungoverned: ungoverned.clone(), hasher: hasher.clone() })
    }

    /// Closes the rooms that will have another owner to messages. Returns the messages that are under way to
    /// the shards that may lose rooms.
    pub(super) fn close_changing(&self, next: Arc<Owners>) -> Vec<TaskTracker> {
        let mut table = self.table_mut();
        let affected = table.owners.affected(&next);
        table.next = Some(next);
        let mut under_way = vec![];
        for id in affected {
            let Some(shard) = &mut table.shards[id.0] else { continue };
            let publishing = std::mem::take(&mut shard.publishing);
            publishing.close();
            under_way.push(publishing);
        }
        under_way
    }

    /// Makes the owners of [`close_changing`](Self::close_changing) the current ones, and tells the shards to
    /// hand their rooms over. Each shard replies when it has what it was given.
    pub(super) fn hand_over(&self) -> Vec<oneshot::Receiver<()>> {
        let mut table = self.table_mut();
        let Some(next) = table.next.take() else { return vec![] };
        let previous = std::mem::replace(&mut table.owners, next.clone());
        let affected = previous.affected(&next);
        let handover = Arc::new(Handover { previous, next, sources: affected.clone() });
        let command = |id: &ShardId| {
            let (reply, done) = oneshot::channel();
            let shard = table.shard(*id)?;
            shard.queue.send(ShardCommand::HandOver { handover: handover.clone(), reply }).ok();
            Some(done)
        };
        affected.iter().filter_map(command).collect()
    }
}

/// The refusal of a message to a room that is just changing its governor.
pub(super) fn changing_governor(room: &str) -> Refusal {
    let message = format!("room '{room}' is being handed over to another plugin; try again");
    Refusal::retry(ErrorCode::PluginFailed, message, RETRY_AFTER_HANDOVER_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(governed: Option<&str>) -> ShardHandle {
        let (queue, _) = tokio::sync::mpsc::unbounded_channel();
        ShardHandle::new(queue, governed.map(|name| Arc::new(GovernedRooms::new(name))))
    }

    fn patterns(text: &str) -> Arc<[RoomPattern]> {
        text.split(' ').map(|pattern| RoomPattern::try_from(pattern.to_owned()).unwrap()).collect()
    }

    #[test]
    fn the_first_matching_plugin_governs_and_reserved_rooms_have_none() {
        let router = Router::new(vec![handle(None), handle(None)]);
        let [dydx, rest] = ["dydx", "rest"].map(|name| router.add(handle(Some(name))));
        router.close_changing(router.with_slots(vec![(dydx, patterns("dydx:*")), (rest, patterns("**"))]));
        let governor = |room| router.governed(room).map(|governed| governed.name.to_string());
        assert_eq!(governor("dydx:a"), None, "not before the handover");
        assert!(router.publish_route("dydx:a").is_err(), "closed until then");
        assert!(router.publish_route("*").is_ok() && router.publish_route("@acme").is_ok());
        router.hand_over();
        assert_eq!(governor("dydx:a").as_deref(), Some("dydx"));
        assert_eq!(governor("other").as_deref(), Some("rest"));
        assert_eq!((governor("*"), governor("@acme")), (None, None));
        assert!(router.publish_route("dydx:a").is_ok());
    }

    #[test]
    fn only_shards_behind_the_first_difference_may_own_other_rooms() {
        let router = Router::new(vec![handle(None)]);
        let [a, b, c] = ["a", "b", "c"].map(|name| router.add(handle(Some(name))));
        let ungoverned = ShardId(0);
        let before =
            router.with_slots(vec![(a, patterns("a:*")), (b, patterns("b:* x")), (c, patterns("c:*"))]);
        let affected = |slots| before.affected(&router.with_slots(slots)).into_iter().collect::<Vec<_>>();
        let all = |b_rooms| vec![(a, patterns("a:*")), (b, patterns(b_rooms)), (c, patterns("c:*"))];
        assert_eq!(affected(all("b:* x")), []);
        assert_eq!(affected(all("b:*")), [ungoverned, b, c]);
        assert_eq!(affected(vec![(a, patterns("a:*")), (b, patterns("b:* x"))]), [ungoverned, c]);
        assert_eq!(affected(vec![(b, patterns("b:* x")), (c, patterns("c:*"))]), [ungoverned, a, b, c]);
    }

    #[tokio::test]
    async fn messages_that_are_under_way_delay_the_handover_and_later_ones_do_not() {
        let router = Router::new(vec![handle(None)]);
        let a = router.add(handle(Some("a")));
        let under_way = router.publish_route("a:1").unwrap();
        let trackers = router.close_changing(router.with_slots(vec![(a, patterns("a:*"))]));
        let other = router.publish_route("b").unwrap();
        let drained = async {
            for tracker in trackers {
                tracker.wait().await;
            }
        };
        tokio::pin!(drained);
        assert!(futures_util::poll!(&mut drained).is_pending());
        drop(under_way.permit);
        drained.await;
        drop(other);
    }
}
