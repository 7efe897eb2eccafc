//! Brings a member that missed something up to date: from the room's history, through the member's own filter, at
//! the pace of its socket; then it goes live without a message skipped or repeated.

use super::{Connection, Hub, PAGE, catch_up::Progress, command::*};
use crate::outbox::Paced;
use std::{sync::Arc, time::Duration};
use switchyard_protocol::{Close, Position, reply, room::RoomName};
use switchyard_store::{History, PageLimit, Reader, Unavailable};
use tokio::sync::{Semaphore, oneshot};

/// The replays of one connection take turns: a page that is being sent is the only one that is held for it.
#[derive(Clone)]
pub(crate) struct Turns {
    one: Arc<Semaphore>,
    patience: Duration,
}

impl Turns {
    /// A peer that takes nothing at all for as long as `patience` is too slow.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { one: Arc::new(Semaphore::new(1)), patience }
    }
}

pub(crate) struct Replay {
    connection: Arc<Connection>,
    room: RoomName,
    seat: SeatId,
    shard: usize,
    filtered: bool,
    progress: Progress,
    /// How far to go before the room is asked to take the member live. Of the epoch of `progress`, unless it is `lost`.
    upto: Position,
    /// The member has to be told that everything up to there is lost.
    lost: bool,
}

/// What the log says of a position that a client came with.
pub(crate) struct Recovered {
    /// All that followed it is held and will be replayed.
    pub whole: bool,
    /// Where the member is then: the newest of the log.
    pub position: Position,
}

/// How a page fared.
enum Sent {
    All,
    /// The log has moved to another epoch, of which nothing is held up to here.
    Moved(Position),
    /// The connection or the seat is gone.
    Over,
}

impl Replay {
    /// Prepares for a member for which messages are kept back. Where it came with a position, the log is asked about it.
    pub(crate) async fn prepare(
        hub: &Hub,
        connection: &Arc<Connection>,
        joined: &Joined,
        progress: &Progress,
    ) -> Result<(Self, Option<Recovered>), Unavailable> {
        let mut replay = Self {
            connection: connection.clone(),
            room: joined.seat.room.clone(),
            seat: joined.seat.id,
            shard: joined.seat.shard,
            filtered: joined.filtered,
            progress: progress.clone(),
            upto: joined.position.clone(),
            lost: false,
        };
        let Recovery::After(_) = joined.recovery else { return Ok((replay, None)) };
        let page = replay.look(hub).await?;
        // The log was asked after the room, so it is behind only where it went back.
        let is_behind =
            page.newest.epoch == joined.position.epoch && page.newest.offset < joined.position.offset;
        if !is_behind {
            replay.upto = page.newest.clone();
        }
        let recovered = Recovered { whole: page.whole, position: replay.upto.clone() };
        Ok((replay, Some(recovered)))
    }

    /// Where the log is, and whether all after the member's position is held.
    async fn look(&self, hub: &Hub) -> Result<History, Unavailable> {
        let at = self.progress.at();
        hub.store.broker.history(&self.room, Some(&at), PageLimit::NONE, Reader::Member).await
    }

    pub(crate) fn room(&self) -> &RoomName {
        &self.room
    }

    /// What the member missed cannot be replayed. `told`: its answer says so; otherwise a gap does.
    pub(crate) fn give_up(&mut self, told: bool) {
        match told {
            true => self.progress.set(self.upto.clone()),
            false => self.lost = true,
        }
    }

    pub(crate) async fn run(mut self, hub: &Hub, turns: &Turns) {
        if let Err(error) = self.catch_up(hub, turns).await {
            tracing::warn!(connection = %self.connection.id, room = &*self.room, %error, "replay ended");
            self.connection.outbox.close(Close::Overloaded);
        }
    }

