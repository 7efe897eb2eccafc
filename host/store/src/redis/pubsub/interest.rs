//! One room that this node listens to: whether what is heard is all there is, and what to do when it is not. No I/O and no
//! clock.

use crate::{
    Event, Feed,
    redis::{
        rooms::is_older,
        wire::{Heard, Page},
    },
};
use std::collections::VecDeque;
use switchyard_protocol::{Position, room::RoomName};

/// Messages kept while the log is read; what comes beyond is read as well.
const KEPT: usize = 256;

pub(crate) struct Interest {
    pub room: RoomName,
    /// Another for each interest, also in the same room.
    pub number: u64,
    /// What was asked last about the room; answers to earlier questions say nothing.
    pub question: u64,
    /// Somebody is in the room; without anybody it is listened to for a moment more.
    pub watched: bool,
    /// Something was heard since the last patrol.
    pub active: bool,
    phase: Phase,
    /// Of the newest message that was passed on, and its time.
    position: Position,
    time: u64,
    kept: VecDeque<Heard>,
    /// How many of those were heard before the question: the answer has them, or they are not in the log.
    settled: usize,
    /// More was heard than is kept.
    overflowed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It is not known yet where the room is.
    Opening,
    Live,
    /// The log is being read.
    Mending,
}

/// What an interest wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    /// The log after its position.
    Read,
    /// The same, but those who hear of it are busy.
    ReadLater,
    /// Another epoch for the room: this one went back.
    Renew,
}

/// What reading brought to light.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Messages that had been missed.
    pub missed: usize,
    /// Messages were missed that are no longer held.
    pub lost: bool,
    /// The room goes on with another epoch.
    pub anew: bool,
}

impl Interest {
    pub(crate) fn new(room: RoomName, number: u64) -> Self {
        let position = Position { epoch: "".into(), offset: 0 };
        let kept = VecDeque::new();
        Self {
            room,
            number,
            question: 0,
            watched: true,
            active: true,
            phase: Phase::Opening,
            position,
            time: 0,
            kept,
            settled: 0,
            overflowed: false,
        }
    }

    pub(crate) fn is_opening(&self) -> bool {
        self.phase == Phase::Opening
    }

    pub(crate) fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// After which the log is to be read; `None` while it is not known where the room is.
    pub(crate) fn after(&self) -> Option<&Position> {
        (!self.is_opening()).then_some(&self.position)
    }

    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    /// Somebody is in the room again.
    pub(crate) fn rewatch(&mut self, feed: &Feed) {
        self.watched = true;
        if !self.is_opening() {
            feed(Event::Subscribed { room: self.room.shared(), position: self.position.clone() });
        }
    }

    /// The log is about to be read. What is heard until then is kept.
    pub(crate) fn mend(&mut self) {
        if self.is_live() {
            self.phase = Phase::Mending;
        }
        self.settled = self.kept.len();
    }

    pub(crate) fn hear(&mut self, heard: Heard, feed: &Feed) -> Next {
        self.active = true;
        if !self.is_live() {
            match self.kept.len() < KEPT {
                true => self.kept.push_back(heard),
                false => self.overflowed = true,
            }
            return Next::Nothing;
        }
        let next = self.follow(&heard, feed);
        match next {
            Next::Nothing | Next::ReadLater => {}
            // It is in the log as well, unless none is kept.
            Next::Read | Next::Renew => self.kept.push_back(heard),
        }
        if next != Next::Nothing {
            self.phase = Phase::Mending;
        }
        next
    }

    /// Passes on a message that follows the newest.
    fn follow(&mut self, heard: &Heard, feed: &Feed) -> Next {
        let message = &heard.publication;
        if message.epoch != self.position.epoch {
            return Next::Read;
        }
        if message.offset <= self.position.offset {
            return Next::Nothing;
        }
        if message.offset > self.position.offset + 1 || heard.before != self.time {
            return Next::Read;
        }
        (self.position.offset, self.time) = (message.offset, message.time);
        match self.watched && !feed(Event::Published(message.clone())) {
            true => Next::ReadLater,
            false => Next::Nothing,
        }
    }

    /// The log was read after [`Self::after`].
    pub(crate) fn read(&mut self, page: &Page, feed: &Feed) -> (Next, Found) {
        let mut found = Found::default();
        let ended = self.position.epoch.clone();
        if self.is_opening() {
            (self.position, self.time) = (page.newest.clone(), page.time);
            if self.watched {
                feed(Event::Subscribed { room: self.room.shared(), position: self.position.clone() });
            }
        } else if self.went_back(page) {
            return (Next::Renew, found);
        } else {
            if !page.is_whole_after(&self.position) {
                found.lost = true;
                found.anew = ended != page.newest.epoch;
                let first = page.messages.first();
                self.time = first.map_or(page.time, |first| first.before);
                let offset = first.map_or(page.newest.offset, |first| first.publication.offset - 1);
                self.position = Position { epoch: page.newest.epoch.clone(), offset };
                if self.watched {
                    feed(Event::Lost { room: self.room.shared(), position: self.position.clone() });
                }
            }
            let before = self.position.offset;
            let next = page.messages.iter().map(|heard| self.follow(heard, feed));
            let next = next.into_iter().find(|next| *next != Next::Nothing);
            found.missed = (self.position.offset - before) as usize;
            match next {
                Some(next) => return (next, found),
                None if page.has_more() => return (Next::Read, found),
                None => {}
            }
        }
        while let Some(heard) = self.kept.pop_front() {
            let was_settled = self.settled > 0;
            self.settled = self.settled.saturating_sub(1);
            // Of the epoch that ended nothing is wanted any more.
            if heard.publication.epoch == ended && ended != self.position.epoch {
                continue;
            }
            match self.follow(&heard, feed) {
                // Of an epoch that began and ended unseen, or of a server that no longer counts.
                Next::Read if was_settled => {}
                Next::Read | Next::Renew => {
                    self.kept.push_front(heard);
                    return (Next::Read, found);
                }
                // It was passed on.
                Next::ReadLater => return (Next::ReadLater, found),
                Next::Nothing => {}
            }
        }
        if std::mem::take(&mut self.overflowed) {
            return (Next::Read, found);
        }
        self.phase = Phase::Live;
        (Next::Nothing, found)
    }

    /// The room is not what this node has seen of it: Redis has forgotten messages, as a replica may that takes over, and
    /// offsets stand for other messages than before.
    fn went_back(&self, page: &Page) -> bool {
        let Position { epoch, offset } = &page.newest;
        if *epoch != self.position.epoch {
            return is_older(epoch, &self.position.epoch);
        }
        let first =
            page.messages.first().filter(|first| first.publication.offset == self.position.offset + 1);
        *offset < self.position.offset
            || (*offset == self.position.offset && page.time != self.time)
            || first.is_some_and(|first| first.before != self.time)
    }
}

#[cfg(test)]
mod tests;
