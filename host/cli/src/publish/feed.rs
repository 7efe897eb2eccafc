//! A recorded feed: reads the lines of a file or of standard input and parses them into messages.

use super::pace::Speed;
use anyhow::Context;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};
use switchyard_process::file::without_bom;
use tokio::sync::mpsc;

/// Maximum length of a line. No server accepts a message of this size, so the file is not a feed.
const MAX_LINE_BYTES: u64 = 4 << 20;
/// Maximum number of lines that are read ahead.
const MAX_LINES_AHEAD: usize = 256;

/// A message to publish.
#[derive(Debug)]
pub(crate) struct FeedMessage {
    /// The number of its line in the feed, from 1. `None` for a message from the command line.
    pub line: Option<u64>,
    /// When it was recorded, in Unix milliseconds.
    pub time: Option<u64>,
    pub room: String,
    pub event: Option<String>,
    pub data: Box<RawValue>,
}

#[derive(Debug)]
pub(crate) enum FeedItem {
    Message(FeedMessage),
    InvalidLine(InvalidLine),
    /// The rest of the feed cannot be read.
    Unreadable(String),
}

/// A line that is not a message.
#[derive(Debug)]
pub(crate) struct InvalidLine {
    /// Its number, from 1.
    pub line: u64,
    /// Where in the line it stops being valid JSON, in bytes from 1. `None` if another thing is wrong.
    pub column: Option<usize>,
    /// What is wrong, and what a valid line looks like.
    pub reason: String,
}

impl fmt::Display for InvalidLine {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

pub(crate) type FeedReceiver = mpsc::Receiver<FeedItem>;

/// A feed of one message.
pub(crate) fn single(message: FeedMessage) -> FeedReceiver {
    let (sender, feed) = mpsc::channel(1);
    sender.try_send(FeedItem::Message(message)).expect("the channel is empty");
    feed
}

/// Opens a file, or standard input for `-`. Also returns the number of lines, if it is a regular file. `room`
/// and `event` are for lines that have none.
pub(crate) fn open(
    file: &Path,
    room: Option<String>,
    event: Option<String>,
    speed: Speed,
) -> anyhow::Result<(FeedReceiver, Option<u64>)> {
    let (reader, total): (Box<dyn Read + Send>, _) = match file.to_str() {
        Some("-") => (Box::new(io::stdin()), None),
        _ => {
            let opened = File::open(file).with_context(|| format!("--from {}", file.display()))?;
            let total = count_lines(file).with_context(|| format!("--from {}", file.display()))?;
            (Box::new(opened), total)
        }
    };
    let (sender, feed) = mpsc::channel(MAX_LINES_AHEAD);
    let name = file.display().to_string();
    // On its own thread, because standard input may block forever, and the runtime has few threads for
    // blocking calls.
    let read = move || {
        let mut reader = BufReader::new(reader);
        let mut number = 0;
        loop {
            let item = match read_line(&mut reader) {
                Ok(None) => return,
                Ok(Some(text)) => {
                    number += 1;
                    match parse(&text, number, room.as_deref(), event.as_deref(), speed) {
                        None => continue,
                        Some(Ok(message)) => FeedItem::Message(message),
                        Some(Err(invalid)) => FeedItem::InvalidLine(invalid),
                    }
                }
                Err(error) => FeedItem::Unreadable(format!("--from {name}: after line {number}: {error}")),
            };
            let last = matches!(item, FeedItem::Unreadable(_));
            if sender.blocking_send(item).is_err() || last {
                return;
            }
        }
    };
    std::thread::Builder::new().spawn(read).context("cannot start a thread to read the feed")?;
    Ok((feed, total))
}

/// Counts the lines of a regular file, for the progress line.
fn count_lines(file: &Path) -> io::Result<Option<u64>> {
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

fn read_line(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut text = vec![];
    reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text)?;
    match text.len() as u64 {
        0 => Ok(None),
        MAX_LINE_BYTES => Err(io::Error::other(format!("a line has {MAX_LINE_BYTES} bytes or more"))),
        _ => Ok(Some(text)),
    }
}

#[derive(Deserialize)]
struct FeedLine<'a> {
    time: Option<u64>,
    room: Option<String>,
    event: Option<String>,
    #[serde(borrow, default, deserialize_with = "deserialize_present")]
    data: Option<&'a RawValue>,
}

