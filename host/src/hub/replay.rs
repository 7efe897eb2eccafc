//! Brings a member that missed something up to date: from the room's history, through the member's own filter, at
//! the pace of its socket; then it goes live without a message skipped or repeated.

use super::{Connection, Hub, catch_up::Progress, command::*};
use crate::{
    close::Close,
    protocol::reply,
    room::RoomName,
    store::{History, Unavailable},
};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Messages read from the store at once: at most 16 MiB with the default size of messages.
const PAGE: usize = 256;

pub struct Replay {
    connection: Arc<Connection>,
    room: RoomName,
    seat: SeatId,
    shard: usize,
    filtered: bool,
    progress: Progress,
    /// Everything after it is kept back or live.
    upto: u64,
    epoch: Arc<str>,
    /// The first page, read to know whether it can be done.
    page: Option<History>,
    /// The member is to be told that something was lost.
    pub tells_loss: bool,
}

impl Replay {
    /// Prepares for a member for which messages are kept back. `recovered` says whether all of what it missed is
    /// held; otherwise the replay only takes it live.
    pub async fn prepare(
        hub: &Hub,
        connection: &Arc<Connection>,
        joined: &Joined,
        progress: &Progress,
    ) -> Result<(Self, bool), Unavailable> {
        let mut replay = Self {
            connection: connection.clone(),
            room: joined.seat.room.clone(),
            seat: joined.seat.id,
            shard: joined.seat.shard,
            filtered: joined.filtered,
            progress: progress.clone(),
            upto: joined.position.offset,
            epoch: joined.position.epoch.clone(),
            page: None,
            tells_loss: false,
        };
        let Recovery::After(after) = joined.recovery else { return Ok((replay, false)) };
        let page = replay.read(hub, after).await?;
        let recovered = page.whole;
        match recovered {
            true => replay.page = Some(page),
            false => replay.progress.set(replay.upto),
        }
        Ok((replay, recovered))
    }

    async fn read(&self, hub: &Hub, after: u64) -> Result<History, Unavailable> {
        let after = crate::protocol::Position { epoch: self.epoch.clone(), offset: after };
        hub.store.history(&self.room, Some(&after), PAGE).await
    }

    pub fn room(&self) -> &RoomName {
        &self.room
    }

    pub async fn run(mut self, hub: &Hub) {
        if self.tells_loss && !self.gap(hub, self.upto + 1).await {
            return;
        }
        loop {
            while self.progress.at() < self.upto {
                let page = match self.page.take() {
                    Some(page) => page,
                    None => match self.read(hub, self.progress.at()).await {
                        Ok(page) => page,
                        Err(error) => {
                            tracing::warn!(connection = %self.connection.id, room = &*self.room, %error, "replay ended");
                            return self.connection.outbox.close(Close::Overloaded);
                        }
                    },
                };
                if !self.send(hub, page).await {
                    return;
                }
            }
            let (reply, settled) = oneshot::channel();
            let (room, seat, upto) = (self.room.clone(), self.seat, self.upto);
            hub.send(self.shard, Command::Settle { room, seat, upto, reply });
            match settled.await {
                Ok(Settled::Behind { upto }) => self.upto = upto,
                Ok(Settled::Live | Settled::Gone) | Err(_) => return,
            }
        }
    }

    /// `false`: the connection is gone.
    async fn send(&mut self, hub: &Hub, page: History) -> bool {
        if !page.whole {
            let next = page.messages.first().map_or(page.newest.offset + 1, |message| message.offset);
            if !self.gap(hub, next).await {
                return false;
            }
        }
        let mut messages = page.messages;
        messages.retain(|message| message.offset <= self.upto);
        let last = match messages.last() {
            Some(last) => last.offset,
            None => self.upto,
        };
        let sieved = match self.filtered {
            true => hub.sieve(self.shard, &self.room, self.seat, messages).await,
            false => Sieved { passed: messages, failed: false },
        };
        for message in sieved.passed {
            if !self.connection.outbox.push_paced(message.frame().clone()).await {
                return false;
            }
            self.progress.set(message.offset);
            hub.metrics.replayed.inc();
        }
        self.progress.set(last);
        !sieved.failed || self.gap(hub, last + 1).await
    }

    async fn gap(&self, hub: &Hub, next: u64) -> bool {
        hub.metrics.gaps.inc();
        self.connection.outbox.push_paced(reply::gap(&self.room, &self.epoch, next).into()).await
    }
}
