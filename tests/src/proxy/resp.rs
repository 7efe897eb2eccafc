//! Splits the Redis protocol, in both versions, into commands and replies. Does not interpret replies.

use std::ops::Range;
use tokio::io::{AsyncRead, AsyncReadExt};

/// One request, unparsed.
pub struct Command {
    pub bytes: Vec<u8>,
    /// The command's name in capitals.
    pub name: String,
    words: Vec<Range<usize>>,
}

impl Command {
    fn new(bytes: Vec<u8>) -> Self {
        let mut words = vec![];
        let mut at = line(&bytes).unwrap_or(bytes.len());
        while let Some(head) = line(&bytes[at..]) {
            let start = at + head;
            let end = start + number(&bytes[at..start]).unwrap_or(0);
            words.push(start..end);
            at = end + 2;
        }
        let name = words.first().map(|name| String::from_utf8_lossy(&bytes[name.clone()]).to_uppercase());
        Self { name: name.unwrap_or_default(), bytes, words }
    }

    /// The digest or the code of the script that it runs.
    pub fn script(&self) -> Option<&[u8]> {
        let runs = ["EVAL", "EVALSHA"].contains(&&*self.name);
        self.words.get(1).filter(|_| runs).map(|word| &self.bytes[word.clone()])
    }

    /// Whether its keys or arguments contain a text, apart from the code of a script.
    pub fn contains(&self, text: &str) -> bool {
        let from = if self.name == "EVAL" { 2 } else { 0 };
        let from = self.words.get(from).map_or(0, |word| word.start);
        text.is_empty() || self.bytes[from..].windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// The number of replies: one per channel, or one.
    pub fn replies(&self) -> usize {
        match &*self.name {
            "SUBSCRIBE" | "SSUBSCRIBE" | "PSUBSCRIBE" | "UNSUBSCRIBE" | "SUNSUBSCRIBE" | "PUNSUBSCRIBE" => {
                self.words.len().saturating_sub(1).max(1)
            }
            _ => 1,
        }
    }
}

/// Splits the data that is read into complete values.
pub struct Values<R> {
    from: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Values<R> {
    pub fn new(from: R) -> Self {
        Self { from, buffer: vec![] }
    }

    /// Reads the next value; `None` at the end.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(size) = size(&self.buffer) {
                let rest = self.buffer.split_off(size);
                return Some(std::mem::replace(&mut self.buffer, rest));
            }
            match self.from.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    pub async fn command(&mut self) -> Option<Command> {
        self.next().await.map(Command::new)
    }
}

/// Whether a value is an unsolicited message.
pub fn is_message(value: &[u8]) -> bool {
    let kinds = ["message", "smessage", "pmessage"];
    let is = |kind: &str| {
        let word = format!("${}\r\n{kind}\r\n", kind.len());
        line(value).is_some_and(|head| value[head..].starts_with(word.as_bytes()))
    };
    matches!(value.first(), Some(b'*' | b'>')) && kinds.into_iter().any(is)
}

/// The length of the first line including its end, if it is complete.
fn line(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair == b"\r\n").map(|at| at + 2)
}

/// The number in a line; `None` for a negative one, which means a null value.
fn number(line: &[u8]) -> Option<usize> {
    std::str::from_utf8(line.get(1..line.len() - 2)?).ok()?.parse().ok()
}

/// The length of the first value, if it is complete.
fn size(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut left) = (0, 1);
    while left > 0 {
        left -= 1;
        let kind = *bytes.get(at)?;
        let end = at + line(&bytes[at..])?;
        let count = number(&bytes[at..end]);
        at = match (kind, count) {
            (b'$' | b'=' | b'!', Some(length)) => end + length + 2,
            _ => end,
        };
        left += match (kind, count) {
            (b'*' | b'~' | b'>', Some(parts)) => parts,
            (b'%', Some(pairs)) => 2 * pairs,
            _ => 0,
        };
    }
    (at <= bytes.len()).then_some(at)
}
