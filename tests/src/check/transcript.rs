//! What one client did and was told, in the order in which it saw it.

use serde_json::Value;
use std::{fmt, time::Duration};

#[derive(Clone, Debug)]
pub struct Entry {
    /// Since the run began.
    pub at: Duration,
    pub connection: u32,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The client asked this node for a connection.
    Opened(usize),
    Sent(Value),
    Received(Value),
    /// By the server, or by a network or a process that broke.
    Closed(Option<u16>),
    /// By the client, without a word.
    Cut,
    /// The client stops reading, and reads again.
    Deaf,
    Hears,
    /// An operator ended the connection with its session.
    Ended,
}

#[derive(Clone, Debug, Default)]
pub struct Transcript {
    pub client: String,
    pub principal: String,
    pub entries: Vec<Entry>,
}

/// Until a node is itself again.
const RECOVERY: Duration = Duration::from_secs(3);

/// A time in which something stood in the way of a node and Redis.
#[derive(Clone, Debug)]
pub struct Fault {
    /// `None` for all of them.
    pub node: Option<usize>,
    pub from: Duration,
    pub to: Duration,
}

impl Fault {
    pub fn touches(&self, node: usize, from: Duration, to: Duration) -> bool {
        self.node.is_none_or(|other| other == node) && self.from <= to && self.to + RECOVERY >= from
    }
}

impl Transcript {
    /// How connections came and went and what concerns a room, up to a second after a moment: so many last lines.
    pub fn story(&self, room: Option<&str>, until: Duration, most: usize) -> String {
        let until = until + Duration::from_secs(1);
        let mut lines: Vec<String> = vec![];
        // Deliveries that follow each other are one line.
        let mut run: Option<(u32, u64, u64)> = None;
        let mut is_ack = false;
        let close = |run: &mut Option<(u32, u64, u64)>, lines: &mut Vec<String>| {
            if let Some((connection, first, last)) = run.take() {
                lines.push(format!("          connection {connection} <- messages from {first} to {last}"));
            }
        };
        for entry in self.entries.iter().filter(|entry| entry.at <= until) {
            let frame = match &entry.what {
                What::Sent(frame) | What::Received(frame) => Some(frame),
                _ => None,
            };
            let kind = frame.map_or("", |frame| frame["type"].as_str().unwrap_or(""));
            let concerns =
                |frame: &Value| room.is_none_or(|room| frame.to_string().contains(&format!("\"{room}\"")));
            match (kind, frame) {
                ("ping" | "pong", _) => continue,
                ("message", Some(frame)) => {
                    let offset = frame["offset"].as_u64().unwrap_or_default();
                    if room.is_none_or(|room| frame["room"] != room) {
                        continue;
                    }
                    match &mut run {
                        Some((connection, _, last)) if *connection == entry.connection => *last = offset,
                        _ => {
                            close(&mut run, &mut lines);
                            is_ack = false;
                            run = Some((entry.connection, offset, offset));
                        }
                    }
                    continue;
                }
                ("connect" | "connected" | "error" | "", _) => {}
                (_, Some(frame)) if !concerns(frame) => continue,
                _ => {}
            }
            close(&mut run, &mut lines);
            // Of acknowledgements that follow each other the last says all.
            let was_ack = std::mem::replace(&mut is_ack, kind == "ack");
            if was_ack && is_ack {
                lines.pop();
            }
            lines.push(entry.brief(room));
        }
        close(&mut run, &mut lines);
        let left_out = lines.len().saturating_sub(most);
        let mut text =
            if left_out > 0 { format!("    … {left_out} lines before\n") } else { String::new() };
        lines[left_out..].iter().for_each(|line| text += &format!("    {line}\n"));
        text
    }
}

impl Transcript {
    /// Whether the client ever asked for a room.
    pub fn mentions(&self, room: &str) -> bool {
        let asks = |frame: &Value| {
            frame["type"] == "subscribe" && frame.to_string().contains(&format!("\"{room}\""))
        };
        self.entries.iter().any(|entry| matches!(&entry.what, What::Sent(frame) if asks(frame)))
    }
}

impl Entry {
    /// One line; of a list of rooms only the one that is asked about.
    fn brief(&self, room: Option<&str>) -> String {
        let mut entry = self.clone();
        if let (What::Sent(frame) | What::Received(frame), Some(room)) = (&mut entry.what, room) {
            for list in ["rooms", "results"] {
                if let Some(list) = frame[list].as_array_mut() {
                    list.retain(|one| one == room || one["room"] == room);
                }
            }
            if let Some(offsets) = frame["offsets"].as_object_mut() {
                offsets.retain(|name, _| name == room);
            }
            if let Some(frame) = frame.as_object_mut() {
                ["heartbeat", "limits", "principal", "auth"]
                    .iter()
                    .for_each(|name| drop(frame.remove(*name)));
                frame.retain(|_, value| !value.is_null());
            }
        }
        entry.to_string()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:9.3} connection {} ", self.at.as_secs_f64(), self.connection)?;
        match &self.what {
            What::Opened(node) => write!(f, "opened to node {node}"),
            What::Sent(frame) => write!(f, "-> {frame}"),
            What::Received(frame) => write!(f, "<- {frame}"),
            What::Closed(Some(code)) => write!(f, "!! close {code}"),
            What::Closed(None) => f.write_str("!! broken"),
            What::Cut => f.write_str("!! cut"),
            What::Deaf => f.write_str("!! stops reading"),
            What::Hears => f.write_str("!! reads again"),
            What::Ended => f.write_str("!! an operator ends it"),
        }
    }
}
