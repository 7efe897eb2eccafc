//! The hub maps a room to its shard and is the one way to it: joining, publishing, reading history. Knows no
//! frames and no sockets.

mod allowances;
mod catch_up;
mod command;
mod connections;
mod entry;
mod flush;
mod grant;
mod lobby;
mod pings;
mod places;
mod policy;
mod publishers;
mod quotas;
mod rate;
mod reads;
mod replay;
pub mod room;
mod routes;
mod shard;
mod start;
mod turns;
mod wards;

pub use crate::store::Permit;
pub use command::{Granted, Joined, Joining, Offer, Recovery, Seat, Unacknowledged};
pub use connections::{Connection, Connections, Registered, refused_by_key, too_many};
pub use pings::{Confirms, Pings};
pub use policy::{Policy, Ungoverned};
pub use replay::{Recovered, Replay, Turns};
pub use start::HubConfig;
pub use wards::{AUDIT, Condition, NodeReport, Origin, Reported, Shown, Ward};

use crate::{
    key::Keys,
    memory::Account,
    metrics::Metrics,
    plugin::{Cache, Compiler, Connecting, Engine, Limits},
    protocol::{Code, Position, Publication, Refusal, reply},
    room::{Kind, RoomName},
    store::{History, Message, PageLimit, Reader, Store, Unavailable},
    vital::Vitals,
};
use allowances::Allowances;
use command::{Command, Queue, SeatId, Sieved, Sieving};
use lobby::Lobby;
use policy::Checked;
use reads::Reads;
use routes::Routes;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};
use tokio::sync::{OnceCell, oneshot};

/// Messages that may be on their way to one shard. A shard takes well over 100,000 a second, so this many are
/// waiting only behind a plugin that is too slow for its rooms.
const BACKLOG: usize = 4096;

/// Read of a room's history at once, to be sent to a member.
const PAGE: PageLimit = PageLimit { messages: 256, bytes: 256 << 10 };

pub struct Hub {
    pub store: Arc<dyn Store>,
    pub connections: Arc<Connections>,
    pub metrics: Metrics,
    /// What this node keeps, and how much it may.
    pub memory: Arc<Account>,
    /// What this node cannot live without.
    pub vitals: Vitals,
    ungoverned: Ungoverned,
    lobby: Lobby,
    allowances: Allowances,
    /// Compiles plugins, from the first on.
    engine: OnceCell<Engine>,
    cache: Option<Arc<Cache>>,
    compiler: Compiler,
    wards: Vec<Ward>,
    routes: Arc<Routes>,
    reads: Reads,
    shards: Vec<Handle>,
}

/// A shard's answer to a question to join.
pub type Answer = oneshot::Receiver<Result<Granted, Refusal>>;

pub async fn answered(answer: Answer) -> Result<Granted, Refusal> {
    answer.await.unwrap_or_else(|_| Err(stopping()))
}

/// Who publishes.
pub struct Publisher<'a> {
    /// All that there are, by which inboxes are known.
    pub keys: &'a Keys,
    pub principal: &'a Arc<str>,
    pub tier: &'a Arc<str>,
}

struct Handle {
    queue: Queue,
    backlog: Arc<AtomicUsize>,
}

/// What the system has no thread for now may be done later.
fn no_thread(whose: &str, error: impl std::fmt::Display) -> Refusal {
    Refusal::retry(Code::Overloaded, format!("the thread {whose} cannot be started: {error}"), 1000)
}

impl Hub {
    fn send(&self, shard: usize, command: Command) {
        self.shards[shard].queue.send(command).ok();
    }

    /// Which plugin governs a room.
    pub fn governor(&self, room: &RoomName) -> Option<&str> {
        self.routes.governor(room)
    }

    /// Asks for a place in a room; the question is on its way when this returns.
    pub fn join(&self, joining: Joining) -> Answer {
        let (reply, joined) = oneshot::channel();
        self.send(self.routes.shard(&joining.room), Command::Join { joining, reply });
        joined
    }

