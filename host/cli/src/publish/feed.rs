//! A recorded feed: its lines, and when each is due.

use anyhow::Context;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    str::FromStr,
    time::Duration,
};
use switchyard_process::file::without_bom;
use tokio::{sync::mpsc, time::Instant};

/// Bytes of a line. A server takes no such message, so this is no feed.
const LONGEST: u64 = 4 << 20;
/// Lines that are read ahead.
const AHEAD: usize = 256;

/// A message that is to be published.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Its number in the feed.
    pub line: Option<u64>,
    /// Unix milliseconds of the recording.
    pub time: Option<u64>,
    pub room: String,
    pub event: Option<String>,
    pub data: Box<RawValue>,
}

#[derive(Debug)]
pub(crate) enum Item {
    Message(Outgoing),
    /// A line's number, and what is wrong with it.
    Wrong(u64, String),
    /// The feed cannot be read on.
    Unreadable(String),
}

pub(crate) type Lines = mpsc::Receiver<Item>;

pub(crate) fn single(message: Outgoing) -> Lines {
    let (to, lines) = mpsc::channel(1);
    to.try_send(Item::Message(message)).expect("there is room for one");
    lines
}

/// The lines of a file, or of standard input for `-`, and how many bytes they are where that is known. `room` and
/// `event` are for lines that have none.
pub(crate) fn open(
    file: &Path,
    room: Option<String>,
    event: Option<String>,
    speed: Speed,
) -> anyhow::Result<(Lines, Option<u64>)> {
    let (reader, total): (Box<dyn Read + Send>, _) = match file.to_str() {
        Some("-") => (Box::new(io::stdin()), None),
        _ => {
            let opened = File::open(file).with_context(|| file.display().to_string())?;
            let total = count(file).with_context(|| file.display().to_string())?;
            (Box::new(opened), total)
        }
    };
    let (to, lines) = mpsc::channel(AHEAD);
    let name = file.display().to_string();
    // A thread of its own: standard input may block for ever, and the runtime waits for its blocking tasks.
    let read = move || {
        let mut reader = BufReader::new(reader);
        let mut number = 0;
        loop {
            let item = match line(&mut reader) {
                Ok(None) => return,
                Ok(Some(text)) => {
                    number += 1;
                    match parse(&text, number, room.as_deref(), event.as_deref(), speed) {
                        None => continue,
                        Some(Ok(message)) => Item::Message(message),
                        Some(Err(why)) => Item::Wrong(number, why),
                    }
                }
                Err(error) => Item::Unreadable(format!("{name}, after line {number}: {error}")),
            };
            let last = matches!(item, Item::Unreadable(_));
            if to.blocking_send(item).is_err() || last {
                return;
            }
        }
    };
    std::thread::Builder::new().spawn(read).context("no thread to read with")?;
    Ok((lines, total))
}

/// The lines of an ordinary file, for the progress.
fn count(file: &Path) -> io::Result<Option<u64>> {
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut reader = BufReader::new(File::open(file)?);
    let mut lines = 0;
    loop {
        let block = reader.fill_buf()?;
        if block.is_empty() {
            return Ok(Some(lines));
        }
        lines += block.iter().filter(|byte| **byte == b'\n').count() as u64;
        let read = block.len();
        reader.consume(read);
    }
}

