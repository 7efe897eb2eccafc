//! Prints messages on standard output, as a line for people or as JSON for programs.

use crate::output::{OutputError, print_line};
use std::{
    borrow::Cow,
    time::{Duration, UNIX_EPOCH},
};
use switchyard_protocol::client::Delivery;

/// The last second of the year 9999, in Unix time.
const END_OF_YEAR_9999: Duration = Duration::from_secs(253_402_300_799);

pub(super) struct MessagePrinter {
    json: bool,
    /// Number of messages so far.
    pub(super) printed: u64,
}

impl MessagePrinter {
    pub(super) fn new(json: bool) -> Self {
        Self { json, printed: 0 }
    }

    /// Prints a delivery; `text` is the frame it was parsed from.
    pub(super) fn print(&mut self, text: &str, delivery: &Delivery) -> Result<(), OutputError> {
        self.printed += 1;
        let line = if self.json { on_one_line(text) } else { format_line(delivery).into() };
        print_line!("{line}")
    }
}

fn format_line(delivery: &Delivery) -> String {
    // The format has no years after 9999. Only a broken server sends a later time.
    let at = Duration::from_millis(delivery.time).min(END_OF_YEAR_9999);
    let time = humantime::format_rfc3339_millis(UNIX_EPOCH + at);
    let (room, event) = (&delivery.room, delivery.event.as_deref().unwrap_or("-"));
    let from = delivery.from.as_ref().map_or(String::new(), |from| format!("  from {from}"));
    format!("{time}  {room}  {event}{from}  {}", on_one_line(delivery.data.get()))
}

/// Replaces line ends and tabs in JSON with spaces. They can only be between tokens, where they mean the same.
fn on_one_line(json: &str) -> Cow<'_, str> {
    match json.contains(['\n', '\r', '\t']) {
        true => json.replace(['\n', '\r', '\t'], " ").into(),
        false => json.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchyard_protocol::client::{ServerFrame, parse};

    fn delivery(text: &str) -> Delivery<'_> {
        match parse(text) {
            Ok((_, ServerFrame::Message(delivery))) => delivery,
            _ => panic!("not a delivery: {text}"),
        }
    }

    #[test]
    fn a_line_has_time_room_event_and_data() {
        let text = "{\"type\":\"message\",\"room\":\"a:b\",\"offset\":3,\"event\":\"e\\u001b[2J\",\
                    \"time\":1760000000123,\"data\":{\"x\" :\n\t1.10}}";
        let shown = switchyard_process::escape::Escaped(format_line(&delivery(text))).to_string();
        assert_eq!(shown, "2025-10-09T08:53:20.123Z  a:b  e\\u001b[2J  {\"x\" :  1.10}");
        assert!(!on_one_line(text).contains('\n') && on_one_line(text).contains("1.10"));
    }

    #[test]
    fn a_sender_is_shown_where_the_server_names_it() {
        let text = r#"{"type":"message","room":"a","offset":3,"event":"e","from":"acme","time":0,"data":1}"#;
        assert_eq!(format_line(&delivery(text)), "1970-01-01T00:00:00.000Z  a  e  from acme  1");
    }

    #[test]
    fn a_missing_event_is_shown_as_a_dash() {
        let text =
            format!(r#"{{"type":"message","room":"a","offset":3,"time":{},"data":null}}"#, u64::MAX / 2);
        assert!(format_line(&delivery(&text)).ends_with("  a  -  null"));
    }
}