    /// A connection of a principal is in, with these limits.
    pub fn allow(&self, who: &Arc<str>, limits: &Limits) {
        self.allowances.grant(who, limits, Instant::now());
    }

    /// Asks the plugins that want to be asked of every connection; what they narrow holds together.
    pub async fn admit(&self, connecting: Connecting) -> Result<Limits, Refusal> {
        self.lobby.admit(connecting).await
    }

    /// Records for the connection's session that everything up to an offset is handled, if that was sent to the seat.
    pub async fn acknowledge(
        &self,
        connection: &Connection,
        seat: &Seat,
        epoch: Option<Arc<str>>,
        offset: u64,
    ) -> Result<(), Unacknowledged> {
        let (reply, answer) = oneshot::channel();
        let (room, id) = (seat.room.clone(), seat.id);
        self.send(seat.shard, Command::Acknowledge { room, seat: id, epoch, offset, reply });
        let position = answer.await.unwrap_or(Err(Unacknowledged::Unsent))?;
        self.store.acknowledge(connection.hold(), &seat.room, &position);
        Ok(())
    }

    async fn sieve(
        &self,
        shard: usize,
        room: &RoomName,
        seat: SeatId,
        messages: Vec<Arc<Publication>>,
    ) -> Sieved {
        let (reply, sieved) = oneshot::channel();
        let sieving =
            Sieving { room: room.clone(), seat, messages: messages.into(), sieved: Sieved::default(), reply };
        self.send(shard, Command::Sieve(sieving));
        sieved.await.unwrap_or(Sieved { passed: vec![], failed: true })
    }

    /// A page of history as the member of a seat may see it. What a filter takes out is made up for, so that a page ends short
    /// only where the history does.
    pub async fn history(
        &self,
        principal: &Arc<str>,
        seat: &Seat,
        since: Option<&Position>,
        limit: PageLimit,
    ) -> Result<reply::History, Refusal> {
        let is_governed = self.routes.governor(&seat.room).is_some();
        let page = if is_governed { PAGE } else { limit };
        let (mut seen, mut bytes, mut after, mut recovered) = (vec![], 0, since.cloned(), None);
        loop {
            let history = self
                .read(principal, &seat.room, after.as_ref(), page, Reader::Member)
                .await
                .map_err(unavailable)?;
            let History { newest: Position { epoch, .. }, messages, mut more, whole, .. } = history;
            recovered = recovered.or(since.map(|_| whole));
            let last = messages.last().map(|message| message.offset).filter(|_| is_governed && more);
            let messages = match is_governed {
                true => self.visible(seat, messages).await?,
                false => messages,
            };
            let mut is_full = false;
            for message in messages {
                bytes += message.frame().len();
                is_full = seen.len() == limit.messages || (bytes > limit.bytes && !seen.is_empty());
                if is_full {
                    more = true;
                    break;
                }
                seen.push(message);
            }
            match last.filter(|_| !is_full && seen.len() < limit.messages) {
                Some(offset) => after = Some(Position { epoch, offset }),
                None => {
                    let room = seat.room.shared();
                    return Ok(reply::History { room, epoch, messages: seen, more, recovered });
                }
            }
        }
    }

    /// Those that the member's filter passes.
    async fn visible(
        &self,
        seat: &Seat,
        messages: Vec<Arc<Publication>>,
    ) -> Result<Vec<Arc<Publication>>, Refusal> {
        let sieved = self.sieve(seat.shard, &seat.room, seat.id, messages).await;
        if sieved.failed {
            let message = format!("the filter of room '{}' could not be asked; try again later", &*seat.room);
            return Err(Refusal::new(Code::PluginFailed, message));
        }
        Ok(sieved.passed)
    }

    /// A page of a room's history, when it is the principal's turn.
    pub async fn read(
        &self,
        principal: &Arc<str>,
        room: &RoomName,
        after: Option<&Position>,
        limit: PageLimit,
        reader: Reader,
    ) -> Result<History, Unavailable> {
        let _turn = self.reads.turn(principal).await;
        self.store.history(room, after, limit, reader).await
    }

