//! Counts what became of each message, and reports it.

use super::feed::InvalidLine;
use crate::{
    count::{counted, grouped},
    output::{note, print_line},
};
use serde_json::{Value, json};
use std::{collections::HashSet, time::Duration};
use switchyard_protocol::{client::ServerError, reply::Published};

/// Only this many failures are printed. A feed without the scope to publish would print as many as it has
/// lines.
const MAX_PRINTED_FAILURES: u64 = 10;

/// Counts of published and failed messages.
#[derive(Default)]
pub(super) struct Tally {
    json: bool,
    pub(super) published: u64,
    duplicates: u64,
    pub(super) refused: u64,
    invalid_lines: u64,
    rooms: HashSet<String>,
    first_failure: Option<String>,
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
            let suffix = if *duplicate { ", by an earlier request with this key" } else { "" };
            print_line!("published to {room} at offset {offset}{suffix}")?;
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
        self.report_failure(line.map(|line| format!("line {line}: {text}")), text, answer)
    }

    pub(super) fn invalid_line(&mut self, invalid: InvalidLine) -> anyhow::Result<()> {
        self.invalid_lines += 1;
        let text = invalid.to_string();
        let InvalidLine { line, column, reason } = invalid;
        let mut answer = json!({"line": line, "error": {"code": "invalid_line", "message": reason}});
        if let Some(column) = column {
            answer["column"] = column.into();
        }
        self.report_failure(Some(text), reason, answer)
    }

    /// `located` is the text with the line that it is about, if the message is from a feed.
    fn report_failure(
        &mut self,
        located: Option<String>,
        text: String,
        mut answer: Value,
    ) -> anyhow::Result<()> {
        if self.json {
            if located.is_none() {
                answer.as_object_mut().expect("it is an object").remove("line");
            }
            print_line!("{answer}")?;
        } else if let Some(located) = located {
            match self.failed() {
                failed if failed < MAX_PRINTED_FAILURES => note(located),
                MAX_PRINTED_FAILURES => {
                    note(format_args!("{located} (further failures are only counted)"));
                }
                _ => {}
            }
        }
        self.first_failure.get_or_insert(text);
        Ok(())
    }

    pub(super) fn failed(&self) -> u64 {
        self.refused + self.invalid_lines
    }

    pub(super) fn all(&self) -> u64 {
        self.published + self.failed()
    }

    /// Why the first message failed.
    pub(super) fn first_failure(&self) -> Option<&str> {
        self.first_failure.as_deref()
    }

    pub(super) fn summary(&self, took: Duration, unanswered: usize) -> String {
        let messages = counted(self.published, "message");
        let rooms = counted(self.rooms.len() as u64, "room");
        let mut text = format!("published {messages} to {rooms} in {:.1} s", took.as_secs_f64());
        for (count, what) in [
            (self.refused, "refused"),
            (self.invalid_lines, if self.invalid_lines == 1 { "invalid line" } else { "invalid lines" }),
            (self.duplicates, "published before"),
            (unanswered as u64, "unanswered"),
        ] {
            if count > 0 {
                text += &format!(", {} {what}", grouped(count));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_leaves_out_zero_counts() {
        let mut tally = Tally { published: 1234, rooms: HashSet::from(["a".into()]), ..Tally::default() };
        let took = Duration::from_millis(1500);
        assert_eq!(tally.summary(took, 0), "published 1,234 messages to 1 room in 1.5 s");
        tally.invalid_lines = 1;
        assert!(tally.summary(took, 0).ends_with(" in 1.5 s, 1 invalid line"));
        tally.invalid_lines = 2;
        assert!(tally.summary(took, 3).ends_with(", 2 invalid lines, 3 unanswered"));
        assert_eq!((tally.failed(), tally.all()), (2, 1236));
    }
}
