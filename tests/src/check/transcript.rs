//! What a client did and received, in the order in which it happened to the client.

use serde_json::Value;
use std::{fmt, time::Duration};

#[derive(Clone, Debug)]
pub struct Entry {
    /// The time since the run began.
    pub at: Duration,
    pub connection: u32,
    pub event: Event,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The client began to connect to this node.
    Opened(usize),
    Sent(Value),
    Received(Value),
    /// The connection was closed by the server, or broken by the network or a process.
    Closed(Option<u16>),
    /// The client broke the connection without a close frame.
    Cut,
    /// The client stops reading, or continues to read.
    StoppedReading,
    ResumedReading,
    /// An operator ended the connection and its session.
    Ended,
}

#[derive(Clone, Debug, Default)]
pub struct Transcript {
    pub client: String,
    pub principal: String,
    pub entries: Vec<Entry>,
}

/// How long a node takes to recover after a disturbance.
const RECOVERY_TIME: Duration = Duration::from_secs(3);

/// A period in which a node, or its connection to Redis, was disturbed.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The node; `None` for all nodes.
    pub node: Option<usize>,
    pub from: Duration,
    pub to: Duration,
}

impl Fault {
    pub fn overlaps(&self, node: usize, from: Duration, to: Duration) -> bool {
        self.node.is_none_or(|other| other == node) && self.from <= to && self.to + RECOVERY_TIME >= from
    }
}

impl Transcript {
    /// Formats the last `lines` entries about connections and about a room, up to a second after a time.
    pub fn format_excerpt(&self, room: Option<&str>, until: Duration, most: usize) -> String {
        let until = until + Duration::from_secs(1);
        let mut lines: Vec<String> = vec![];
        // Consecutive deliveries are one line.
        let mut run: Option<(u32, u64, u64)> = None;
        let mut is_ack = false;
        let close = |run: &mut Option<(u32, u64, u64)>, lines: &mut Vec<String>| {
            if let Some((connection, first, last)) = run.take() {
                lines.push(format!("          connection {connection} <- messages from {first} to {last}"));
            }
        };
        for entry in self.entries.iter().filter(|entry| entry.at <= until) {
            let frame = match &entry.event {
                Event::Sent(frame) | Event::Received(frame) => Some(frame),
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
            // Only the last of consecutive acknowledgements matters.
            let was_ack = std::mem::replace(&mut is_ack, kind == "ack");
            if was_ack && is_ack {
                lines.pop();
            }
            lines.push(entry.format_line(room));
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
    /// Whether the client ever requested a room.
    pub fn mentions(&self, room: &str) -> bool {
        let asks = |frame: &Value| {
            frame["type"] == "subscribe" && frame.to_string().contains(&format!("\"{room}\""))
        };
        self.entries.iter().any(|entry| matches!(&entry.event, Event::Sent(frame) if asks(frame)))
    }
}

impl Entry {
    /// Formats an entry as one line. Of a list of rooms, only the given one is shown.
    fn format_line(&self, room: Option<&str>) -> String {
        let mut entry = self.clone();
        if let (Event::Sent(frame) | Event::Received(frame), Some(room)) = (&mut entry.event, room) {
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
        match &self.event {
            Event::Opened(node) => write!(f, "opened to node {node}"),
            Event::Sent(frame) => write!(f, "-> {frame}"),
            Event::Received(frame) => write!(f, "<- {frame}"),
            Event::Closed(Some(code)) => write!(f, "!! close {code}"),
            Event::Closed(None) => f.write_str("!! broken"),
            Event::Cut => f.write_str("!! cut"),
            Event::StoppedReading => f.write_str("!! stops reading"),
            Event::ResumedReading => f.write_str("!! reads again"),
            Event::Ended => f.write_str("!! an operator ends it"),
        }
    }
}
