//! One room that this node is subscribed to: whether everything that was published has been received, and what to do if
//! not. No I/O and no clock.

use crate::{
    Event, EventFeed,
    redis::{
        log_entry::{LogEntry, LogPage},
        rooms::is_older,
    },
};
use std::collections::VecDeque;
use switchyard_protocol::{Position, room::RoomName};

/// Messages that are buffered while the log is read. Those beyond are read from the log, too.
const MAX_BUFFERED_MESSAGES: usize = 256;

pub(crate) struct RoomSubscription {
    pub room: RoomName,
    /// Differs between subscriptions, also of the same room.
    pub number: u64,
    /// The last read of the log. Results of earlier ones are ignored.
    pub read: u64,
    /// Somebody is in the room. When nobody is, the subscription lingers for a moment.
    pub is_needed: bool,
    /// Something was received since the last patrol.
    pub is_active: bool,
    phase: Phase,
    /// Of the newest message that was passed on, and its time.
    position: Position,
    time: u64,
    buffered: VecDeque<LogEntry>,
    /// How many of those were received before the log was read: the result has them, or the log lacks them.
    buffered_before_read: usize,
    /// More was received than is buffered.
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

/// What is to be done for a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextStep {
    Nothing,
    /// Read the log after the position.
    Read,
    /// The same, but later: the receivers of its messages are busy.
    ReadLater,
    /// Begin another epoch of the room: this one went back.
    BeginEpoch,
}

/// What reading the log has shown.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ResyncResult {
    /// Messages that had been missed, and were passed on now.
    pub missed: usize,
    /// Messages were missed that the log no longer has.
    pub is_lost: bool,
    /// The room has another epoch.
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

    /// Somebody is in the room again.
    pub(crate) fn resubscribe(&mut self, feed: &EventFeed) {
        self.is_needed = true;
        if !self.is_opening() {
            feed(Event::Subscribed { room: self.room.shared(), position: self.position.clone() });
        }
    }

    /// The log is about to be read. What is received until then is buffered.
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
            // The log has it as well, unless the room has no history.
            NextStep::Read | NextStep::BeginEpoch => self.buffered.push_back(entry),
        }
        if next != NextStep::Nothing {
            self.phase = Phase::Resyncing;
        }
        next
    }

    /// Passes a message on if it follows the newest.
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
                // Of an epoch that began and ended unseen, or of a server that is no longer the master.
                NextStep::Read if was_before_read => {}
                NextStep::Read | NextStep::BeginEpoch => {
                    self.buffered.push_front(entry);
                    return (NextStep::Read, result);
                }
                // It was passed on.
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

    /// Redis has forgotten messages that this node has seen, as a replica may that takes over. Their offsets now belong to
    /// other messages.
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
