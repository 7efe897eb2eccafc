//! One room in memory: its messages, its idempotency keys and its members. Does not know the store's other
//! rooms.

use super::members::MemberTable;
use crate::{
    History, HistoryConfig, Membership, Message, PageLimit, Retention, RoomSummary, SessionToken,
    random::random,
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
    time::Duration,
};
use switchyard_process::memory::{MemoryAccount, MemoryCharge, MemoryKind, MemoryShare};
use switchyard_protocol::{Position, Publication, unix_ms};
use tokio::time::Instant;

/// Bytes of memory that a room takes without its name, messages, keys and members, roughly, as measured.
const ROOM_BYTES: usize = 840;
/// Bytes of memory that an idempotency key takes beside its text, roughly, as measured.
const IDEMPOTENCY_KEY_BYTES: usize = 192;

/// A principal and an idempotency key of it, with a space between them. Principals contain none.
type ScopedKey = Arc<str>;

/// A message in the room's history.
struct HeldMessage {
    since: Instant,
    publication: Arc<Publication>,
    /// What its publisher accounts for.
    claim: MemoryCharge,
}

/// An idempotency key, until it expires.
struct HeldKey {
    expires: Instant,
    key: ScopedKey,
    charge: MemoryCharge,
}

fn scoped_key((principal, key): (&str, &str)) -> ScopedKey {
    [principal, " ", key].concat().into()
}

fn new_epoch() -> Arc<str> {
    format!("{:08x}", u32::from_le_bytes(random())).into()
}

pub(super) struct RoomLog {
    pub name: Arc<str>,
    pub epoch: Arc<str>,
    newest: u64,
    /// The newest messages, oldest first and without a hole.
    history: VecDeque<HeldMessage>,
    /// The size of all messages in `history`.
    history_bytes: usize,
    /// How much of the history is kept, and the generation of the policies that say so.
    policy: HistoryConfig,
    policy_generation: u64,
    /// The offset of the message that each idempotency key was first used for.
    offsets_by_key: HashMap<ScopedKey, u64>,
    /// The same keys by that offset. All keys live equally long, so the order is also that in which they
    /// expire.
    keys_by_offset: BTreeMap<u64, HeldKey>,
    pub members: MemberTable,
    /// Whether the node wants the room's publications.
    pub is_subscribed: bool,
    last_used: Instant,
    account: Arc<MemoryAccount>,
    /// For the room itself, charged to the principal that created it as soon as that is known.
    charge: MemoryCharge,
    /// The principal that published last.
    last_publisher: Option<Arc<MemoryShare>>,
}

impl RoomLog {
    pub(super) fn new(name: Arc<str>, now: Instant, account: &Arc<MemoryAccount>) -> Self {
        let epoch = new_epoch();
        let charge = account.charge(MemoryKind::Rooms, ROOM_BYTES + name.len());
        Self {
            name,
            epoch,
            newest: 0,
            history: VecDeque::new(),
            history_bytes: 0,
            policy: HistoryConfig::default(),
            policy_generation: 0,
            offsets_by_key: HashMap::new(),
            keys_by_offset: BTreeMap::new(),
            members: MemberTable::default(),
            is_subscribed: false,
            last_used: now,
            account: account.clone(),
            charge,
            last_publisher: None,
        }
    }

    /// Starts a new epoch without messages. Its offsets go on, so idempotency keys keep theirs.
    pub(super) fn begin_epoch(&mut self) {
        self.epoch = new_epoch();
        self.drop_history();
    }

    /// The share of a principal, which from now on accounts for the room if no other one does.
    fn share(&mut self, principal: &Arc<str>) -> Arc<MemoryShare> {
        let share = match &self.last_publisher {
            Some(share) if *share.principal() == *principal => share.clone(),
            _ => self.account.share(principal),
        };
        self.charge_room_to(&share);
        share
    }

    fn charge_room_to(&mut self, share: &Arc<MemoryShare>) {
        if self.charge.share().principal().is_empty() {
            self.charge.move_to(share);
        }
    }

