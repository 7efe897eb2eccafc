//! The subscription to one room: detects missed messages by comparing what was received with the log, and
//! decides what to do next. No I/O and no clock.

use crate::{
    Event, EventFeed,
    redis::{
        log_entry::{LogEntry, LogPage},
        rooms::is_older,
    },
};
use std::collections::VecDeque;
use switchyard_protocol::{Position, room::RoomName};

/// How many messages are buffered while the log is read. Any more are read from the log as well.
const MAX_BUFFERED_MESSAGES: usize = 256;

pub(crate) struct RoomSubscription {
    pub room: RoomName,
    /// Unique for each subscription, even of the same room.
    pub number: u64,
    /// The number of the last read of the log. Results of earlier reads are ignored.
    pub read: u64,
    /// Whether the room has members on this node. If not, the subscription lingers for a moment.
    pub is_needed: bool,
    /// Whether a message was received since the last check.
    pub is_active: bool,
    phase: Phase,
    /// The position of the newest message that was passed on.
    position: Position,
    /// The time of that message.
    time: u64,
    buffered: VecDeque<LogEntry>,
    /// How many of them were received before the log was read, so that they are in what was read unless the
    /// log lacks them.
    buffered_before_read: usize,
    /// Whether messages were dropped because the buffer was full.
    has_overflowed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The position of the room is not known yet.
    Opening,
    Live,
    /// The log is being read.
    Resyncing,
}

/// What the listener must do next for a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextStep {
    Nothing,
    /// Read the log after the position.
    Read,
    /// The same, but later, because the receiver of the messages is busy.
    ReadLater,
    /// Begin another epoch of the room, because this one lost messages that were already seen.
    BeginEpoch,
}

/// What reading the log revealed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ResyncResult {
    /// How many missed messages were passed on.
    pub missed: usize,
    /// Whether missed messages are no longer in the log.
    pub is_lost: bool,
    /// Whether the room has another epoch.
    pub has_new_epoch: bool,
}

impl RoomSubscription {
    pub(crate) fn new(room: RoomName, number: u64) -> Self {
        let position = Position { epoch: "".into(), offset: 0 };
        Self {
            room,
            number,
            read: 0,
            is_needed: true,
            is_active: true,
            phase: Phase::Opening,
            position,
            time: 0,
            buffered: VecDeque::new(),
            buffered_before_read: 0,
            has_overflowed: false,
        }
    }

    pub(crate) fn is_opening(&self) -> bool {
        self.phase == Phase::Opening
    }

    pub(crate) fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// The position after which to read the log; `None` while that of the room is not known.
    pub(crate) fn read_after(&self) -> Option<&Position> {
        (!self.is_opening()).then_some(&self.position)
    }

    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    /// The room has members on this node again.
    pub(crate) fn resubscribe(&mut self, feed: &EventFeed) {
        self.is_needed = true;
        if !self.is_opening() {
            feed(Event::Subscribed { room: self.room.shared(), position: self.position.clone() });
        }
    }

    /// The log is about to be read. Messages that are received until then are buffered.
    pub(crate) fn start_resync(&mut self) {
        if self.is_live() {
            self.phase = Phase::Resyncing;
        }
        self.buffered_before_read = self.buffered.len();
    }

    /// A message was received from the channel of the room.
    pub(crate) fn receive(&mut self, entry: LogEntry, feed: &EventFeed) -> NextStep {
        self.is_active = true;
        if !self.is_live() {
            match self.buffered.len() < MAX_BUFFERED_MESSAGES {
                true => self.buffered.push_back(entry),
                false => self.has_overflowed = true,
            }
            return NextStep::Nothing;
        }
        let next = self.pass_on(&entry, feed);
        match next {
            NextStep::Nothing | NextStep::ReadLater => {}
            // The log has this message too, unless the room keeps no history.
            NextStep::Read | NextStep::BeginEpoch => self.buffered.push_back(entry),
        }
        if next != NextStep::Nothing {
            self.phase = Phase::Resyncing;
        }
        next
    }

