//! Which shard owns a room: one of those of the first plugin with a matching pattern, or else one of those for
//! ungoverned rooms, by hash. Passes commands to the owner. Does not own the shards.
//!
//! The owners can change while the node runs. A command is looked up and queued under one lock, so every
//! shard receives all commands by the old owners before the handover, and all by the new ones after it.

use super::{
    MAX_SHARD_BACKLOG, RoomSelector, Survey,
    command::{Handover, PolicyRequest, ShardCommand, ShardQueue},
    governed_rooms::GovernedRooms,
    refusals::changing_governor,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
};
use switchyard_process::lock::NOT_POISONED;
use switchyard_protocol::{
    ErrorCode, Refusal,
    room::{RoomPattern, any_governs},
};
use switchyard_store::Event;
use tokio::sync::{mpsc::error::SendError, oneshot};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// Identifies a shard. Ids are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShardId(usize);

/// Identifies a slot for a plugin. Ids are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SlotId(usize);

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
    /// Other rooms that accept no messages: not all nodes have handed them over yet.
    closed: Option<RoomSelector>,
    /// By id. `None` if it was removed.
    shards: Vec<Option<ShardHandle>>,
    slots: BTreeMap<SlotId, SlotShards>,
    next_slot: usize,
}

/// The shards of a slot.
struct SlotShards {
    rooms: Arc<GovernedRooms>,
    shards: Arc<[ShardId]>,
}

/// The owners of all rooms.
#[derive(Clone, Debug)]
pub(crate) struct Owners {
    /// In the order of precedence.
    governed: Vec<SlotOwners>,
    ungoverned: Arc<[ShardId]>,
    hasher: RandomState,
}

/// The rooms of a slot, and the shards over which they are spread.
#[derive(Clone, Debug)]
struct SlotOwners {
    slot: SlotId,
    patterns: Arc<[RoomPattern]>,
    shards: Arc<[ShardId]>,
}

/// How the router reaches a shard.
#[derive(Clone)]
pub(super) struct ShardHandle {
    pub queue: ShardQueue,
    /// Number of messages that wait for the shard.
    pub backlog: Arc<AtomicUsize>,
    /// What it shares with the other shards of its plugin. `None` for ungoverned rooms.
    pub governed: Option<Arc<GovernedRooms>>,
    /// The messages that are being published to the rooms of the shard. Replaced when some of its rooms are
    /// closed.
    publishing: TaskTracker,
}

/// Where a message is published.
pub(super) struct PublishRoute {
    pub shard: ShardId,
    pub governed: Option<Arc<GovernedRooms>>,
    pub permit: PublishPermit,
    /// Whether a change of owners was announced already, which does not wait for this message.
    is_late: bool,
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

    fn slot(&self) -> Option<SlotId> {
        self.governed.as_ref().map(|governed| governed.slot)
    }

    /// Refuses a message to a room of this shard if the shard does not keep up.
    fn check_backlog(&self, room: &str) -> Result<(), Refusal> {
        if self.backlog.load(Ordering::Relaxed) < MAX_SHARD_BACKLOG {
            return Ok(());
        }
        let message =
            format!("room '{room}' has {MAX_SHARD_BACKLOG} messages waiting to be delivered; slow down");
        Err(Refusal::retry(ErrorCode::Overloaded, message, 1000))
    }
}

impl Owners {
    pub(super) fn owner(&self, room: &str) -> ShardId {
        let shards = self.slot_owners(room).map_or(&self.ungoverned, |slot| &slot.shards);
        match &**shards {
            [only] => *only,
            shards => shards[self.hasher.hash_one(room) as usize % shards.len()],
        }
    }

    /// The slot of the plugin that governs a room.
    pub(super) fn slot(&self, room: &str) -> Option<SlotId> {
        self.slot_owners(room).map(|owners| owners.slot)
    }

    fn slot_owners(&self, room: &str) -> Option<&SlotOwners> {
        self.governed.iter().find(|slot| any_governs(&slot.patterns, room))
    }

    /// The shards that may own other rooms than before. The slots before the first difference have the same
    /// rooms as ever.
    fn affected(&self, next: &Owners) -> BTreeSet<ShardId> {
        let pairs = self.governed.iter().zip(&next.governed);
        let same =
            pairs.take_while(|(old, new)| old.slot == new.slot && old.patterns == new.patterns).count();
        let slots = self.governed[same..].iter().chain(&next.governed[same..]);
        let shards: BTreeSet<_> = slots.flat_map(|slot| slot.shards.iter().copied()).collect();
        match shards.is_empty() {
            true => shards,
            false => shards.into_iter().chain(self.ungoverned.iter().copied()).collect(),
        }
    }

