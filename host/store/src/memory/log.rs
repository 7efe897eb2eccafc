//! One room in memory: its messages, its idempotency keys and who is a member.

use crate::{
    History, Members, Membership, Message, PageLimit, Receipt, Retention, RoomSummary, SessionToken,
    random::random,
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use switchyard_process::memory::{MemoryAccount, MemoryCharge, MemoryKind, MemoryShare};
use switchyard_protocol::{Position, Publication, unix_ms};
use tokio::time::Instant;

/// Principal, which has no space, and idempotency key.
type Key = Arc<str>;

/// What these take in memory beside their texts, about, as measured.
const ROOM: usize = 800;
const KEY: usize = 192;
const MEMBER: usize = 400;

/// A message that is held, for which its publisher answers.
struct Held {
    since: Instant,
    publication: Arc<Publication>,
    claim: MemoryCharge,
}

/// An idempotency key until its end.
struct HeldKey {
    end: Instant,
    key: Key,
    charge: MemoryCharge,
}

fn key((principal, key): (&str, &str)) -> Key {
    [principal, " ", key].concat().into()
}

pub(super) struct Log {
    pub name: Arc<str>,
    pub epoch: Arc<str>,
    newest: u64,
    held: VecDeque<Held>,
    /// Of what is held.
    bytes: usize,
    keys: HashMap<Key, u64>,
    /// The keys by time of their end.
    key_ends: VecDeque<HeldKey>,
    pub members: Table,
    /// Whether the node wants what is published.
    pub is_subscribed: bool,
    used: Instant,
    account: Arc<MemoryAccount>,
    /// Of who made the room, once that is known.
    charge: MemoryCharge,
    /// Who published last.
    publisher: Option<Arc<MemoryShare>>,
}

impl Log {
    pub(super) fn new(name: Arc<str>, now: Instant, account: &Arc<MemoryAccount>) -> Self {
        let epoch = format!("{:08x}", u32::from_le_bytes(random())).into();
        let charge = account.charge(MemoryKind::Rooms, ROOM + name.len());
        Self {
            name,
            epoch,
            newest: 0,
            held: VecDeque::new(),
            bytes: 0,
            keys: HashMap::new(),
            key_ends: VecDeque::new(),
            members: Table::default(),
            is_subscribed: false,
            used: now,
            account: account.clone(),
            charge,
            publisher: None,
        }
    }

    /// What this principal answers for. It answers for the room, if nobody does yet.
    fn share(&mut self, principal: &Arc<str>) -> Arc<MemoryShare> {
        let share = match &self.publisher {
            Some(share) if *share.principal() == *principal => share.clone(),
            _ => self.account.share(principal),
        };
        self.paid_by(&share);
        share
    }

    fn paid_by(&mut self, share: &Arc<MemoryShare>) {
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

    /// The offset that a key was first used for.
    pub(super) fn known(&self, used: (&str, &str), now: Instant) -> Option<u64> {
        debug_assert!(self.key_ends.front().is_none_or(|held| held.end > now), "trimmed before");
        self.keys.get(&key(used)).copied()
    }

    pub(super) fn append(&mut self, message: &Message, config: &Retention, now: Instant) -> Arc<Publication> {
        self.newest += 1;
        self.used = now;
        let (name, epoch) = (self.name.clone(), self.epoch.clone());
        let publication = Publication::new(name, epoch, self.newest, unix_ms(), message.event, message.data);
        let charge = self.account.charge(MemoryKind::History, publication.size());
        let publication = Arc::new(publication.with_guard(charge));
        let share = self.share(message.who);
        if config.history.messages > 0 {
            self.bytes += publication.size();
            let claim = share.claim(publication.size());
            self.held.push_back(Held { since: now, publication: publication.clone(), claim });
            while self.held.len() > config.history.messages || self.bytes > config.history.bytes {
                self.drop_oldest();
            }
        }
        if let Some(used) = message.once() {
            let key = key(used);
            let charge = share.charge(MemoryKind::Keys, KEY + key.len());
            self.keys.insert(key.clone(), self.newest);
            self.key_ends.push_back(HeldKey { end: now + config.key, key, charge });
        }
        self.publisher = Some(share);
        publication
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.held.pop_front() {
            self.bytes -= oldest.publication.size();
        }
    }

    /// Drops what has passed its age.
    pub(super) fn trim(&mut self, config: &Retention, now: Instant) {
        while self.held.front().is_some_and(|held| now.duration_since(held.since) >= config.history.age) {
            self.drop_oldest();
        }
        if self.held.is_empty() {
            self.held = VecDeque::new();
        }
        while self.key_ends.front().is_some_and(|held| held.end <= now) {
            self.key_ends.pop_front().map(|held| self.keys.remove(&held.key));
        }
        self.shrink_keys();
    }

    /// Forgets the idempotency keys that end by then, of principals for whom more than `level` is kept.
    pub(super) fn drop_keys(&mut self, then: Instant, level: usize) {
        let keys = &mut self.keys;
        self.key_ends.retain(|held| {
            let stays = held.end > then || held.charge.share().used() <= level;
            if !stays {
                keys.remove(&held.key);
            }
            stays
        });
        self.shrink_keys();
    }

    fn shrink_keys(&mut self) {
        if self.keys.is_empty() {
            (self.keys, self.key_ends) = Default::default();
        }
    }

    pub(super) fn read(&self, after: Option<&Position>, limit: PageLimit) -> History {
        let oldest = self.newest + 1 - self.held.len() as u64;
        let (from, whole) = match after {
            None => (oldest, true),
            Some(after) if after.epoch != self.epoch || after.offset > self.newest => (oldest, false),
            Some(after) => (oldest.max(after.offset + 1), after.offset + 1 >= oldest),
        };
        let skipped = (from - oldest) as usize;
        let (mut messages, mut bytes) = (vec![], 0);
        for Held { publication, .. } in self.held.iter().skip(skipped).take(limit.messages) {
            bytes += publication.frame().len();
            if bytes > limit.bytes && !messages.is_empty() {
                break;
            }
            messages.push(publication.clone());
        }
        let more = skipped + messages.len() < self.held.len();
        History { newest: self.newest(), oldest, messages, more, whole }
    }

    /// The node does not want any more what is published.
    pub(super) fn unsubscribe(&mut self) {
        self.is_subscribed = false;
        self.used = Instant::now();
    }

    /// A session is a member from now on; `anew`: another one than before.
    pub(super) fn enter(
        &mut self,
        token: SessionToken,
        share: &Arc<MemoryShare>,
        membership: Membership,
        anew: bool,
    ) {
        self.paid_by(share);
        if anew {
            self.members.remove(token);
        }
        self.members.insert(token, share, membership);
    }

    /// A member has left.
    pub(super) fn forget(&mut self, token: SessionToken) {
        self.members.remove(token);
        self.used = Instant::now();
    }

    /// When it was published to last, and what the messages take that it holds.
    pub(super) fn history(&self) -> (Instant, usize) {
        (self.used, self.bytes)
    }

    /// Whether it is of a principal for whom more than this is kept: of the newest message's publisher, and the oldest's.
    pub(super) fn is_beyond(&self, level: usize) -> bool {
        let ends = [self.held.front(), self.held.back()];
        ends.into_iter().flatten().any(|held| held.claim.share().used() > level)
    }

    /// When the idempotency keys end of principals for whom more than this is kept, each with what it takes.
    pub(super) fn keys(&self, level: usize) -> impl Iterator<Item = (Instant, usize)> {
        let beyond = self.key_ends.iter().filter(move |held| held.charge.share().used() > level);
        beyond.map(|held| (held.end, held.charge.bytes()))
    }

    /// Holds no message any more: whoever has missed one is told so.
    pub(super) fn let_go(&mut self) {
        (self.held, self.bytes) = (VecDeque::new(), 0);
    }

    pub(super) fn is_idle(&self, now: Instant, idle: Duration) -> bool {
        let empty = self.members.is_empty() && self.held.is_empty() && self.keys.is_empty();
        empty && !self.is_subscribed && now.duration_since(self.used) >= idle
    }

    pub(super) fn summary(&self) -> RoomSummary {
        RoomSummary {
            room: self.name.clone(),
            epoch: self.epoch.clone(),
            offset: self.newest,
            members: self.members.len(),
            messages: self.held.len(),
        }
    }
}

/// The members of a room: sessions, with how far each has acknowledged.
#[derive(Default)]
pub(super) struct Table {
    members: HashMap<SessionToken, Member>,
    /// How many sessions each principal has here.
    principals: BTreeMap<Arc<str>, usize>,
}

struct Member {
    filter: Option<Arc<str>>,
    joined: Position,
    /// In the epoch of `joined`.
    acknowledged: Option<u64>,
    /// Of its principal.
    charge: MemoryCharge,
}

impl Table {
    pub(super) fn insert(&mut self, token: SessionToken, share: &Arc<MemoryShare>, membership: Membership) {
        let filter = membership.filter.as_deref().map_or(0, str::len);
        let charge = share.charge(MemoryKind::Sessions, MEMBER + filter);
        if let Some(member) = self.members.get_mut(&token) {
            (member.filter, member.charge) = (membership.filter, charge);
            return;
        }
        *self.principals.entry(share.principal().clone()).or_default() += 1;
        let Membership { filter, position: joined } = membership;
        self.members.insert(token, Member { filter, joined, acknowledged: None, charge });
    }

    pub(super) fn remove(&mut self, token: SessionToken) {
        let Some(member) = self.members.remove(&token) else { return };
        let sessions = self.principals.get_mut(member.principal()).expect("counted on joining");
        *sessions -= 1;
        if *sessions == 0 {
            self.principals.remove(member.principal());
        }
    }

    pub(super) fn get(&self, token: SessionToken) -> Option<Membership> {
        let Member { filter, joined, acknowledged, .. } = self.members.get(&token)?;
        let offset = acknowledged.unwrap_or(0).max(joined.offset);
        let position = Position { epoch: joined.epoch.clone(), offset };
        Some(Membership { filter: filter.clone(), position })
    }

    pub(super) fn acknowledge(&mut self, token: SessionToken, position: &Position) {
        if let Some(member) = self.members.get_mut(&token) {
            if member.joined.epoch != position.epoch {
                member.advance(position);
            }
            member.acknowledged = member.acknowledged.max(Some(position.offset));
        }
    }

    pub(super) fn advance(&mut self, token: SessionToken, position: &Position) {
        if let Some(member) = self.members.get_mut(&token) {
            member.advance(position);
        }
    }

    pub(super) fn list(&self, most: usize) -> Members {
        let principals = self.principals.keys().take(most).cloned().collect();
        Members { count: self.len(), principals, more: self.principals.len() > most }
    }

    pub(super) fn receipt(&self, message: &Position) -> Receipt {
        let has = |member: &&Member| {
            member.joined.epoch == message.epoch && member.acknowledged >= Some(message.offset)
        };
        let acknowledged = self.members.values().filter(has).count();
        Receipt { members: self.len(), acknowledged }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl Member {
    fn principal(&self) -> &Arc<str> {
        self.charge.share().principal()
    }

    /// Goes on from a position, which is never back within an epoch.
    fn advance(&mut self, position: &Position) {
        if self.joined.epoch != position.epoch {
            (self.joined, self.acknowledged) = (position.clone(), None);
        }
        self.joined.offset = self.joined.offset.max(position.offset);
    }
}
