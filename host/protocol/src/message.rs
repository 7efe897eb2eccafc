//! A published message: encoded once, when its offset is known, and shared from then on.

use super::Frame;
use std::sync::Arc;

const DELIVERY: &str = r#"{"type":"message","#;

/// What was published to a room at an offset. `data` and the whole frame are one allocation.
#[derive(Debug, Clone)]
pub struct Publication {
    pub room: Arc<str>,
    pub epoch: Arc<str>,
    /// Rises by one a message, from 1.
    pub offset: u64,
    /// Unix milliseconds.
    pub time: u64,
    pub event: Option<Box<str>>,
    frame: Frame,
    /// Where `data` starts in the frame's text; it ends before the last byte.
    data: usize,
}

impl Publication {
    /// `data` is JSON text and reaches clients byte for byte.
    pub fn new(
        room: Arc<str>,
        epoch: Arc<str>,
        offset: u64,
        time: u64,
        event: Option<&str>,
        data: &str,
    ) -> Self {
        let capacity = DELIVERY.len() + room.len() + event.map_or(0, |e| e.len() + 12) + data.len() + 80;
        let mut start = 0;
        let frame = Frame::build(capacity, |text| {
            let header = text.len();
            text.push_str(DELIVERY);
            // A room's grammar needs no escaping.
            text.push_str(r#""room":""#);
            text.push_str(&room);
            text.push_str(r#"","offset":"#);
            push_integer(text, offset);
            if let Some(event) = event {
                text.push_str(r#","event":"#);
                text.push_str(&serde_json::to_string(event).expect("a string is JSON"));
            }
            text.push_str(r#","time":"#);
            push_integer(text, time);
            text.push_str(r#","data":"#);
            start = text.len() - header;
            text.push_str(data);
            text.push('}');
        });
        Self { room, epoch, offset, time, event: event.map(Into::into), frame, data: start }
    }

    /// What it takes in memory, about: beside its texts some 256 bytes, as measured.
    pub fn size(&self) -> usize {
        self.frame.len() + self.event.as_deref().map_or(0, str::len) + 256
    }

    /// The same publication, which keeps `guard` as long as anybody has it or its frame.
    pub fn with_guard(mut self, guard: impl Send + 'static) -> Self {
        self.frame = self.frame.with_guard(guard);
        self
    }

    /// The delivery, the same for every member of the room.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    pub fn data(&self) -> &str {
        let text = self.frame.text();
        &text[self.data..text.len() - 1]
    }

    /// As `history` shows it: the delivery without its `type`.
    pub fn push_entry(&self, to: &mut String) {
        to.push('{');
        to.push_str(&self.frame.text()[DELIVERY.len()..]);
    }
}

fn push_integer(to: &mut String, value: u64) {
    use std::fmt::Write;
    write!(to, "{value}").expect("writing to a String");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_stays_as_it_was_written() {
        let data = "{\"b\" : 1.10,\t\"a\":[ \"\\u00e9\",1e3] }";
        let message = Publication::new("a:b".into(), "e".into(), 7, 9, Some("say \"hi\""), data);
        assert_eq!(message.data(), data);
        let frame = r#"{"type":"message","room":"a:b","offset":7,"event":"say \"hi\"","time":9,"data":"#;
        assert_eq!(message.frame().text(), format!("{frame}{data}}}"));
        let mut entry = String::new();
        message.push_entry(&mut entry);
        assert!(entry.starts_with(r#"{"room":"a:b","offset":7"#), "{entry}");
    }

    #[test]
    fn a_message_without_an_event_has_no_such_field() {
        let message = Publication::new("r".into(), "e".into(), 1, 2, None, "null");
        assert_eq!(
            message.frame().text(),
            r#"{"type":"message","room":"r","offset":1,"time":2,"data":null}"#
        );
    }
}