fn line(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut text = vec![];
    reader.by_ref().take(LONGEST).read_until(b'\n', &mut text)?;
    match text.len() as u64 {
        0 => Ok(None),
        LONGEST => Err(io::Error::other(format!("a line has more than {LONGEST} bytes"))),
        _ => Ok(Some(text)),
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    time: Option<u64>,
    room: Option<String>,
    event: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

/// `null` is data, unlike a missing field.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// `None` for an empty line; the error says what would be right.
fn parse(
    text: &[u8],
    number: u64,
    room: Option<&str>,
    event: Option<&str>,
    speed: Speed,
) -> Option<Result<Outgoing, String>> {
    let text = if number == 1 { without_bom(text) } else { text };
    if text.trim_ascii().is_empty() {
        return None;
    }
    let right = r#"a line is {"time":ms,"room":"…","event":"…","data":…}"#;
    let line: Line = match serde_json::from_slice(text) {
        Ok(line) if text.trim_ascii_start().starts_with(b"{") => line,
        Ok(_) => return Some(Err(format!("it is no object; {right}"))),
        Err(error) => return Some(Err(format!("{error}; {right}"))),
    };
    let missing = |field: &str| Some(Err(format!("'{field}' is missing; {right}")));
    if line.time.is_none() && speed != Speed::Max {
        return missing("time");
    }
    let Some(room) = line.room.or(room.map(str::to_owned)) else { return missing("room") };
    let Some(data) = line.data.map(ToOwned::to_owned) else { return missing("data") };
    let event = line.event.or(event.map(str::to_owned));
    Some(Ok(Outgoing { line: Some(number), time: line.time, room, event, data }))
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Speed {
    Times(f64),
    Max,
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_suffix('x').unwrap_or(text).parse() {
            _ if text == "max" => Ok(Self::Max),
            Ok(times) if times > 0.0 && f64::is_finite(times) => Ok(Self::Times(times)),
            _ => Err("a speed is such as 10x, 0.5x or max".to_owned()),
        }
    }
}

/// Maps the times of a recording to now. What is late is due at once; what follows keeps its time.
pub(crate) struct Pace {
    speed: Speed,
    /// The first message: its time, and when it was due.
    start: Option<(u64, Instant)>,
}

impl Pace {
    pub(crate) fn new(speed: Speed) -> Self {
        Self { speed, start: None }
    }

    pub(crate) fn due(&mut self, time: Option<u64>, now: Instant) -> Instant {
        let (Speed::Times(times), Some(time)) = (self.speed, time) else { return now };
        let (first, start) = *self.start.get_or_insert((time, now));
        let seconds = time.saturating_sub(first) as f64 / 1000.0 / times;
        // A year and more is a mistake in the feed, but no reason to panic.
        start + Duration::from_secs_f64(seconds.min(365.0 * 86_400.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Result<Outgoing, String>> {
        parse(text.as_bytes(), 7, None, None, Speed::Times(1.0))
    }

    #[test]
    fn data_stays_as_it_is_in_the_line() {
        let text =
            "{\"time\":5,\"room\":\"a:b\",\"event\":\"e\",\"data\": {\"x\" : 1.10, \"y\":\"\\u00e9\"}}\r\n";
        let message = read(text).unwrap().unwrap();
        assert_eq!(message.data.get(), "{\"x\" : 1.10, \"y\":\"\\u00e9\"}");
        assert_eq!((message.line, message.time, &*message.room), (Some(7), Some(5), "a:b"));
        assert_eq!(read(r#"{"time":5,"room":"a","data":null}"#).unwrap().unwrap().data.get(), "null");
        assert!(read("  \n").is_none());
    }

    #[test]
    fn a_wrong_line_is_told_what_would_be_right() {
        for (text, part) in [
            ("{", "EOF"),
            ("[5,\"a\",\"e\",1]", "no object"),
            (r#"{"room":"a","data":1}"#, "'time' is missing"),
            (r#"{"time":1,"data":1}"#, "'room' is missing"),
            (r#"{"time":1,"room":"a"}"#, "'data' is missing"),
            (r#"{"time":"1","room":"a","data":1}"#, "expected u64"),
        ] {
            let why = read(text).unwrap().unwrap_err();
            assert!(why.contains(part) && why.contains(r#"a line is {"time":ms"#), "{text}: {why}");
        }
        let without_time = br#"{"data":1}"#;
        let message = parse(without_time, 1, Some("r"), Some("e"), Speed::Max).unwrap().unwrap();
        assert_eq!((&*message.room, message.event.as_deref()), ("r", Some("e")));
    }

    #[test]
    fn a_line_without_an_end_is_not_read_for_ever() {
        let mut endless = BufReader::new(io::repeat(b'x'));
        assert!(line(&mut endless).unwrap_err().to_string().contains("more than"));
        let mut two = BufReader::new(&b"a\nb"[..]);
        assert_eq!(line(&mut two).unwrap().unwrap(), b"a\n");
        assert_eq!(line(&mut two).unwrap().unwrap(), b"b");
        assert!(line(&mut two).unwrap().is_none());
    }

    #[test]
    fn speeds_are_read() {
        assert_eq!("10x".parse(), Ok(Speed::Times(10.0)));
        assert_eq!("0.5".parse(), Ok(Speed::Times(0.5)));
        assert_eq!("max".parse(), Ok(Speed::Max));
        for bad in ["0x", "-1x", "fast", "", "infx", "NaN"] {
            assert!(bad.parse::<Speed>().unwrap_err().contains("10x"), "{bad}");
        }
    }

    #[test]
    fn pace_is_the_recordings_divided_by_the_speed() {
        let now = Instant::now();
        let mut pace = Pace::new(Speed::Times(10.0));
        assert_eq!(pace.due(Some(1000), now), now);
        assert_eq!(pace.due(Some(3000), now), now + Duration::from_millis(200));
        assert_eq!(pace.due(Some(500), now), now, "what lies before the first is due at once");
        pace.due(Some(u64::MAX), now);
        assert_eq!(Pace::new(Speed::Max).due(Some(9), now), now);
    }
}