    /// The same owners, but with these shards for a slot.
    fn with_shards(&self, slot: SlotId, shards: &Arc<[ShardId]>) -> Arc<Self> {
        let mut next = self.clone();
        next.governed.iter_mut().filter(|owners| owners.slot == slot).for_each(|owners| {
            owners.shards = shards.clone();
        });
        Arc::new(next)
    }
}

impl Table {
    fn add_shard(&mut self, shard: ShardHandle) -> ShardId {
        self.shards.push(Some(shard));
        ShardId(self.shards.len() - 1)
    }

    fn order_handover(&self, handover: Handover) -> Vec<oneshot::Receiver<()>> {
        let handover = Arc::new(handover);
        let command = |id: &ShardId| {
            let (reply, done) = oneshot::channel();
            let shard = self.shard(*id)?;
            shard.queue.send(ShardCommand::HandOver { handover: handover.clone(), reply }).ok();
            Some(done)
        };
        handover.sources.iter().filter_map(command).collect()
    }

    pub(super) fn shard(&self, id: ShardId) -> Option<&ShardHandle> {
        self.shards[id.0].as_ref()
    }

    pub(super) fn owner(&self, room: &str) -> &ShardHandle {
        self.owner_and_id(room).1
    }

    /// Whether a room is about to have another governor, or has one that not all nodes have.
    fn is_changing(&self, room: &str) -> bool {
        self.next.as_ref().is_some_and(|next| next.slot(room) != self.owners.slot(room))
            || self.closed.as_ref().is_some_and(|closed| closed(room))
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
        let owners = Arc::new(Owners { governed: vec![], ungoverned: ids, hasher: RandomState::new() });
        let shards = ungoverned.into_iter().map(Some).collect();
        let (slots, next_slot) = (BTreeMap::new(), 0);
        Self { table: RwLock::new(Table { owners, next: None, closed: None, shards, slots, next_slot }) }
    }