    /// Passes a message on if it directly follows the newest one.
    fn pass_on(&mut self, entry: &LogEntry, feed: &EventFeed) -> NextStep {
        let message = &entry.publication;
        if message.epoch != self.position.epoch {
            return NextStep::Read;
        }
        if message.offset <= self.position.offset {
            return NextStep::Nothing;
        }
        if message.offset > self.position.offset + 1 || entry.previous_time != self.time {
            return NextStep::Read;
        }
        (self.position.offset, self.time) = (message.offset, message.time);
        match self.is_needed && !feed(Event::Published(message.clone())) {
            true => NextStep::ReadLater,
            false => NextStep::Nothing,
        }
    }

    /// The log was read after [`Self::read_after`].
    pub(crate) fn finish_read(&mut self, page: &LogPage, feed: &EventFeed) -> (NextStep, ResyncResult) {
        let mut result = ResyncResult::default();
        let ended = self.position.epoch.clone();
        if self.is_opening() {
            (self.position, self.time) = (page.newest.clone(), page.time);
            if self.is_needed {
                feed(Event::Subscribed { room: self.room.shared(), position: self.position.clone() });
            }
        } else if self.went_back(page) {
            return (NextStep::BeginEpoch, result);
        } else {
            if !page.is_whole_after(&self.position) {
                result.is_lost = true;
                result.has_new_epoch = ended != page.newest.epoch;
                let first = page.entries.first();
                self.time = first.map_or(page.time, |first| first.previous_time);
                let offset = first.map_or(page.newest.offset, |first| first.publication.offset - 1);
                self.position = Position { epoch: page.newest.epoch.clone(), offset };
                if self.is_needed {
                    feed(Event::Lost { room: self.room.shared(), position: self.position.clone() });
                }
            }
            let before = self.position.offset;
            let next = page.entries.iter().map(|entry| self.pass_on(entry, feed));
            let next = next.into_iter().find(|next| *next != NextStep::Nothing);
            result.missed = (self.position.offset - before) as usize;
            match next {
                Some(next) => return (next, result),
                None if page.has_more() => return (NextStep::Read, result),
                None => {}
            }
        }
        while let Some(entry) = self.buffered.pop_front() {
            let was_before_read = self.buffered_before_read > 0;
            self.buffered_before_read = self.buffered_before_read.saturating_sub(1);
            // Messages of the epoch that ended are not passed on any more.
            if entry.publication.epoch == ended && ended != self.position.epoch {
                continue;
            }
            match self.pass_on(&entry, feed) {
                // It belongs to an epoch that began and ended unseen, or comes from a server that is no
                // longer the master.
                NextStep::Read if was_before_read => {}
                NextStep::Read | NextStep::BeginEpoch => {
                    self.buffered.push_front(entry);
                    return (NextStep::Read, result);
                }
                // This message was passed on.
                NextStep::ReadLater => return (NextStep::ReadLater, result),
                NextStep::Nothing => {}
            }
        }
        if std::mem::take(&mut self.has_overflowed) {
            return (NextStep::Read, result);
        }
        self.phase = Phase::Live;
        (NextStep::Nothing, result)
    }

    /// Whether Redis has lost messages that this node has seen, as a replica that takes over may have. Their
    /// offsets now belong to other messages.
    fn went_back(&self, page: &LogPage) -> bool {
        let Position { epoch, offset } = &page.newest;
        if *epoch != self.position.epoch {
            return is_older(epoch, &self.position.epoch);
        }
        let first = page.entries.first().filter(|first| first.publication.offset == self.position.offset + 1);
        *offset < self.position.offset
            || (*offset == self.position.offset && page.time != self.time)
            || first.is_some_and(|first| first.previous_time != self.time)
    }
}

#[cfg(test)]
mod tests;
