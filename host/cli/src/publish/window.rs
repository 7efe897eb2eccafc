//! What was sent and not answered yet, and what became of the rest.

use super::{feed::Outgoing, progress::grouped};
use crate::{client::note, output::print_line};
use serde_json::json;
use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};
use switchyard_protocol::{
    client::{ClientRequest, ServerError},
    reply::Published,
    request::Publish,
};

/// Messages on their way. One round trip each would be slow, and more only fills buffers.
pub(super) const MOST: usize = 64;
/// Refusals that are shown; a feed without the scope to publish would show as many as it has lines.
const SHOWN: u64 = 10;

pub(super) struct Sent {
    id: u64,
    pub line: Option<u64>,
    pub room: String,
    frame: String,
}

pub(super) struct Window {
    /// In the order in which they were sent.
    sent: VecDeque<Sent>,
    last: u64,
    /// Makes the keys of this run unlike any other's.
    run: String,
    /// The key that was asked for, of a single message.
    key: Option<String>,
}

impl Window {
    pub(super) fn new(key: Option<String>) -> Self {
        let run = format!("{:016x}", getrandom::u64().expect("the system has entropy"));
        Self { sent: VecDeque::new(), last: 0, run, key }
    }

    pub(super) fn has_room(&self) -> bool {
        self.sent.len() < MOST
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.sent.len()
    }

    /// The frame that publishes the message.
    pub(super) fn push(&mut self, message: &Outgoing) -> String {
        self.last += 1;
        let id = self.last;
        let key = self.key.clone().unwrap_or_else(|| format!("{}-{id}", self.run));
        let Outgoing { line, room, event, data, .. } = message;
        let event = event.as_deref().map(Into::into);
        let publish = Publish { room: room.into(), event, data, key: Some(key.into()) };
        let frame = ClientRequest::Publish(publish).encode(Some(id.into()));
        self.sent.push_back(Sent { id, line: *line, room: room.clone(), frame: frame.clone() });
        frame
    }

    pub(super) fn answered(&mut self, id: u64) -> Option<Sent> {
        let at = self.sent.iter().position(|sent| sent.id == id)?;
        self.sent.remove(at)
    }

    /// Everything unanswered, to be sent again.
    pub(super) fn frames(&self) -> impl Iterator<Item = String> {
        self.sent.iter().map(|sent| sent.frame.clone())
    }
}

/// Counts, and what is said of each message.
#[derive(Default)]
pub(super) struct Tally {
    json: bool,
    pub published: u64,
    duplicates: u64,
    pub refused: u64,
    wrong: u64,
    rooms: HashSet<String>,
    first: Option<String>,
}

impl Tally {
    pub(super) fn new(json: bool) -> Self {
        Self { json, ..Self::default() }
    }

    pub(super) fn published(&mut self, line: Option<u64>, published: &Published) -> anyhow::Result<()> {
        self.published += 1;
        let Published { room, epoch, offset, duplicate, .. } = published;
        self.duplicates += u64::from(*duplicate);
        if !self.rooms.contains(&**room) {
            self.rooms.insert(room.to_string());
        }
        if self.json {
            let mut answer = json!({"room": room, "epoch": epoch, "offset": offset});
            if let Some(line) = line {
                answer["line"] = line.into();
            }
            if *duplicate {
                answer["duplicate"] = true.into();
            }
            return Ok(print_line!("{answer}")?);
        }
        if line.is_none() {
            let again = if *duplicate { ", where it was before" } else { "" };
            print_line!("published to {room} at offset {offset}{again}")?;
        }
        Ok(())
    }

    pub(super) fn refused(
        &mut self,
        line: Option<u64>,
        room: &str,
        refusal: &ServerError,
    ) -> anyhow::Result<()> {
        self.refused += 1;
        let answer = json!({"line": line, "room": room, "error": refusal});
        let text = match line {
            Some(_) => format!("{room}: {refusal}"),
            None => refusal.to_string(),
        };
        self.tell(line, text, answer)
    }

    pub(super) fn wrong(&mut self, line: u64, why: String) -> anyhow::Result<()> {
        self.wrong += 1;
        let answer = json!({"line": line, "error": {"code": "invalid_line", "message": why}});
        self.tell(Some(line), why, answer)
    }

    fn tell(&mut self, line: Option<u64>, text: String, mut answer: serde_json::Value) -> anyhow::Result<()> {
        if self.json {
            if line.is_none() {
                answer.as_object_mut().expect("an object").remove("line");
            }
            print_line!("{answer}")?;
        } else if let Some(line) = line {
            match self.failed() {
                failed if failed < SHOWN => note(format_args!("line {line}: {text}")),
                SHOWN => note(format_args!("line {line}: {text} (more are only counted)")),
                _ => {}
            }
        }
        self.first.get_or_insert(text);
        Ok(())
    }

    pub(super) fn failed(&self) -> u64 {
        self.refused + self.wrong
    }

    pub(super) fn all(&self) -> u64 {
        self.published + self.failed()
    }

    /// What was said of the first that failed.
    pub(super) fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }

    pub(super) fn summary(&self, took: Duration, unanswered: usize) -> String {
        let (messages, rooms) =
            (counted(self.published, "message"), counted(self.rooms.len() as u64, "room"));
        let mut text = format!("published {messages} to {rooms} in {:.1} s", took.as_secs_f64());
        for (count, what) in [
            (self.refused, "refused"),
            (self.wrong, "wrong lines"),
            (self.duplicates, "were there before"),
            (unanswered as u64, "without an answer"),
        ] {
            if count > 0 {
                text += &format!(", {} {what}", grouped(count));
            }
        }
        text
    }
}

fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(line: u64) -> Outgoing {
        let data = serde_json::from_str("1").unwrap();
        Outgoing { line: Some(line), time: None, room: "r".into(), event: None, data }
    }

    #[test]
    fn what_is_unanswered_is_sent_again_in_order_and_with_the_same_keys() {
        let mut window = Window::new(None);
        let frames: Vec<_> = (1..=3).map(|line| window.push(&outgoing(line))).collect();
        assert_eq!(window.answered(2).unwrap().line, Some(2));
        assert!(window.answered(2).is_none(), "one answer each");
        assert_eq!(window.frames().collect::<Vec<_>>(), [frames[0].clone(), frames[2].clone()]);
        assert_ne!(Window::new(None).push(&outgoing(1)), frames[0], "another run has other keys");
    }

    #[test]
    fn the_window_is_bounded() {
        let mut window = Window::new(Some("mine".into()));
        let first = window.push(&outgoing(1));
        assert!(first.contains(r#""key":"mine""#));
        (1..MOST).for_each(|_| drop(window.push(&outgoing(1))));
        assert!(!window.has_room());
        window.answered(1).unwrap();
        assert!(window.has_room());
    }

    #[test]
    fn a_summary_counts_what_is_worth_a_word() {
        let mut tally = Tally { published: 1234, rooms: HashSet::from(["a".into()]), ..Tally::default() };
        let took = Duration::from_millis(1500);
        assert_eq!(tally.summary(took, 0), "published 1,234 messages to 1 room in 1.5 s");
        tally.wrong = 2;
        assert!(tally.summary(took, 3).ends_with(", 2 wrong lines, 3 without an answer"));
        assert_eq!((tally.failed(), tally.all()), (2, 1236));
    }
}