    /// Waits while owners are changing, for microseconds.
    pub(super) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().expect(NOT_POISONED)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().expect(NOT_POISONED)
    }

    /// Adds a slot that governs no rooms yet, with one shard. `rooms` makes what its shards share.
    pub(super) fn add_slot(
        &self,
        rooms: impl FnOnce(SlotId) -> Arc<GovernedRooms>,
        shard: impl FnOnce(&Arc<GovernedRooms>) -> ShardHandle,
    ) -> (SlotId, Arc<[ShardId]>) {
        let mut table = self.table_mut();
        let slot = SlotId(table.next_slot);
        table.next_slot += 1;
        let rooms = rooms(slot);
        let shards: Arc<[ShardId]> = [table.add_shard(shard(&rooms))].into();
        table.slots.insert(slot, SlotShards { rooms, shards: shards.clone() });
        (slot, shards)
    }

    /// Adds a shard that owns no rooms yet.
    pub(super) fn add_shard(&self, shard: ShardHandle) -> ShardId {
        self.table_mut().add_shard(shard)
    }

    pub(super) fn shard(&self, id: ShardId) -> Option<ShardHandle> {
        self.table().shard(id).cloned()
    }

    /// Removes shards that own no rooms any more. They end when they have handled what is in their queues. Returns
    /// the messages that are under way to rooms that they owned.
    pub(super) fn remove_shards(&self, ids: &[ShardId]) -> Vec<TaskTracker> {
        let mut table = self.table_mut();
        let removed: Vec<_> = ids.iter().filter_map(|id| table.shards[id.0].take()).collect();
        removed
            .into_iter()
            .map(|shard| {
                shard.publishing.close();
                shard.publishing
            })
            .collect()
    }

    /// Removes a slot that governs no rooms any more, with its shards.
    pub(super) fn remove_slot(&self, slot: SlotId) {
        let removed = self.table_mut().slots.remove(&slot);
        if let Some(slot) = removed {
            self.remove_shards(&slot.shards);
        }
    }

    /// What the shards of a slot share, and their ids.
    pub(super) fn slot_shards(&self, slot: SlotId) -> Option<(Arc<GovernedRooms>, Arc<[ShardId]>)> {
        let table = self.table();
        table.slots.get(&slot).map(|slot| (slot.rooms.clone(), slot.shards.clone()))
    }

    /// Passes a command to the owner of a room.
    pub(super) fn send(&self, room: &str, command: ShardCommand) {
        // What a shard that has ended does not take is dropped after the lock is released.
        let sent = self.table().owner(room).queue.send(command);
        drop(sent);
    }

    /// Passes a request to the owner of its room. Returns it if the shard has ended.
    pub(super) fn forward(&self, request: PolicyRequest) -> Option<PolicyRequest> {
        let sent = {
            let table = self.table();
            let queue = &table.owner(request.room()).queue;
            queue.send(ShardCommand::Request(request))
        };
        match sent {
            Err(SendError(ShardCommand::Request(request))) => Some(request),
            Ok(()) | Err(_) => None,
        }
    }

    /// Passes an event of the store to the owner of its room. Returns how many messages wait for that shard.
    pub(super) fn route_event(&self, event: Event) -> usize {
        let table = self.table();
        let room = match &event {
            Event::Published(message) => &message.room,
            Event::Subscribed { room, .. } | Event::SubscribeFailed { room } | Event::Lost { room, .. } => {
                room
            }
            Event::TakenOver(_) | Event::Probe(_) | Event::Reconnected => return 0,
        };
        let shard = table.owner(room);
        let waiting = match &event {
            Event::Published(_) => shard.backlog.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        shard.queue.send(ShardCommand::Store(event)).ok();
        waiting
    }

    /// Passes a command to a shard, whichever rooms it owns.
    pub(super) fn send_to(&self, id: ShardId, command: ShardCommand) {
        let queue = self.table().shard(id).map(|shard| shard.queue.clone());
        if let Some(queue) = queue {
            queue.send(command).ok();
        }
    }

    /// Asks all shards for the members of rooms.
    pub(super) fn survey(&self, selector: &RoomSelector) -> Vec<oneshot::Receiver<Survey>> {
        let table = self.table();
        let ask = |shard: &ShardHandle| {
            let (reply, survey) = oneshot::channel();
            shard.queue.send(ShardCommand::Survey { selector: selector.clone(), reply }).ok();
            survey
        };
        table.shards.iter().flatten().map(ask).collect()
    }

    pub(super) fn owner(&self, room: &str) -> ShardId {
        self.table().owners.owner(room)
    }

    /// The slot of the plugin that governs a room.
    pub(super) fn slot(&self, room: &str) -> Option<SlotId> {
        self.table().owners.slot(room)
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
        shard.check_backlog(room)?;
        if table.is_changing(room) {
            return Err(changing_governor(room));
        }
        let permit = PublishPermit { _token: shard.publishing.token() };
        let is_late = table.next.is_some() || table.closed.is_some();
        Ok(PublishRoute { shard: id, governed: shard.governed.clone(), permit, is_late })
    }

    /// Checks the way of a message whose plugin has told the canonical name of its room: refuses it if the plugin
    /// took so long that the room has another governor, if the room is about to get one and this message is not
    /// awaited, or if the shard of that name does not keep up.
    pub(super) fn check_route(&self, route: &PublishRoute, room: &str) -> Result<(), Refusal> {
        let table = self.table();
        let (id, shard) = table.owner_and_id(room);
        let has_other = shard.slot() != route.governed.as_ref().map(|governed| governed.slot);
        if has_other || (route.is_late && table.is_changing(room)) {
            return Err(changing_governor(room));
        }
        if id == route.shard { Ok(()) } else { shard.check_backlog(room) }
    }

    /// The owners of all rooms if these slots have these patterns, in this order.
    pub(super) fn with_slots(&self, slots: Vec<(SlotId, Arc<[RoomPattern]>)>) -> Arc<Owners> {
        let table = self.table();
        let owners = |(slot, patterns)| {
            let shards = table.slots.get(&slot)?.shards.clone();
            Some(SlotOwners { slot, patterns, shards })
        };
        let governed = slots.into_iter().filter_map(owners).collect();
        let Owners { ungoverned, hasher, .. } = &*table.owners;
        Arc::new(Owners { governed, ungoverned: ungoverned.clone(), hasher: hasher.clone() })
    }

    /// Spreads the rooms of a slot over these shards, and tells its shards, old and new, to hand rooms over to each
    /// other. They stay open, because their governor stays the same. Each shard replies when it has what it was
    /// given.
    pub(super) fn set_shards(&self, slot: SlotId, shards: Arc<[ShardId]>) -> Vec<oneshot::Receiver<()>> {
        let mut table = self.table_mut();
        let Some(current) = table.slots.get_mut(&slot) else { return vec![] };
        let old = std::mem::replace(&mut current.shards, shards.clone());
        let next = table.owners.with_shards(slot, &shards);
        let previous = std::mem::replace(&mut table.owners, next.clone());
        table.next = table.next.take().map(|announced| announced.with_shards(slot, &shards));
        let sources = old.iter().chain(&*shards).copied().collect();
        table.order_handover(Handover { previous, next, sources })
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

    pub(super) fn is_change_announced(&self) -> bool {
        self.table().next.is_some()
    }

    /// Keeps rooms closed to messages, or opens them again.
    pub(super) fn keep_closed(&self, rooms: Option<RoomSelector>) {
        self.table_mut().closed = rooms;
    }

    /// Makes the owners of [`close_changing`](Self::close_changing) the current ones, and tells the shards to
    /// hand their rooms over. Each shard replies when it has what it was given.
    pub(super) fn hand_over(&self) -> Vec<oneshot::Receiver<()>> {
        let mut table = self.table_mut();
        let Some(next) = table.next.take() else { return vec![] };
        let previous = std::mem::replace(&mut table.owners, next.clone());
        let sources = previous.affected(&next);
        table.order_handover(Handover { previous, next, sources })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Weak;

    fn handle(governed: Option<Arc<GovernedRooms>>) -> ShardHandle {
        let (queue, _) = tokio::sync::mpsc::unbounded_channel();
        ShardHandle::new(queue, governed)
    }

    fn add_slot(router: &Router, name: &str) -> SlotId {
        let rooms = |slot| Arc::new(GovernedRooms::new(slot, name, Weak::new()));
        router.add_slot(rooms, |rooms| handle(Some(rooms.clone()))).0
    }

    fn patterns(text: &str) -> Arc<[RoomPattern]> {
        text.split(' ').map(|pattern| RoomPattern::try_from(pattern.to_owned()).unwrap()).collect()
    }

    #[test]
    fn the_first_matching_plugin_governs_and_reserved_rooms_have_none() {
        let router = Router::new(vec![handle(None), handle(None)]);
        let [dydx, rest] = ["dydx", "rest"].map(|name| add_slot(&router, name));
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
        let [a, b, c] = ["a", "b", "c"].map(|name| add_slot(&router, name));
        let ungoverned = ShardId(0);
        let before =
            router.with_slots(vec![(a, patterns("a:*")), (b, patterns("b:* x")), (c, patterns("c:*"))]);
        let affected = |slots| before.affected(&router.with_slots(slots)).into_iter().collect::<Vec<_>>();
        let [shard_a, shard_b, shard_c] = [a, b, c].map(|slot| router.slot_shards(slot).unwrap().1[0]);
        let all = |b_rooms| vec![(a, patterns("a:*")), (b, patterns(b_rooms)), (c, patterns("c:*"))];
        assert_eq!(affected(all("b:* x")), []);
        assert_eq!(affected(all("b:*")), [ungoverned, shard_b, shard_c]);
        assert_eq!(affected(vec![(a, patterns("a:*")), (b, patterns("b:* x"))]), [ungoverned, shard_c]);
        assert_eq!(
            affected(vec![(b, patterns("b:* x")), (c, patterns("c:*"))]),
            [ungoverned, shard_a, shard_b, shard_c]
        );
    }

    #[tokio::test]
    async fn messages_that_are_under_way_delay_the_handover_and_later_ones_do_not() {
        let router = Router::new(vec![handle(None)]);
        let a = add_slot(&router, "a");
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

    /// Once, a message to a second name of a room was stored under its old governor after the node had confirmed that
    /// the room is closed.
    #[test]
    fn a_message_that_a_change_does_not_await_is_not_stored_in_a_changing_room() {
        let router = Router::new(vec![handle(None)]);
        let a = add_slot(&router, "a");
        router.close_changing(router.with_slots(vec![(a, patterns("a:*"))]));
        router.hand_over();
        let awaited = router.publish_route("a:alias").unwrap();
        router.close_changing(router.with_slots(vec![(a, patterns("a:alias"))]));
        let late = router.publish_route("a:alias").unwrap();
        assert!(router.check_route(&awaited, "a:room").is_ok());
        assert!(router.check_route(&late, "a:room").is_err());
        assert!(router.check_route(&late, "a:alias").is_ok());
    }

    #[test]
    fn rooms_of_a_slot_are_spread_over_its_shards_whatever_change_is_announced() {
        let router = Router::new(vec![handle(None)]);
        let [a, b] = ["a", "b"].map(|name| add_slot(&router, name));
        let more = |slot| {
            let (rooms, shards) = router.slot_shards(slot).unwrap();
            let added = [(); 3].map(|()| router.add_shard(handle(Some(rooms.clone()))));
            router.set_shards(slot, shards.iter().copied().chain(added).collect());
        };
        let shards =
            |name: &str| -> BTreeSet<_> { (0..100).map(|n| router.owner(&format!("{name}:{n}"))).collect() };
        more(a);
        router.close_changing(router.with_slots(vec![(a, patterns("a:*")), (b, patterns("b:*"))]));
        more(b);
        assert_eq!(shards("a").len(), 1, "not before the handover");
        router.hand_over();
        assert_eq!((shards("a").len(), shards("b").len()), (4, 4));
        assert!(shards("a").is_disjoint(&shards("b")));
    }
}