    pub(super) fn position(&self, offset: u64) -> Position {
        Position { epoch: self.epoch.clone(), offset }
    }

    pub(super) fn newest(&self) -> Position {
        self.position(self.newest)
    }

    /// The offset of the message that was published before with this principal and idempotency key.
    pub(super) fn find_duplicate(&self, key: (&str, &str), now: Instant) -> Option<u64> {
        debug_assert!(
            self.keys_by_offset.first_key_value().is_none_or(|(_, held)| held.expires > now),
            "the log was trimmed before"
        );
        self.offsets_by_key.get(&scoped_key(key)).copied()
    }

    pub(super) fn append(&mut self, message: &Message, config: &Retention, now: Instant) -> Arc<Publication> {
        self.newest += 1;
        self.last_used = now;
        let (name, epoch) = (self.name.clone(), self.epoch.clone());
        let (event, data, time) = (message.event, message.data, unix_ms());
        let publication = match message.shows_sender {
            true => Publication::from_sender(
                name,
                epoch,
                self.newest,
                time,
                event,
                data,
                message.principal.clone(),
            ),
            false => Publication::new(name, epoch, self.newest, time, event, data)
                .with_publisher(message.named_publisher().cloned()),
        };
        let charge = self.account.charge(MemoryKind::History, publication.size());
        let publication = Arc::new(publication.with_guard(charge));
        let share = self.share(message.principal);
        if self.policy.messages > 0 {
            self.history_bytes += publication.size();
            let claim = share.claim(publication.size());
            self.history.push_back(HeldMessage { since: now, publication: publication.clone(), claim });
        }
        self.drop_excess();
        if let Some(key) = message.scoped_key() {
            let key = scoped_key(key);
            let charge = share.charge(MemoryKind::Keys, IDEMPOTENCY_KEY_BYTES + key.len());
            self.offsets_by_key.insert(key.clone(), self.newest);
            self.keys_by_offset
                .insert(self.newest, HeldKey { expires: now + config.idempotency_key_ttl, key, charge });
        }
        self.last_publisher = Some(share);
        publication
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.history.pop_front() {
            self.history_bytes -= oldest.publication.size();
        }
    }

    /// Drops what is beyond the policy, the oldest messages first. That is everything if the policy keeps none: the next
    /// message is not kept then, and the history must have no holes.
    fn drop_excess(&mut self) {
        while self.history.len() > self.policy.messages || self.history_bytes > self.policy.bytes {
            self.drop_oldest();
        }
    }

    /// Removes keys that have expired, and messages that the history policies of this moment do not keep. Returns how
    /// many there were.
    pub(super) fn trim(&mut self, config: &Retention, now: Instant) -> usize {
        let count = self.history.len() + self.keys_by_offset.len();
        let generation = config.history.generation();
        if self.policy_generation != generation {
            (self.policy, self.policy_generation) = (config.history.of(&self.name), generation);
            self.drop_excess();
        }
        while self.history.front().is_some_and(|held| now.duration_since(held.since) >= self.policy.age) {
            self.drop_oldest();
        }
        if self.history.is_empty() {
            self.history = VecDeque::new();
        }
        while let Some(oldest) =
            self.keys_by_offset.first_entry().filter(|oldest| oldest.get().expires <= now)
        {
            self.offsets_by_key.remove(&oldest.remove().key);
        }
        self.free_keys_if_empty();
        count - self.history.len() - self.keys_by_offset.len()
    }

    fn free_keys_if_empty(&mut self) {
        if self.offsets_by_key.is_empty() {
            self.offsets_by_key = HashMap::new();
        }
    }

    pub(super) fn read(&self, after: Option<&Position>, limit: PageLimit) -> History {
        let oldest = self.newest + 1 - self.history.len() as u64;
        let (from, whole) = match after {
            None => (oldest, true),
            Some(after) if after.epoch != self.epoch || after.offset > self.newest => (oldest, false),
            Some(after) => (oldest.max(after.offset + 1), after.offset + 1 >= oldest),
        };
        let skipped = (from - oldest) as usize;
        let (mut messages, mut bytes) = (vec![], 0);
        for HeldMessage { publication, .. } in self.history.iter().skip(skipped).take(limit.messages) {
            bytes += publication.frame().len();
            if bytes > limit.bytes && !messages.is_empty() {
                break;
            }
            messages.push(publication.clone());
        }
        let more = skipped + messages.len() < self.history.len();
        History { newest: self.newest(), oldest, messages, more, whole }
    }

