//! The functions on the path of a message, set up so that they can be called repeatedly. Only for the
//! benchmarks of these functions, and for the tests that limit what they may allocate.

use crate::{
    hub::{
        Connection,
        room::{Room, Verdicts},
    },
    key::Key,
    limits::{Budget, TierRate},
    outbox::{Outbox, PacedOutcome, Pipe},
    rate::Rate,
    tier::Tier,
};
use futures_util::FutureExt;
use std::{
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use switchyard_plugin::FilterResults;
use switchyard_process::memory::MemoryAccount;
use switchyard_protocol::{Position, Publication, room::RoomName};
use switchyard_store::{Broker, HistoryConfig, MemoryStore, Message, PageLimit, Reader, Retention};

/// The room of all messages here.
pub const ROOM: &str = "prices:eth";
const EPOCH: &str = "e";
/// The data of all messages here: 200 bytes.
pub const DATA: &str = r#"{"pair":"ETH-USD","value":50,"side":"buy","price":"3150.25","size":"0.75","id":"8f14e45f-ceea-467f-a8b5-91c0c7e2ba7c","at":"2026-01-01T12:00:00.000Z","maker":"dydx1qqqqqqqqqq","taker":"dydx1pppppppppp"}"#;

/// Encodes a message, which is done once for all members.
pub fn encode(offset: u64) -> Publication {
    Publication::new(ROOM.into(), EPOCH.into(), offset, 1_700_000_000_000, Some("trade"), DATA)
}

/// Accepts everything and discards it.
struct NullPipe;

impl Pipe for NullPipe {
    fn try_write(&self, bytes: &[IoSlice]) -> io::Result<usize> {
        Ok(bytes.iter().map(|bytes| bytes.len()).sum())
    }

    fn poll_write(&self, _: &mut Context, bytes: &[IoSlice]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.try_write(bytes))
    }

    fn poll_flush(&self, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A room with live members, to measure the delivery of messages.
pub struct FanOut {
    room: Room,
    offset: u64,
    flush: Vec<Arc<Connection>>,
    members: u64,
}

impl FanOut {
    /// Creates a room with this many members, none of which has a filter.
    pub fn new(members: usize) -> Self {
        let start = Position { epoch: EPOCH.into(), offset: 0 };
        let mut room = Room::new(RoomName::parse(ROOM).expect("a name"), start);
        for _ in 0..members {
            room.join(Connection::detached(Arc::new(NullPipe)), None, None, false);
        }
        Self { room, offset: 0, flush: Vec::with_capacity(members), members: members as u64 }
    }

    /// Encodes the room's next message.
    pub fn message(&mut self) -> Arc<Publication> {
        self.offset += 1;
        Arc::new(encode(self.offset))
    }

    /// Puts a message into the outbox of every member.
    pub fn deliver(&mut self, message: &Arc<Publication>) {
        let results = FilterResults::default();
        let verdicts = Verdicts { filters: &[], results: Some(&results) };
        let delivered = self.room.deliver(message, &verdicts, &mut self.flush);
        assert_eq!(delivered.members, self.members);
    }

    /// Writes the outboxes of all members.
    pub fn flush(&mut self) {
        self.flush.drain(..).for_each(|connection| connection.outbox.flush());
    }
}

/// A room with a history, to measure its replay to a client that returns.
pub struct HistoryReplay {
    store: Arc<MemoryStore>,
    room: RoomName,
    start: Position,
    messages: usize,
    outbox: Outbox,
}

impl HistoryReplay {
    /// Creates a room with this many messages in its history. Must be called within a Tokio runtime.
    pub fn new(messages: usize) -> Self {
        let retention = Retention {
            history: HistoryConfig { messages, ..HistoryConfig::default() }.into(),
            session_ttl: Duration::from_secs(60),
            idempotency_key_ttl: Duration::from_secs(60),
        };
        let store =
            MemoryStore::new(retention, Arc::new(|_| true), &MemoryAccount::unlimited(), &Default::default());
        let room = RoomName::parse(ROOM).expect("a name");
        store.subscribe(&room);
        let principal = "acme".into();
        let publish = || {
            let message = Message {
                room: &room,
                event: Some("trade"),
                data: DATA,
                principal: &principal,
                idempotency_key: None,
                needs_member: false,
                names_publisher: false,
                shows_sender: false,
            };
            let stored = store.publish(message).now_or_never().expect("memory needs no waiting");
            stored.expect("memory does not fail").expect("it needs no member").position
        };
        (1..messages).for_each(|_| drop(publish()));
        let start = Position { offset: 0, ..publish() };
        let outbox = Outbox::new(
            1 << 20,
            Duration::from_secs(10),
            Arc::new(NullPipe),
            MemoryAccount::unlimited().unauthenticated(),
        );
        Self { store, room, start, messages, outbox }
    }

    /// Reads the whole history and sends it.
    pub fn replay(&self) {
        let limit = PageLimit { messages: self.messages, bytes: usize::MAX };
        let page = self.store.history(&self.room, Some(&self.start), limit, Reader::Other).now_or_never();
        let page = page.expect("memory needs no waiting").expect("memory does not fail");
        assert_eq!((page.whole, page.messages.len()), (true, self.messages));
        for message in page.messages {
            let frame = message.frame().clone();
            let sent = self.outbox.push_paced(frame, || true).now_or_never();
            assert_eq!(sent, Some(PacedOutcome::Sent));
        }
        self.outbox.flush();
    }
}

/// A principal with or without rates, to measure what they cost each message.
pub struct RatedPublisher {
    budget: Arc<Budget>,
    key: Arc<Key>,
}

impl RatedPublisher {
    /// With rates that are never reached, or with none.
    pub fn new(has_rates: bool) -> Self {
        let rate = has_rates.then(|| Rate::per_second(u32::MAX));
        let limits = Tier { requests: rate, publishes: rate, ..Tier::default() };
        Self { budget: Budget::detached("acme"), key: Key::detached_with("acme", limits) }
    }

    /// Counts a message.
    pub fn count(&self) {
        let request = self.budget.take(&self.key, [(TierRate::Requests, 1)]);
        let message = self.budget.take(&self.key, [(TierRate::Publishes, 1), (TierRate::Bytes, DATA.len())]);
        assert!(request.is_ok() && message.is_ok());
    }
}
