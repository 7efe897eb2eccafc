//! Deliveries as people or programs read them, on standard output.

use crate::output::{OutputError, print_line};
use std::{
    borrow::Cow,
    time::{Duration, UNIX_EPOCH},
};
use switchyard_protocol::client::Delivery;

pub(super) struct Screen {
    json: bool,
    pub shown: u64,
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        Self { json, shown: 0 }
    }

    /// `text` is the whole delivery.
    pub(super) fn show(&mut self, text: &str, delivery: &Delivery) -> Result<(), OutputError> {
        self.shown += 1;
        let line = if self.json { one_line(text) } else { line(delivery).into() };
        print_line!("{line}")
    }
}

fn line(delivery: &Delivery) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(delivery.time);
    // Outside the range that the format knows, which only a broken server sends.
    let time = humantime::format_rfc3339_millis(at.min(UNIX_EPOCH + Duration::from_secs(253_402_300_799)));
    let (room, event) = (&delivery.room, delivery.event.as_deref().unwrap_or("-"));
    format!("{time}  {room}  {event}  {}", one_line(delivery.data.get()))
}

/// JSON text may hold line ends and tabs, but only between its tokens, where a space is as good.
fn one_line(json: &str) -> Cow<'_, str> {
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
        let shown = switchyard_process::escape::Escaped(line(&delivery(text))).to_string();
        assert_eq!(shown, "2025-10-09T08:53:20.123Z  a:b  e\\u001b[2J  {\"x\" :  1.10}");
        assert!(!one_line(text).contains('\n') && one_line(text).contains("1.10"));
    }

    #[test]
    fn what_is_missing_does_not_shift_the_line() {
        let text =
            format!(r#"{{"type":"message","room":"a","offset":3,"time":{},"data":null}}"#, u64::MAX / 2);
        assert!(line(&delivery(&text)).ends_with("  a  -  null"));
    }
}