    /// Each round sends something, or takes the member to where the room or the log is; so it ends with the log.
    async fn catch_up(&mut self, hub: &Hub, turns: &Turns) -> Result<(), Unavailable> {
        loop {
            while !self.lost && self.progress.at().offset < self.upto.offset {
                let _turn = turns.one.acquire().await.expect("never closed");
                // Nothing is read for a peer that does not take what waits for it.
                if !self.connection.outbox.half_free(turns.patience).await {
                    return Ok(());
                }
                let (connection, after) = (&self.connection, self.progress.at());
                let page =
                    hub.read(&connection.principal, &self.room, Some(&after), PAGE, Reader::Member).await?;
                match self.send(hub, page, turns.patience).await? {
                    Sent::All => {}
                    Sent::Moved(to) => (self.upto, self.lost) = (to, true),
                    Sent::Over => return Ok(()),
                }
            }
            match self.settle(hub).await {
                Settled::Behind { upto } => self.upto = upto,
                Settled::Doubtful => {
                    let page = self.look(hub).await?;
                    match page.newest.epoch == self.upto.epoch {
                        false => (self.upto, self.lost) = (before_oldest(&page), true),
                        true if page.newest.offset > self.upto.offset => self.upto = page.newest,
                        true => {}
                    }
                }
                Settled::Live | Settled::Gone => return Ok(()),
            }
        }
    }

    async fn settle(&mut self, hub: &Hub) -> Settled {
        let (reply, settled) = oneshot::channel();
        let (room, seat, upto) = (self.room.clone(), self.seat, self.upto.clone());
        let lost = std::mem::take(&mut self.lost);
        if lost {
            hub.metrics.gaps.inc();
        }
        hub.shards[self.shard].queue.send(Command::Settle { room, seat, upto, lost, reply }).ok();
        settled.await.unwrap_or(Settled::Gone)
    }

    async fn send(&mut self, hub: &Hub, page: History, patience: Duration) -> Result<Sent, Unavailable> {
        let at = self.progress.at();
        if page.newest.epoch != at.epoch {
            return Ok(Sent::Moved(before_oldest(&page)));
        }
        if page.newest.offset < at.offset {
            // Its offsets will stand for other messages; on resuming it is told so.
            return Err(Unavailable("the log is behind what was sent".to_owned()));
        }
        if !page.whole {
            let next = page.messages.first().map_or(page.newest.offset + 1, |message| message.offset);
            // What is beyond is kept back, or read later.
            match self.gap(hub, next.min(self.upto.offset + 1), patience).await {
                Paced::Taken => {}
                other => return Ok(self.interrupted(other)),
            }
        }
        let mut messages = page.messages;
        messages.retain(|message| message.offset <= self.upto.offset);
        let last = messages.last().map_or(self.upto.offset, |last| last.offset);
        let sieved = match self.filtered {
            true => hub.sieve(self.shard, &self.room, self.seat, messages).await,
            false => Sieved { passed: messages, ..Sieved::default() },
        };
        for message in sieved.passed {
            let (frame, reached) = (message.frame().clone(), || self.progress.reach(message.offset));
            match self.connection.outbox.push_paced(frame, patience, reached).await {
                Paced::Taken => {
                    hub.metrics.replayed.inc();
                }
                other => return Ok(self.interrupted(other)),
            }
        }
        if sieved.failed || sieved.lost {
            match self.gap(hub, last + 1, patience).await {
                Paced::Taken => {}
                other => return Ok(self.interrupted(other)),
            }
        }
        match self.progress.reach(last) {
            true => Ok(Sent::All),
            false => Ok(self.interrupted(Paced::Unwanted)),
        }
    }

    /// Everything before `next` that was not sent is lost.
    async fn gap(&self, hub: &Hub, next: u64, patience: Duration) -> Paced {
        let gap = reply::gap(&self.room, &self.progress.at().epoch, next).into();
        let reached = || self.progress.reach(next - 1);
        let paced = self.connection.outbox.push_paced(gap, patience, reached).await;
        if paced == Paced::Taken {
            hub.metrics.gaps.inc();
        }
        paced
    }

    /// Nothing more of a page is sent. Where the room has moved, the log is read again.
    fn interrupted(&self, why: Paced) -> Sent {
        match why == Paced::Unwanted && self.progress.resolve_doubt() {
            true => Sent::All,
            false => Sent::Over,
        }
    }
}

/// Where a member goes on that knows nothing of the log.
fn before_oldest(page: &History) -> Position {
    Position { epoch: page.newest.epoch.clone(), offset: page.oldest - 1 }
}
