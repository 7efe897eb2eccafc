//! Order and memory: what was published where and in which order, which sessions are members of which rooms,
//! and how far each has acknowledged. Says nothing about connections or who is allowed what.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]
#![warn(unreachable_pub)]

#[cfg(test)]
mod contract;
mod counts;
pub mod key;
mod lineage;
mod memory;
mod metrics;
mod permit;
mod redis;
mod registry;
mod storing;

pub use lineage::{How, Lineage, Release};
pub use memory::Memory;
pub use metrics::StoreMetrics;
pub use permit::Permit;
pub use redis::{Keyring, Redis, RedisUrl, Replication, Site};
pub use registry::{Revision, StoredKeys};
pub use storing::Storing;

use bytes::Bytes;
use counts::Counts;
use serde::Deserialize;
use std::{collections::HashMap, fmt, sync::Arc, time::Duration};
use switchyard_process::{memory::MemoryShare, unit};
use switchyard_protocol::{Position, Publication, room::RoomName};
use tokio::time::Instant;

/// How long an idempotency key is remembered.
pub const KEY_TTL: Duration = Duration::from_secs(5 * 60);

/// How long an answer of a store may take; then it is an error.
pub const PATIENCE: Duration = Duration::from_millis(1500);

/// What is kept and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub history: HistoryConfig,
    /// How long a session outlives its connection.
    pub session: Duration,
    /// How long an idempotency key is remembered.
    pub key: Duration,
}

/// `[rooms] history`: a message is held until one of these is passed.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistoryConfig {
    /// Newest messages held a room; 0 holds none.
    pub messages: usize,
    #[serde(deserialize_with = "unit::duration")]
    pub age: Duration,
    /// Of all messages held of a room, with what each takes beside its own.
    #[serde(deserialize_with = "unit::size")]
    pub bytes: usize,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { messages: 1000, age: Duration::from_secs(600), bytes: 16 << 20 }
    }
}

