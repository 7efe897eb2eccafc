//! A message as Redis has it, in a room's log and on its channel: `EPOCH OFFSET TIME BEFORE LENGTH `, then as many bytes of
//! event, then the data. BEFORE is the time of the message before; without an event LENGTH is `-`.

use std::sync::Arc;
use switchyard_process::memory::{MemoryAccount, MemoryKind};
use switchyard_protocol::{Position, Publication};

/// What the node knows of a message when it is published; Redis puts the rest before it.
pub(super) fn body(event: Option<&str>, data: &str) -> Vec<u8> {
    match event {
        Some(event) => [event.len().to_string().as_str(), " ", event, data].concat().into_bytes(),
        None => ["- ", data].concat().into_bytes(),
    }
}

/// A message that was read.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub publication: Arc<Publication>,
    /// Unix milliseconds, by Redis' clock, of the message before it in its room.
    pub before: u64,
}

/// `None`: it is not in this form. Counted as one of a kind for as long as anybody has it.
pub(super) fn read(
    room: &Arc<str>,
    bytes: &[u8],
    account: &Arc<MemoryAccount>,
    kind: MemoryKind,
) -> Option<Heard> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut parts = text.splitn(6, ' ');
    let epoch: Arc<str> = parts.next()?.into();
    let offset = parts.next()?.parse().ok()?;
    let time = parts.next()?.parse().ok()?;
    let before = parts.next()?.parse().ok()?;
    let (length, rest) = (parts.next()?, parts.next()?);
    let (event, data) = match length {
        "-" => (None, rest),
        length => {
            let (event, data) = rest.split_at_checked(length.parse().ok()?)?;
            (Some(event), data)
        }
    };
    let publication = Publication::new(room.clone(), epoch, offset, time, event, data);
    let charge = account.charge(kind, publication.size());
    Some(Heard { publication: Arc::new(publication.with_guard(charge)), before })
}

/// A piece of a room's log.
#[derive(Debug)]
pub(super) struct Page {
    pub newest: Position,
    /// Of the newest message; 0 before the first.
    pub time: u64,
    /// The oldest held; one beyond the newest when none is.
    pub oldest: u64,
    pub messages: Vec<Heard>,
}

impl Page {
    /// Nothing after `after` is missing from what is held.
    pub(super) fn is_whole_after(&self, after: &Position) -> bool {
        after.epoch == self.newest.epoch
            && after.offset <= self.newest.offset
            && after.offset + 1 >= self.oldest
    }

    /// More is held after the last of these.
    pub(super) fn has_more(&self) -> bool {
        self.messages.last().is_some_and(|last| last.publication.offset < self.newest.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let account = MemoryAccount::unlimited();
        for (event, data) in
            [(None, "1"), (Some(""), "{}"), (Some("a b"), "{\"a\": \" \"}"), (Some("é"), "\"é\"")]
        {
            let mut bytes = b"k3f9 7 1760000000001 1760000000000 ".to_vec();
            bytes.extend(body(event, data));
            let Heard { publication: message, before } =
                read(&"r".into(), &bytes, &account, MemoryKind::Replays).unwrap();
            assert_eq!((message.event.as_deref(), message.data(), before), (event, data, 1760000000000));
            assert_eq!((&*message.epoch, message.offset, message.time), ("k3f9", 7, 1760000000001));
        }
        for bad in ["", "k 1 2 3 -", "k x 2 3 - 1", "k 1 2 3 9 ab", "k 1 2 3 1 é"] {
            assert!(read(&"r".into(), bad.as_bytes(), &account, MemoryKind::Replays).is_none(), "{bad}");
        }
    }
}
