//! A published message, encoded once, when its offset is known, and shared from then on. Knows no subscriber.

use super::Frame;
use std::sync::Arc;

/// How a delivery begins. `history` entries are deliveries without it.
const DELIVERY_START: &str = r#"{"type":"message","#;

/// A message that a room has stored at an offset, with the frame that delivers it:
/// `{"type":"message","room":"prices","offset":42,"event":"price","time":1760000000123,"data":{"usd":3150}}`.
///
/// The frame is the same for every subscriber. It holds the only copy of `data`, in one allocation, which
/// clones share.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The name of the room.
    pub room: Arc<str>,
    /// The epoch that the offset belongs to. The delivery does not repeat it.
    pub epoch: Arc<str>,
    /// Starts at 1 and rises by one with each message of the epoch.
    pub offset: u64,
    /// When the message was stored, in Unix milliseconds.
    pub time: u64,
    /// The kind of message, if the publisher named one.
    pub event: Option<Box<str>>,
    /// The principal that published it. Set in rooms with a plugin, and if the frame names it.
    pub publisher: Option<Arc<str>>,
    shows_sender: bool,
    frame: Frame,
    /// Where `data` starts in the text of the frame. It ends before the last byte.
    data_start: usize,
}

impl Publication {
    /// Encodes a message. `data` must be JSON text, which reaches subscribers byte for byte, and `room` a
    /// valid name.
    pub fn new(
        room: Arc<str>,
        epoch: Arc<str>,
        offset: u64,
        time: u64,
        event: Option<&str>,
        data: &str,
    ) -> Self {
        Self::encode(room, epoch, offset, time, event, data, None)
    }

    /// The same for a message whose deliveries name the principal that published it:
    /// `{"type":"message","room":"prices","offset":42,"event":"price","from":"acme",…}`.
    pub fn from_sender(
        room: Arc<str>,
        epoch: Arc<str>,
        offset: u64,
        time: u64,
        event: Option<&str>,
        data: &str,
        sender: Arc<str>,
    ) -> Self {
        Self::encode(room, epoch, offset, time, event, data, Some(sender))
    }

    /// The same message, whose frame does not name its sender. The frame is encoded anew, and keeps no guard.
    pub fn without_sender(&self) -> Self {
        let (room, epoch, event) = (self.room.clone(), self.epoch.clone(), self.event.as_deref());
        Self::encode(room, epoch, self.offset, self.time, event, self.data(), None)
            .with_publisher(self.publisher.clone())
    }

    fn encode(
        room: Arc<str>,
        epoch: Arc<str>,
        offset: u64,
        time: u64,
        event: Option<&str>,
        data: &str,
        sender: Option<Arc<str>>,
    ) -> Self {
        let capacity = DELIVERY_START.len()
            + room.len()
            + event.map_or(0, |e| e.len() + 12)
            + sender.as_ref().map_or(0, |sender| sender.len() + 10)
            + data.len()
            + 80;
        let mut data_start = 0;
        let frame = Frame::build(capacity, |text| {
            let header = text.len();
            text.push_str(DELIVERY_START);
            // Room names contain nothing that JSON escapes.
            text.push_str(r#""room":""#);
            text.push_str(&room);
            text.push_str(r#"","offset":"#);
            push_integer(text, offset);
            if let Some(event) = event {
                text.push_str(r#","event":"#);
                text.push_str(&serde_json::to_string(event).expect("every string has a JSON form"));
            }
            if let Some(sender) = &sender {
                text.push_str(r#","from":"#);
                text.push_str(&serde_json::to_string(sender).expect("every string has a JSON form"));
            }
            text.push_str(r#","time":"#);
            push_integer(text, time);
            text.push_str(r#","data":"#);
            data_start = text.len() - header;
            text.push_str(data);
            text.push('}');
        });
        let (event, shows_sender) = (event.map(Into::into), sender.is_some());
        Self { room, epoch, offset, time, event, publisher: sender, shows_sender, frame, data_start }
    }

    /// Whether its frame names the publisher.
    pub fn shows_sender(&self) -> bool {
        self.shows_sender
    }

    /// The same message, with its publisher, whom its frame does not name.
    pub fn with_publisher(self, publisher: Option<Arc<str>>) -> Self {
        Self { publisher, ..self }
    }

    /// About how many bytes of memory the message takes: its texts, and 256 bytes for everything else, as
    /// measured.
    pub fn size(&self) -> usize {
        self.frame.len() + self.event.as_deref().map_or(0, str::len) + 256
    }

    /// The same message, which keeps `guard` until its last clone, and the last clone of its frame, is dropped.
    pub fn with_guard(mut self, guard: impl Send + 'static) -> Self {
        self.frame = self.frame.with_guard(guard);
        self
    }

    /// The frame that delivers the message to any member of the room.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The JSON text of `data`, as it was published or as a plugin replaced it.
    pub fn data(&self) -> &str {
        let text = self.frame.text();
        &text[self.data_start..text.len() - 1]
    }

    /// Appends the message as an entry of `history`: the delivery without its `type`.
    pub fn push_history_entry(&self, to: &mut String) {
        to.push('{');
        to.push_str(&self.frame.text()[DELIVERY_START.len()..]);
    }
}

fn push_integer(to: &mut String, value: u64) {
    use std::fmt::Write;
    write!(to, "{value}").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_delivered_byte_for_byte() {
        let data = "{\"b\" : 1.10,\t\"a\":[ \"\\u00e9\",1e3] }";
        let message = Publication::new("a:b".into(), "e".into(), 7, 9, Some("say \"hi\""), data);
        assert_eq!(message.data(), data);
        let frame = r#"{"type":"message","room":"a:b","offset":7,"event":"say \"hi\"","time":9,"data":"#;
        assert_eq!(message.frame().text(), format!("{frame}{data}}}"));
        let mut entry = String::new();
        message.push_history_entry(&mut entry);
        assert!(entry.starts_with(r#"{"room":"a:b","offset":7"#), "{entry}");
    }

    #[test]
    fn a_frame_names_the_sender_if_it_is_to() {
        let (room, epoch) = (|| "r".into(), || "e".into());
        let named = Publication::from_sender(room(), epoch(), 1, 2, Some("x"), "[1]", "acme".into());
        let frame =
            r#"{"type":"message","room":"r","offset":1,"event":"x","from":"acme","time":2,"data":[1]}"#;
        assert_eq!((named.frame().text(), named.data()), (frame, "[1]"));
        assert_eq!((named.shows_sender(), named.publisher.as_deref()), (true, Some("acme")));
        let unnamed = named.without_sender();
        let same = Publication::new(room(), epoch(), 1, 2, Some("x"), "[1]");
        assert_eq!(unnamed.frame(), same.frame());
        assert_eq!((unnamed.shows_sender(), unnamed.publisher.as_deref()), (false, Some("acme")));
    }

    #[test]
    fn a_message_without_an_event_has_no_event_field() {
        let message = Publication::new("r".into(), "e".into(), 1, 2, None, "null");
        assert_eq!(
            message.frame().text(),
            r#"{"type":"message","room":"r","offset":1,"time":2,"data":null}"#
        );
    }
}