/// Names a live connection on any node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    pub fn random() -> Self {
        Self(u64::from_le_bytes(random()))
    }

    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("c_").filter(|hex| hex.len() == 16)?;
        u64::from_str_radix(hex, 16).ok().map(Self)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "c_{:016x}", self.0)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The secret by which a client comes back to its session. `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionToken([u8; 16]);

impl SessionToken {
    pub fn random() -> Self {
        Self(random())
    }

    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("s_").filter(|hex| hex.len() == 32)?;
        u128::from_str_radix(hex, 16).ok().map(|bits| Self(bits.to_be_bytes()))
    }

    /// As the wire carries it.
    pub fn reveal(&self) -> String {
        format!("s_{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("s_…")
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bits = [0; N];
    #[cfg(test)]
    if redis::model::draw(&mut bits) {
        return bits;
    }
    getrandom::fill(&mut bits).expect("the system has entropy");
    bits
}

/// What a store tells a node. For one room events come in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// `watch` took effect: every message after `position` follows as `Published`.
    Watched {
        room: Arc<str>,
        position: Position,
    },
    /// `watch` did not take effect in time: nothing follows until the room is watched again.
    Unwatched {
        room: Arc<str>,
    },
    Published(Arc<Publication>),
    /// Messages up to `position` were lost to this node and are no longer held; what follows is after it. Its epoch may be
    /// a new one.
    Lost {
        room: Arc<str>,
        position: Position,
    },
    /// The session of a connection of this node is held by another connection, on another node.
    TakenOver(ConnectionId),
    /// The store may not know any more that this connection holds its session. Its client is to be asked for a sign of life;
    /// when that comes, [`Store::vouch`] takes the session back.
    Probe(ConnectionId),
}

/// A session, and the connection that holds it, or held it until another took it: what it asks for then is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    pub token: SessionToken,
    pub connection: ConnectionId,
}

/// Where a store puts its events. It is called under the store's locks: it only enqueues. `false`: the event was taken, but
/// more waits there than should; a store that can bring the room's messages later does so.
pub type Feed = Arc<dyn Fn(Event) -> bool + Send + Sync>;

/// What is to be published; `data` is JSON text.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub room: &'a RoomName,
    pub event: Option<&'a str>,
    pub data: &'a str,
    /// The principal that publishes it.
    pub who: &'a Arc<str>,
    /// The same of a principal within [`Retention::key`] is the same message.
    pub key: Option<&'a str>,
    /// It is published only if the room has a member, connected or resumable.
    pub needs_member: bool,
}

impl<'a> Message<'a> {
    /// Principal and key.
    pub fn once(&self) -> Option<(&'a str, &'a str)> {
        self.key.map(|key| (&**self.who, key))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub position: Position,
    pub duplicate: bool,
}

/// How much of a room's history is read at once.
#[derive(Clone, Copy, Debug)]
pub struct PageLimit {
    pub messages: usize,
    /// Of the messages as they are kept. The first is read also where it is larger.
    pub bytes: usize,
}

impl PageLimit {
    /// No messages: only where the room is.
    pub const NONE: Self = Self { messages: 0, bytes: 0 };
}

/// For whom a history is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Somebody in the room, which begins anew where the store has lost it: what is told of it holds.
    Member,
    /// Somebody else. A room that is not there is given an epoch that no other answer names.
    Other,
}

/// A piece of a room's history, oldest first.
#[derive(Debug)]
pub struct History {
    /// The room's newest.
    pub newest: Position,
    /// Offset of the oldest message held; one beyond the newest when none is.
    pub oldest: u64,
    pub messages: Vec<Arc<Publication>>,
    /// More is held after the last of these.
    pub more: bool,
    /// Nothing after the asked position is missing from what is held.
    pub whole: bool,
}

/// A session's membership of one room.
#[derive(Debug, Clone, PartialEq)]
pub struct Membership {
    /// The filter as the client wrote it.
    pub filter: Option<Arc<str>>,
    /// Everything after it is to be replayed on resuming: what was acknowledged last, or where it joined.
    pub position: Position,
}

/// A room that a session becomes a member of, or in which its filter changes.
#[derive(Debug, Clone)]
pub struct Join {
    pub room: RoomName,
    /// For a member that is there already the position stays as it was, unless it was of another epoch.
    pub membership: Membership,
    /// What it has seen and acknowledged before says nothing any more: it is as if it had left.
    pub anew: bool,
}

#[derive(Debug)]
pub struct Resumed {
    /// The connection that held the session, if it still lives.
    pub previous: Option<ConnectionId>,
    pub rooms: Vec<(RoomName, Membership)>,
    /// Where one was asked for.
    pub permit: Option<Permit>,
}

/// What became of a wish to resume a session.
#[derive(Debug)]
pub enum Resume {
    Held(Resumed),
    /// The token is unknown, its session is over, or is another principal's. A permit that was asked for is for a new one.
    Gone(Option<Permit>),
    /// The principal has so many connections, and none of them holds the session.
    Full(u32),
    /// Another connection has taken the session since this one asked, or the store's clock was set back.
    Again,
}

#[derive(Debug, PartialEq)]
pub struct Members {
    /// Sessions, connected or resumable.
    pub count: usize,
    /// Sorted; at most as many as asked.
    pub principals: Vec<Arc<str>>,
    pub more: bool,
}

#[derive(Debug, PartialEq, serde::Serialize)]
pub struct Receipt {
    /// Sessions in the room now.
    pub members: usize,
    /// Those of them that have acknowledged the message, in the room's present epoch.
    pub acknowledged: usize,
}

#[derive(Debug, PartialEq, serde::Serialize)]
pub struct RoomSummary {
    pub room: Arc<str>,
    pub epoch: Arc<str>,
    pub offset: u64,
    pub members: usize,
    /// Messages held.
    pub messages: usize,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("the store is not available: {0}")]
pub struct Unavailable(pub String);

impl Unavailable {
    /// It answers, and has no memory for more.
    pub fn is_full(&self) -> bool {
        self.0.starts_with("OOM")
    }
}

/// The versions of all plugins, by name, and of which state that is.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPlugins {
    pub revision: Revision,
    pub lineages: HashMap<String, Lineage>,
}

/// Another version of a plugin is to be in charge.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Follows the generation before it, or changes nothing.
    pub lineage: &'a Lineage,
    /// Of the version in charge, where it is not held already.
    pub code: Option<&'a Bytes>,
    /// Digests whose code is held no longer.
    pub dropped: &'a [String],
}

/// Order and memory of rooms and sessions. What returns nothing is recorded as soon as the store can and is not
/// waited for. What is awaited answers within [`PATIENCE`], but for code of plugins, which is long.
#[async_trait::async_trait]
pub trait Store: Send + Sync {
    /// From now on the room's messages come through the feed, after one `Watched`, or an `Unwatched` comes.
    fn watch(&self, room: &RoomName);
    fn unwatch(&self, room: &RoomName);

    /// Of two messages of a principal in a room the one that came first has the smaller offset, whatever happens on their way.
    fn publish(&self, message: Message<'_>) -> Storing;
    /// Messages after `after` (from the oldest held without it).
    async fn history(
        &self,
        room: &RoomName,
        after: Option<&Position>,
        limit: PageLimit,
        reader: Reader,
    ) -> Result<History, Unavailable>;

    /// Takes one of the places that a principal has for connections, `most` on all nodes together. `Err` within: how
    /// many are taken.
    async fn take_place(&self, principal: &Arc<str>, most: u32) -> Result<Result<Permit, u32>, Unavailable>;

    /// Makes a session in these rooms. One that nobody waits for any more is let go.
    async fn create_session(
        &self,
        principal: &Arc<str>,
        connection: ConnectionId,
        joins: Vec<Join>,
    ) -> Result<SessionToken, Unavailable>;
    /// Hands a session to a connection whose client was there since `asked`: whoever took it after that keeps it. With `most` a
    /// place is taken in the same step, as by `take_place`; if the session is taken over from a connection, however many there are, since
    /// that one gives its place back. What nobody waits for any more is let go.
    async fn resume_session(
        &self,
        token: SessionToken,
        principal: &Arc<str>,
        connection: ConnectionId,
        asked: Instant,
        most: Option<u32>,
    ) -> Result<Resume, Unavailable>;
    /// Starts the session's time to live, unless another connection holds it by now.
    fn detach(&self, hold: Hold);
    /// Ends the session at once, unless another connection holds it by now.
    fn end_session(&self, hold: Hold);
    /// The client was heard after [`Event::Probe`].
    fn vouch(&self, hold: Hold);

    /// After an error the session is as it was, whatever the store was about to do. Only if this node ends meanwhile may whoever
    /// resumes it find it changed. The same holds for `leave`.
    async fn join(&self, hold: Hold, joins: Vec<Join>) -> Result<(), Unavailable>;
    async fn leave(&self, hold: Hold, rooms: Vec<RoomName>) -> Result<(), Unavailable>;
    /// Cumulative within the position's epoch, of which the client was told. A membership of another epoch moves there.
    fn acknowledge(&self, hold: Hold, room: &RoomName, position: &Position);
    /// The client was told that the room goes on after a position: what was before it is not replayed any more.
    fn advance(&self, hold: Hold, room: &RoomName, position: &Position);

    /// With at most `most` principals.
    async fn members(&self, room: &str, most: usize) -> Result<Members, Unavailable>;
    /// `None` where the room has no such offset.
    async fn receipt(&self, room: &str, offset: u64) -> Result<Option<Receipt>, Unavailable>;
    async fn room(&self, room: &str) -> Result<Option<RoomSummary>, Unavailable>;
    /// Rooms by name, after `after`, and at most `limit`.
    async fn rooms(&self, after: &str, limit: usize) -> Result<Vec<RoomSummary>, Unavailable>;

    /// The keys beside those of the configuration, unless they are as `known`. What is known and not there any more was lost by the
    /// store, and is written again.
    async fn keys(&self, known: &StoredKeys) -> Result<Option<StoredKeys>, Unavailable>;

    /// The versions of all plugins, unless they are as `known`.
    async fn plugins(&self, known: Option<&Revision>) -> Result<Option<StoredPlugins>, Unavailable>;
    /// Writes the versions of a plugin again, which the store has lost, and the code of those of them that are given. What is there
    /// and as new stays.
    async fn restore_plugin(
        &self,
        plugin: &str,
        lineage: &Lineage,
        code: Vec<(String, Bytes)>,
    ) -> Result<(), Unavailable>;
    async fn lineage(&self, plugin: &str) -> Result<Lineage, Unavailable>;
    /// `false`: another change came before.
    async fn change_plugin(&self, plugin: &str, change: Change<'_>) -> Result<bool, Unavailable>;
    /// The code of a version of a plugin, as long as its lineage has it.
    async fn plugin_code(&self, plugin: &str, sha256: &str) -> Result<Option<Bytes>, Unavailable>;
    /// What this node says of its plugins, for all to see; it is to be said again every few seconds.
    async fn report_plugins(&self, report: &str) -> Result<(), Unavailable>;
    /// What each node says, and how it is called.
    async fn plugin_reports(&self) -> Result<Vec<(Arc<str>, String)>, Unavailable>;

    /// Whether it may keep more for a principal than it does, once what can be missed of those for whom it keeps most is let go.
    fn has_room(&self, share: &MemoryShare) -> bool;

    /// A round trip. What part of the store cannot be reached while the rest can, where there is such a part.
    async fn check(&self) -> Result<Option<String>, Unavailable>;
    /// Records what is not recorded yet. Nothing is asked of the store afterwards.
    async fn close(&self);
}