    /// The node no longer wants the room's publications.
    pub(super) fn unsubscribe(&mut self) {
        self.is_subscribed = false;
        self.last_used = Instant::now();
    }

    /// Makes a session a member, or changes its filter. With `anew`, what it acknowledged before is
    /// forgotten.
    pub(super) fn add_member(
        &mut self,
        token: SessionToken,
        share: &Arc<MemoryShare>,
        membership: Membership,
        anew: bool,
    ) {
        self.charge_room_to(share);
        if anew {
            self.members.remove(token);
        }
        self.members.insert(token, share, membership);
    }

    pub(super) fn remove_member(&mut self, token: SessionToken) {
        self.members.remove(token);
        self.last_used = Instant::now();
    }

    /// When the room was last used, and how many bytes its history has.
    pub(super) fn history_use(&self) -> (Instant, usize) {
        (self.last_used, self.history_bytes)
    }

    /// Whether the publisher of the oldest or of the newest message uses more than `level` bytes.
    pub(super) fn is_above(&self, level: usize) -> bool {
        let ends = [self.history.front(), self.history.back()];
        ends.into_iter().flatten().any(|held| held.claim.share().used() > level)
    }

    /// Drops all messages, and returns how many there were. Readers are told that they missed some.
    pub(super) fn drop_history(&mut self) -> usize {
        self.history_bytes = 0;
        std::mem::take(&mut self.history).len()
    }

    /// At most `count` idempotency keys with offsets greater than `after`, in the order in which they expire:
    /// the offset of each, when it expires, its bytes, and how many bytes its principal uses.
    pub(super) fn keys_after(&self, after: u64, count: usize) -> impl Iterator<Item = KeyUse> {
        let keys = self.keys_by_offset.range((Bound::Excluded(after), Bound::Unbounded));
        keys.take(count).map(|(offset, held)| KeyUse {
            offset: *offset,
            expires: held.expires,
            bytes: held.charge.bytes(),
            used_by_principal: held.charge.share().used(),
        })
    }

    /// Forgets those of at most `count` idempotency keys with offsets greater than `after` that expire by
    /// `end`, and whose principals use more than `level` bytes. Returns the offset of the last one that it
    /// has looked at.
    pub(super) fn drop_keys(&mut self, after: u64, count: usize, end: Instant, level: usize) -> Option<u64> {
        let keys = self.keys_after(after, count).take_while(|key| key.expires <= end);
        let offsets: Vec<_> = keys.map(|key| key.offset).collect();
        for offset in &offsets {
            // A principal uses less with each key that is dropped.
            let key = self.keys_by_offset.get(offset);
            if key.is_some_and(|held| held.charge.share().used() > level)
                && let Some(held) = self.keys_by_offset.remove(offset)
            {
                self.offsets_by_key.remove(&held.key);
            }
        }
        self.free_keys_if_empty();
        offsets.last().copied()
    }

    /// Whether nothing would be lost with the room, and it was not used for `ttl`.
    pub(super) fn is_idle(&self, now: Instant, ttl: Duration) -> bool {
        let is_empty = self.members.is_empty() && self.history.is_empty() && self.offsets_by_key.is_empty();
        is_empty && !self.is_subscribed && now.duration_since(self.last_used) >= ttl
    }

    pub(super) fn summary(&self) -> RoomSummary {
        RoomSummary {
            room: self.name.clone(),
            epoch: self.epoch.clone(),
            offset: self.newest,
            members: self.members.len(),
            messages: self.history.len(),
        }
    }
}

/// What an idempotency key takes, for eviction.
pub(super) struct KeyUse {
    pub offset: u64,
    pub expires: Instant,
    pub bytes: usize,
    pub used_by_principal: usize,
}
