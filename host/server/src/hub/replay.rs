//! Sends a member the messages that it missed, from the room's history and through its filter, as fast as its
//! socket accepts them. Then the member goes live. No message is skipped or repeated. Does not buffer live
//! messages.

use super::{Connection, HISTORY_PAGE, Hub, catch_up::Progress, command::*};
use crate::outbox::PacedOutcome;
use std::sync::Arc;
use switchyard_protocol::{Close, Position, reply, room::RoomName};
use switchyard_store::{History, PageLimit, Reader, Unavailable};
use tokio::sync::{Semaphore, oneshot};

/// Lets the replays of one connection take turns, so that only one page is in memory for it at a time.
#[derive(Clone)]
pub(crate) struct ReplayTurns(Arc<Semaphore>);

impl ReplayTurns {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// The replay of one room to one member.
pub(crate) struct Replay {
    connection: Arc<Connection>,
    room: RoomName,
    seat: SeatId,
    progress: Progress,
    /// The position that the member has to reach before the room can take it live. It has the same epoch as
    /// `progress`, unless `lost`.
    target: Position,
    /// The messages up to `target` are lost, and the member has not been told yet.
    lost: bool,
}

/// What the log says about the position from which a client wants to recover.
pub(crate) struct Recovered {
    /// Whether the history still has every message after it.
    pub is_complete: bool,
    /// Where the member will be after the replay: the newest position of the log.
    pub position: Position,
}

/// The outcome of sending a page.
enum PageOutcome {
    /// It was sent, or the log has to be read again.
    Sent,
    /// The log is in another epoch. Its history starts after this position.
    EpochChanged(Position),
    /// The connection or the seat is gone.
    Over,
}

impl Replay {
    /// Prepares the replay to a member whose live messages are being buffered. If the member recovers from a
    /// position, looks up in the log whether that is possible.
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
            progress: progress.clone(),
            target: joined.position.clone(),
            lost: false,
        };
        let Recovery::After(_) = joined.recovery else { return Ok((replay, None)) };
        let page = replay.read_log(hub).await?;
        // The log was read after the room's position, so it is behind the room only if the store has lost
        // messages.
        let has_lost_messages =
            page.newest.epoch == joined.position.epoch && page.newest.offset < joined.position.offset;
        if !has_lost_messages {
            replay.target = page.newest.clone();
        }
        let recovered = Recovered { is_complete: page.whole, position: replay.target.clone() };
        Ok((replay, Some(recovered)))
    }

    /// Reads the newest position of the log, and whether it has every message after the member's position.
    /// Reads no messages.
    async fn read_log(&self, hub: &Hub) -> Result<History, Unavailable> {
        let member = self.progress.position();
        hub.store.broker.history(&self.room, Some(&member), PageLimit::NONE, Reader::Member).await
    }

    pub(crate) fn room(&self) -> &RoomName {
        &self.room
    }

    /// Skips what the member missed, because the history does not have all of it. The member is told with a
    /// gap, unless the answer to its request has told it already (`is_told`).
    pub(crate) fn skip_missed(&mut self, is_told: bool) {
        match is_told {
            true => self.progress.set_position(self.target.clone()),
            false => self.lost = true,
        }
    }

    pub(crate) async fn run(mut self, hub: &Hub, turns: &ReplayTurns) {
        if let Err(error) = self.catch_up(hub, turns).await {
            tracing::warn!(connection = %self.connection.id, room = &*self.room, %error, "replay ended");
            self.connection.outbox.close(Close::Overloaded);
        }
    }

    /// Each round sends messages, or moves the member to the position of the room or of the log. So it ends
    /// when the member has reached the end of the log.
    async fn catch_up(&mut self, hub: &Hub, turns: &ReplayTurns) -> Result<(), Unavailable> {
        loop {
            while !self.lost && self.progress.position().offset < self.target.offset {
                let _turn = turns.0.acquire().await.expect("never closed");
                // Do not read a page for a peer that does not read what it was already sent.
                self.connection.wait_for_reads().await;
                if !self.connection.outbox.wait_until_half_free().await {
                    return Ok(());
                }
                let (connection, after) = (&self.connection, self.progress.position());
                let page = hub
                    .read(&connection.principal, &self.room, Some(&after), HISTORY_PAGE, Reader::Member)
                    .await?;
                connection.charge_read(&page);
                match self.send(hub, page).await? {
                    PageOutcome::Sent => {}
                    PageOutcome::EpochChanged(start) => (self.target, self.lost) = (start, true),
                    PageOutcome::Over => return Ok(()),
                }
            }
            match self.finish_catch_up(hub).await {
                CatchUpOutcome::Behind { upto } => self.target = upto,
                CatchUpOutcome::EpochChanged => {
                    let page = self.read_log(hub).await?;
                    match page.newest.epoch == self.target.epoch {
                        false => (self.target, self.lost) = (before_oldest(&page), true),
                        true if page.newest.offset > self.target.offset => self.target = page.newest,
                        true => {}
                    }
                }
                CatchUpOutcome::Live | CatchUpOutcome::Gone => return Ok(()),
            }
        }
    }

    /// Asks the room to take the member live.
    async fn finish_catch_up(&mut self, hub: &Hub) -> CatchUpOutcome {
        let (reply, outcome) = oneshot::channel();
        let (room, seat, upto) = (self.room.clone(), self.seat, self.target.clone());
        let lost = std::mem::take(&mut self.lost);
        if lost {
            hub.metrics.gaps.inc();
        }
        hub.router.send(&self.room, ShardCommand::FinishCatchUp { room, seat, upto, lost, reply });
        outcome.await.unwrap_or(CatchUpOutcome::Gone)
    }

    /// Sends the messages of a page, as far as the target.
    async fn send(&mut self, hub: &Hub, page: History) -> Result<PageOutcome, Unavailable> {
        let member = self.progress.position();
        if page.newest.epoch != member.epoch {
            return Ok(PageOutcome::EpochChanged(before_oldest(&page)));
        }
        if page.newest.offset < member.offset {
            // The store has lost messages, and will assign their offsets again. The client is told when it
            // resumes.
            return Err(Unavailable("the log is behind what was sent".to_owned()));
        }
        if !page.whole {
            let next = page.messages.first().map_or(page.newest.offset + 1, |message| message.offset);
            // Messages after the target are buffered, or read later.
            match self.send_gap(hub, next.min(self.target.offset + 1)).await {
                PacedOutcome::Sent => {}
                other => return Ok(self.interrupted(other)),
            }
        }
        let mut messages = page.messages;
        messages.retain(|message| message.offset <= self.target.offset);
        let last = messages.last().map_or(self.target.offset, |last| last.offset);
        // A plugin may have taken the room over since the last page.
        let filtered = match hub.is_governed(&self.room) {
            true => hub.filter_history(&self.room, self.seat, messages).await,
            false => FilteredHistory { passed: messages, ..FilteredHistory::default() },
        };
        for message in filtered.passed {
            let (frame, advances) = (message.frame().clone(), || self.progress.advance_to(message.offset));
            match self.connection.outbox.push_paced(frame, advances).await {
                PacedOutcome::Sent => {
                    hub.metrics.replayed.inc();
                }
                other => return Ok(self.interrupted(other)),
            }
        }
        if filtered.failed || filtered.lost {
            match self.send_gap(hub, last + 1).await {
                PacedOutcome::Sent => {}
                other => return Ok(self.interrupted(other)),
            }
        }
        match self.progress.advance_to(last) {
            true => Ok(PageOutcome::Sent),
            false => Ok(self.interrupted(PacedOutcome::Unwanted)),
        }
    }

    /// Tells the member that it has missed everything before `next` that it was not sent.
    async fn send_gap(&self, hub: &Hub, next: u64) -> PacedOutcome {
        let gap = reply::gap(&self.room, &self.progress.position().epoch, next).into();
        let advances = || self.progress.advance_to(next - 1);
        let outcome = self.connection.outbox.push_paced(gap, advances).await;
        if outcome == PacedOutcome::Sent {
            hub.metrics.gaps.inc();
        }
        outcome
    }

    /// The outcome if the rest of a page is not sent. If the room's epoch changed, the replay continues and
    /// reads the log again.
    fn interrupted(&self, why: PacedOutcome) -> PageOutcome {
        match why == PacedOutcome::Unwanted && self.progress.take_epoch_change() {
            true => PageOutcome::Sent,
            false => PageOutcome::Over,
        }
    }
}

/// The position before the oldest message of the history.
fn before_oldest(page: &History) -> Position {
    Position { epoch: page.newest.epoch.clone(), offset: page.oldest - 1 }
}
