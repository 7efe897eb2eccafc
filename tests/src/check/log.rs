//! The messages that were published, as the publishers were told.

use std::{collections::BTreeMap, time::Duration};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Message {
    pub number: u64,
    /// The change of the message, in tenths.
    pub change: u8,
    /// When it was first requested.
    pub requested: Duration,
}

/// The messages of a room by epoch and offset.
type Room = BTreeMap<String, BTreeMap<u64, Message>>;

#[derive(Clone, Debug, Default)]
pub struct Log {
    rooms: BTreeMap<String, Room>,
    /// Messages with the position of another message, or with two positions.
    pub conflicts: Vec<String>,
}

impl Log {
    pub fn add(&mut self, room: &str, epoch: &str, offset: u64, message: Message) {
        let messages = self.rooms.entry(room.to_owned()).or_default().entry(epoch.to_owned()).or_default();
        let twice = messages.iter().find(|(at, other)| other.number == message.number && **at != offset);
        if let Some((at, _)) = twice {
            self.conflicts.push(format!("{room}: message {} is at {at} and at {offset}", message.number));
        }
        if let Some(other) = messages.insert(offset, message)
            && other.number != message.number
        {
            let (one, two) = (other.number, message.number);
            self.conflicts.push(format!("{room}: messages {one} and {two} are both at {offset}"));
        }
    }

    pub fn get(&self, room: &str, epoch: &str, offset: u64) -> Option<&Message> {
        self.rooms.get(room)?.get(epoch)?.get(&offset)
    }

    /// The messages between two offsets, both excluded.
    pub fn between(
        &self,
        room: &str,
        epoch: &str,
        after: u64,
        before: u64,
    ) -> impl Iterator<Item = (u64, &Message)> {
        let messages = self.rooms.get(room).and_then(|room| room.get(epoch));
        let range = after.saturating_add(1)..before.max(after.saturating_add(1));
        messages.into_iter().flat_map(move |messages| messages.range(range.clone())).map(|(o, m)| (*o, m))
    }

    pub fn newest(&self, room: &str, epoch: &str) -> u64 {
        let messages = self.rooms.get(room).and_then(|room| room.get(epoch));
        messages.and_then(|messages| messages.last_key_value()).map_or(0, |(offset, _)| *offset)
    }

    /// The epoch of a room, if it has had only one.
    pub fn only_epoch(&self, room: &str) -> Option<&str> {
        let epochs = self.rooms.get(room)?;
        epochs.keys().next().filter(|_| epochs.len() == 1).map(String::as_str)
    }

    /// The offset before the first message that was requested after a time.
    pub fn before(&self, room: &str, epoch: &str, time: Duration) -> u64 {
        let later = self.between(room, epoch, 0, u64::MAX).find(|(_, message)| message.requested > time);
        later.map_or_else(|| self.newest(room, epoch), |(offset, _)| offset - 1)
    }

    /// All rooms and epochs with their messages.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str, &BTreeMap<u64, Message>)> {
        let epochs = |(room, epochs)| -> Vec<_> {
            let (room, epochs): (&String, &Room) = (room, epochs);
            epochs.iter().map(|(epoch, messages)| (room.as_str(), epoch.as_str(), messages)).collect()
        };
        self.rooms.iter().flat_map(epochs)
    }
}