    /// Asks the room's plugin, stores the message and hands it to routing. An inbox takes it if its principal has a key or a session,
    /// connected or resumable.
    pub async fn publish(
        &self,
        publisher: Publisher<'_>,
        room: RoomName,
        event: Option<&str>,
        data: &str,
        key: Option<&str>,
    ) -> Result<reply::Published, Refusal> {
        let Publisher { keys, principal: who, tier } = publisher;
        self.allowances.take(who, data.len(), Instant::now())?;
        let shard = self.routes.shard(&room);
        if self.shards[shard].backlog.load(Ordering::Relaxed) >= BACKLOG {
            let message = format!("room '{}' has {BACKLOG} messages waiting to be routed; slow down", &*room);
            return Err(Refusal::retry(Code::Overloaded, message, 1000));
        }
        let (room, replaced) = match self.check(shard, room, who, tier, event, data).await? {
            (room, Checked::Pass) => (room, None),
            (room, Checked::Replace(data)) => (room, Some(data)),
            (room, Checked::Discard) => {
                let newest = self
                    .store
                    .history(&room, None, PageLimit::NONE, Reader::Other)
                    .await
                    .map_err(unavailable)?
                    .newest;
                let Position { epoch, offset } = newest;
                return Ok(reply::Published {
                    room: room.shared(),
                    epoch,
                    offset,
                    duplicate: false,
                    discarded: true,
                });
            }
        };
        let data = replaced.as_deref().unwrap_or(data);
        if self.memory.is_full() && !self.store.relieve() {
            return Err(full("messages"));
        }
        let needs_member = room.inbox_of().is_some_and(|principal| !keys.name(principal));
        let message = Message { room: &room, event, data, key: key.map(|key| (&**who, key)), needs_member };
        let Some(stored) = self.store.publish(message).await.map_err(unavailable)? else {
            let message =
                format!("room '{}' is nobody's inbox: no key and no session has this principal", &*room);
            return Err(Refusal::new(Code::RoomInvalid, message));
        };
        if !stored.duplicate {
            self.metrics.published.inc();
        }
        let Position { epoch, offset } = stored.position;
        Ok(reply::Published {
            room: room.shared(),
            epoch,
            offset,
            duplicate: stored.duplicate,
            discarded: false,
        })
    }

    async fn check(
        &self,
        shard: usize,
        room: RoomName,
        who: &Arc<str>,
        tier: &Arc<str>,
        event: Option<&str>,
        data: &str,
    ) -> Result<(RoomName, Checked), Refusal> {
        match (self.routes.governor(&room), self.ungoverned) {
            (None, Ungoverned::Closed) if room.kind() == Kind::Ordinary => return Err(policy::closed(&room)),
            (None, _) => return Ok((room, Checked::Pass)),
            (Some(_), _) => {}
        }
        let (reply, checked) = oneshot::channel();
        let (who, tier) = (who.clone(), tier.clone());
        let (event, data) = (event.map(str::to_owned), data.to_owned());
        self.send(shard, Command::Check { room, who, tier, event, data, reply });
        checked.await.unwrap_or_else(|_| Err(stopping()))
    }
}

/// The store's silence, as a client is told.
pub fn unavailable(error: Unavailable) -> Refusal {
    tracing::debug!(%error, "the store did not answer");
    store_is_away()
}

pub fn store_is_away() -> Refusal {
    Refusal::retry(Code::StoreUnavailable, "the store does not answer; try again", 1000)
}

/// The node keeps as much as it may.
pub fn full(what: &str) -> Refusal {
    let message =
        format!("this node holds as much in memory as it may, and takes no new {what}; try again later");
    Refusal::retry(Code::Overloaded, message, 1000)
}

fn stopping() -> Refusal {
    Refusal::retry(Code::Overloaded, "this node is stopping; connect again", 1000)
}
