//! The format of a message in the log of a room and on its channel: `EPOCH OFFSET TIME PREVIOUS LENGTH `,
//! then the event, which has LENGTH bytes, then the data. PREVIOUS is the time of the message before it in
//! the room. Without an event, LENGTH is `-`. In a room with a plugin, LENGTH is followed by `@` and the principal
//! that published the message. If deliveries name the principal, it is `@!` instead. A node of a version that does
//! not know this delivers the message without the name.

use std::sync::Arc;
use switchyard_process::memory::{MemoryAccount, MemoryKind};
use switchyard_protocol::{Position, Publication};

/// The part of the format that a node knows when it publishes a message: from LENGTH on. The script adds what
/// comes before.
pub(super) fn encode_body(
    event: Option<&str>,
    publisher: Option<&str>,
    shows_sender: bool,
    data: &str,
) -> Vec<u8> {
    let length = event.map(|event| event.len().to_string());
    let (length, event) = (length.as_deref().unwrap_or("-"), event.unwrap_or_default());
    match publisher {
        Some(publisher) => {
            let mark = if shows_sender { "@!" } else { "@" };
            [length, mark, publisher, " ", event, data].concat().into_bytes()
        }
        None => [length, " ", event, data].concat().into_bytes(),
    }
}

/// A message that was read or received.
#[derive(Clone, Debug)]
pub(super) struct LogEntry {
    pub publication: Arc<Publication>,
    /// The time of the message before it in its room, in Unix milliseconds by Redis' clock; 0 for the first.
    pub previous_time: u64,
}

/// Decodes a message. `None` if the bytes do not have this format. The message is charged to `account` with
/// this kind until it is dropped.
pub(super) fn decode(
    room: &Arc<str>,
    bytes: &[u8],
    account: &Arc<MemoryAccount>,
    kind: MemoryKind,
) -> Option<LogEntry> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut parts = text.splitn(6, ' ');
    let epoch: Arc<str> = parts.next()?.into();
    let offset = parts.next()?.parse().ok()?;
    let time = parts.next()?.parse().ok()?;
    let previous_time = parts.next()?.parse().ok()?;
    let (length, rest) = (parts.next()?, parts.next()?);
    let (length, publisher) = match length.split_once('@') {
        Some((length, publisher)) => (length, Some(publisher)),
        None => (length, None),
    };
    let (event, data) = match length {
        "-" => (None, rest),
        length => {
            let (event, data) = rest.split_at_checked(length.parse().ok()?)?;
            (Some(event), data)
        }
    };
    let publication = match publisher.map(|publisher| (publisher, publisher.strip_prefix('!'))) {
        Some((_, Some(sender))) => {
            Publication::from_sender(room.clone(), epoch, offset, time, event, data, sender.into())
        }
        publisher => Publication::new(room.clone(), epoch, offset, time, event, data)
            .with_publisher(publisher.map(|(publisher, _)| publisher.into())),
    };
    let charge = account.charge(kind, publication.size());
    Some(LogEntry { publication: Arc::new(publication.with_guard(charge)), previous_time })
}

/// A page of the log of a room.
#[derive(Debug)]
pub(super) struct LogPage {
    /// The position of the room.
    pub newest: Position,
    /// The time of the newest message; 0 before the first.
    pub time: u64,
    /// The offset of the oldest message in the log; newest + 1 if it is empty.
    pub oldest: u64,
    pub entries: Vec<LogEntry>,
}

impl LogPage {
    /// Whether the log has all messages after this position.
    pub(super) fn is_whole_after(&self, after: &Position) -> bool {
        after.epoch == self.newest.epoch
            && after.offset <= self.newest.offset
            && after.offset + 1 >= self.oldest
    }

    /// Whether the log has messages after the last of these.
    pub(super) fn has_more(&self) -> bool {
        self.entries.last().is_some_and(|last| last.publication.offset < self.newest.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_message_is_decoded() {
        let account = MemoryAccount::unlimited();
        for (event, publisher, shows_sender, data) in [
            (None, None, false, "1"),
            (Some(""), None, false, "{}"),
            (Some("a b"), Some("acme"), false, "{\"a\": \" \"}"),
            (Some("é"), None, false, "\"é\""),
            (None, Some("a@b"), false, "[\"@\"]"),
            (Some("e"), Some("acme"), true, "[\"@!\"]"),
            (None, Some("a.b"), true, "2"),
        ] {
            let mut bytes = b"k3f9 7 1760000000001 1760000000000 ".to_vec();
            bytes.extend(encode_body(event, publisher, shows_sender, data));
            let LogEntry { publication: message, previous_time } =
                decode(&"r".into(), &bytes, &account, MemoryKind::Replays).unwrap();
            assert_eq!(
                (message.event.as_deref(), message.data(), previous_time),
                (event, data, 1760000000000)
            );
            assert_eq!((&*message.epoch, message.offset, message.time), ("k3f9", 7, 1760000000001));
            assert_eq!((message.publisher.as_deref(), message.shows_sender()), (publisher, shows_sender));
        }
        for bad in ["", "k 1 2 3 -", "k x 2 3 - 1", "k 1 2 3 9 ab", "k 1 2 3 1 é"] {
            assert!(decode(&"r".into(), bad.as_bytes(), &account, MemoryKind::Replays).is_none(), "{bad}");
        }
    }
}