/// Distinguishes `null`, which is valid data, from a missing field.
fn deserialize_present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Returns `None` for an empty line.
fn parse(
    text: &[u8],
    number: u64,
    room: Option<&str>,
    event: Option<&str>,
    speed: Speed,
) -> Option<Result<FeedMessage, InvalidLine>> {
    // The line end is not part of the text, so that no error is about the line after it.
    let text = if number == 1 { without_bom(text) } else { text }.trim_ascii_end();
    if text.is_empty() {
        return None;
    }
    let expected = r#"expected {"time":ms,"room":"…","event":"…","data":…}"#;
    let invalid = |column: Option<usize>, problem: &str| {
        Some(Err(InvalidLine { line: number, column, reason: format!("{problem}; {expected}") }))
    };
    let line: FeedLine = match serde_json::from_slice(text) {
        Ok(line) if text.trim_ascii_start().starts_with(b"{") => line,
        Ok(_) => return invalid(None, "not a JSON object"),
        Err(error) => {
            let text = error.to_string();
            let position = format!(" at line {} column {}", error.line(), error.column());
            return invalid(Some(error.column()), text.strip_suffix(&position).unwrap_or(&text));
        }
    };
    let missing = |field: &str| invalid(None, &format!("'{field}' is missing"));
    if line.time.is_none() && speed != Speed::Max {
        return missing("time");
    }
    let Some(room) = line.room.or(room.map(str::to_owned)) else { return missing("room") };
    let Some(data) = line.data.map(ToOwned::to_owned) else { return missing("data") };
    let event = line.event.or(event.map(str::to_owned));
    Some(Ok(FeedMessage { line: Some(number), time: line.time, room, event, data }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Result<FeedMessage, InvalidLine>> {
        parse(text.as_bytes(), 7, None, None, Speed::Times(1.0))
    }

    #[test]
    fn data_is_kept_byte_for_byte() {
        let text =
            "{\"time\":5,\"room\":\"a:b\",\"event\":\"e\",\"data\": {\"x\" : 1.10, \"y\":\"\\u00e9\"}}\r\n";
        let message = read(text).unwrap().unwrap();
        assert_eq!(message.data.get(), "{\"x\" : 1.10, \"y\":\"\\u00e9\"}");
        assert_eq!((message.line, message.time, &*message.room), (Some(7), Some(5), "a:b"));
        assert_eq!(read(r#"{"time":5,"room":"a","data":null}"#).unwrap().unwrap().data.get(), "null");
        assert!(read("  \n").is_none());
    }

    #[test]
    fn errors_say_what_a_valid_line_looks_like() {
        for (text, part) in [
            ("{", "line 7, column 1: EOF"),
            ("{\"time\":5,\"room\":oops}\r\n", "line 7, column 18: expected value; expected {"),
            ("[5,\"a\",\"e\",1]", "not a JSON object"),
            (r#"{"room":"a","data":1}"#, "'time' is missing"),
            (r#"{"time":1,"data":1}"#, "'room' is missing"),
            (r#"{"time":1,"room":"a"}"#, "'data' is missing"),
            (r#"{"time":"1","room":"a","data":1}"#, "expected u64"),
        ] {
            let error = read(text).unwrap().unwrap_err().to_string();
            assert!(error.starts_with("line 7") && !error.contains("at line"), "{text}: {error}");
            assert!(error.contains(part) && error.contains(r#"expected {"time":ms"#), "{text}: {error}");
        }
        let without_time = br#"{"data":1}"#;
        let message = parse(without_time, 1, Some("r"), Some("e"), Speed::Max).unwrap().unwrap();
        assert_eq!((&*message.room, message.event.as_deref()), ("r", Some("e")));
    }

    #[test]
    fn the_length_of_a_line_is_limited() {
        let mut endless = BufReader::new(io::repeat(b'x'));
        assert!(read_line(&mut endless).unwrap_err().to_string().contains("or more"));
        let mut two = BufReader::new(&b"a\nb"[..]);
        assert_eq!(read_line(&mut two).unwrap().unwrap(), b"a\n");
        assert_eq!(read_line(&mut two).unwrap().unwrap(), b"b");
        assert!(read_line(&mut two).unwrap().is_none());
    }
}
