//! The messages that were sent and not answered yet.

use super::feed::FeedMessage;
use std::collections::VecDeque;
use switchyard_protocol::{client::ClientRequest, request::Publish};

/// Maximum number of messages in flight. One at a time would be slow, and more would only fill buffers.
pub(super) const MAX_UNANSWERED: usize = 64;

pub(super) struct UnansweredMessage {
    id: u64,
    pub line: Option<u64>,
    pub room: String,
    frame: String,
}

pub(super) struct Window {
    /// In the order in which they were sent.
    unanswered: VecDeque<UnansweredMessage>,
    last_id: u64,
    /// A random prefix of this run's idempotency keys.
    run: String,
    /// The idempotency key that the user gave for a single message.
    key: Option<String>,
}

impl Window {
    pub(super) fn new(key: Option<String>) -> Self {
        let run = format!("{:016x}", getrandom::u64().expect("the system has entropy"));
        Self { unanswered: VecDeque::new(), last_id: 0, run, key }
    }

    pub(super) fn has_room(&self) -> bool {
        self.unanswered.len() < MAX_UNANSWERED
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unanswered.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.unanswered.len()
    }

    /// Adds a message and returns the frame that publishes it.
    pub(super) fn push(&mut self, message: &FeedMessage) -> String {
        self.last_id += 1;
        let id = self.last_id;
        let key = self.key.clone().unwrap_or_else(|| format!("{}-{id}", self.run));
        let FeedMessage { line, room, event, data, .. } = message;
        let event = event.as_deref().map(Into::into);
        let publish = Publish { room: room.into(), event, data, key: Some(key.into()) };
        let frame = ClientRequest::Publish(publish).encode(Some(id.into()));
        self.unanswered.push_back(UnansweredMessage {
            id,
            line: *line,
            room: room.clone(),
            frame: frame.clone(),
        });
        frame
    }

    /// Removes the message with this id, which was answered.
    pub(super) fn take(&mut self, id: u64) -> Option<UnansweredMessage> {
        let index = self.unanswered.iter().position(|message| message.id == id)?;
        self.unanswered.remove(index)
    }

    /// The frames of all unanswered messages, to be sent again.
    pub(super) fn frames(&self) -> impl Iterator<Item = String> {
        self.unanswered.iter().map(|message| message.frame.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(line: u64) -> FeedMessage {
        let data = serde_json::from_str("1").unwrap();
        FeedMessage { line: Some(line), time: None, room: "r".into(), event: None, data }
    }

    #[test]
    fn unanswered_messages_are_sent_again_in_order_with_the_same_keys() {
        let mut window = Window::new(None);
        let frames: Vec<_> = (1..=3).map(|line| window.push(&message(line))).collect();
        assert_eq!(window.take(2).unwrap().line, Some(2));
        assert!(window.take(2).is_none(), "each message is answered once");
        assert_eq!(window.frames().collect::<Vec<_>>(), [frames[0].clone(), frames[2].clone()]);
        assert_ne!(Window::new(None).push(&message(1)), frames[0], "another run has other keys");
    }

    #[test]
    fn the_window_is_limited() {
        let mut window = Window::new(Some("mine".into()));
        let first = window.push(&message(1));
        assert!(first.contains(r#""key":"mine""#));
        (1..MAX_UNANSWERED).for_each(|_| drop(window.push(&message(1))));
        assert!(!window.has_room());
        window.take(1).unwrap();
        assert!(window.has_room());
    }
}
