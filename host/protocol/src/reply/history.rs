//! The answer to `history`, which repeats stored messages without parsing them. Reads no store.

use crate::{Id, Publication};
use std::sync::Arc;

/// A page of the history of a room, oldest message first: the body of `history`, and of the answer to the
/// same request over HTTP.
pub struct HistoryReply {
    /// The name of the room.
    pub room: Arc<str>,
    /// The epoch of the offsets.
    pub epoch: Arc<str>,
    /// The messages that the client may see.
    pub messages: Vec<Arc<Publication>>,
    /// Whether more messages are stored after the last of these.
    pub more: bool,
    /// Whether everything since the requested position is still stored; `None` if none was requested.
    pub recovered: Option<bool>,
}

impl HistoryReply {
    /// The text of the frame.
    pub fn encode(&self, id: Option<Id>) -> String {
        let id = id.map_or(String::new(), |id| format!(r#","id":{}"#, id.get()));
        format!(r#"{{"type":"history"{id},{}"#, &self.body()[1..])
    }

    /// The object without `type` and `id`, for HTTP.
    pub fn body(&self) -> String {
        let mut text = format!(r#"{{"room":"{}","epoch":"{}","messages":["#, self.room, self.epoch);
        for (n, message) in self.messages.iter().enumerate() {
            if n > 0 {
                text.push(',');
            }
            message.push_history_entry(&mut text);
        }
        text.push_str(&format!(r#"],"more":{}"#, self.more));
        if self.recovered == Some(false) {
            text.push_str(r#","recovered":false"#);
        }
        text.push('}');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_entries_are_deliveries_without_a_type() {
        let messages = vec![Arc::new(Publication::new("p".into(), "e".into(), 4, 5, Some("x"), "[ 1]"))];
        let (room, epoch) = ("p".into(), "e".into());
        let history = HistoryReply { room, epoch, messages, more: false, recovered: Some(false) };
        let entry = r#"{"room":"p","offset":4,"event":"x","time":5,"data":[ 1]}"#;
        let frame = format!(
            r#"{{"type":"history","room":"p","epoch":"e","messages":[{entry}],"more":false,"recovered":false}}"#
        );
        assert_eq!(history.encode(None), frame);
    }
}
