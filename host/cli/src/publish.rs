//! `switchyard publish`: one message, or a recorded feed at its pace. Messages are sent in order, up to
//! [`window::MOST`] before the first is answered, each with an idempotency key: what was unanswered when a
//! connection was lost is sent again on the next, and the server drops what it has.

pub(crate) mod feed;
mod progress;
mod window;

use super::client::{Client, Connect, Connected, Lost, note};
use super::signals::Signals;
use anyhow::{Context, bail};
use feed::{Item, Lines, Outgoing, Pace, Speed};
use progress::{Progress, grouped};
use serde_json::value::RawValue;
use std::{io::Read, path::PathBuf, time::Duration};
use switchyard_protocol::{
    ErrorCode, Refusal,
    client::{ServerFrame, parse},
};
use tokio::time::{Instant, sleep_until, timeout};
use window::{Tally, Window};

/// The server remembers an idempotency key for 5 min; trying longer could publish something twice.
const GIVE_UP: Duration = Duration::from_secs(4 * 60);

/// How long answers are awaited when the command is told to stop.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    connect: Connect,
    /// The room; with --from, that of lines which name none
    #[arg(long, required_unless_present = "from")]
    room: Option<String>,
    /// The event; with --from, that of lines which name none
    #[arg(long)]
    event: Option<String>,
    /// Publishing again with the same one within 5 min answers the first offset and sends nothing
    #[arg(long, value_name = "KEY", conflicts_with = "from")]
    idempotency_key: Option<String>,
    /// Any JSON value; - reads it from standard input
    #[arg(required_unless_present = "from", allow_negative_numbers = true)]
    data: Option<String>,
    /// Lines {"time":ms,"room":"…","event":"…","data":…}; - reads standard input
    #[arg(long, value_name = "FILE.ndjson", conflicts_with = "data")]
    from: Option<PathBuf>,
    /// How much faster than it was recorded, such as 10x; max does not wait at all
    #[arg(long, requires = "from", default_value = "1x")]
    speed: Speed,
    /// For programs: one JSON object a message
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: PublishArgs) -> anyhow::Result<()> {
    let (lines, total) = match &args.from {
        Some(file) => feed::open(file, args.room.clone(), args.event.clone(), args.speed)?,
        None => (feed::single(message(&args)?), None),
    };
    let mut signals = Signals::heed()?;
    let interrupted = || anyhow::anyhow!("interrupted");
    let (mut client, connected) = tokio::select! {
        opened = Client::open(&args.connect, Some(GIVE_UP)) => opened?,
        () = signals.received() => return Err(interrupted()),
    };
    let mut publisher = Publisher {
        most: connected.limits.message_bytes,
        window: Window::new(args.idempotency_key),
        pace: Pace::new(args.speed),
        tally: Tally::new(args.json),
        progress: Progress::new(total),
    };
    let ended = tokio::select! {
        ended = publisher.publish(&mut client, lines) => ended,
        () = signals.received() => Err(interrupted()),
    };
    if ended.is_err() {
        // What is on its way is published, most likely: whoever reads the output is told so.
        timeout(LAST_ANSWERS, publisher.finish(&mut client)).await.ok();
    }
    publisher.progress.clear();
    client.close().await;
    let Publisher { tally, progress, window, .. } = publisher;
    if args.from.is_some() && !args.json {
        note(tally.summary(progress.elapsed(), window.len()));
    }
    ended?;
    match tally.failed() {
        0 => Ok(()),
        1 if args.from.is_none() => bail!("{}", tally.first().unwrap_or("the message was refused")),
        failed => bail!("{} of {} messages were not published", grouped(failed), grouped(tally.all())),
    }
}

fn message(args: &PublishArgs) -> anyhow::Result<Outgoing> {
    let mut text = args.data.clone().unwrap_or_default();
    if text == "-" {
        text.clear();
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
        text = text.trim_start_matches('\u{feff}').to_owned();
    }
    let data: Box<RawValue> = match serde_json::from_str(&text) {
        Ok(data) => data,
        Err(error) => bail!(r#"DATA is no JSON: {error}; an object is '{{"a":1}}', a text '"a"'"#),
    };
    let room = args.room.clone().expect("clap requires it");
    Ok(Outgoing { line: None, time: None, room, event: args.event.clone(), data })
}

struct Publisher {
    /// Bytes of data that the server takes. More would even end the connection, and again after each resume.
    most: usize,
    window: Window,
    pace: Pace,
    tally: Tally,
    progress: Progress,
}

impl Publisher {
    async fn publish(&mut self, client: &mut Client, mut lines: Lines) -> anyhow::Result<()> {
        let (mut waiting, mut ended) = (None, false);
        while !(ended && waiting.is_none() && self.window.is_empty()) {
            let due = waiting.as_ref().map_or_else(Instant::now, |(at, _)| *at);
            let lost = tokio::select! {
                heard = client.next() => match heard {
                    Ok(text) => {
                        self.hear(&text)?;
                        None
                    }
                    Err(lost) => Some(lost),
                },
                item = lines.recv(), if waiting.is_none() && !ended => {
                    match item {
                        None => ended = true,
                        Some(item) => waiting = self.prepare(item)?,
                    }
                    None
                }
                () = until(due), if waiting.is_some() && self.window.has_room() => {
                    let (_, message) = waiting.take().expect("there is one");
                    client.send(self.window.push(&message)).await.err()
                }
                () = self.progress.tick() => {
                    self.progress.show(&self.tally);
                    None
                }
            };
            if let Some(lost) = lost {
                self.recover(client, lost).await?;
            }
        }
        Ok(())
    }

    /// Hears what is still to be answered.
    async fn finish(&mut self, client: &mut Client) {
        while !self.window.is_empty() {
            let Ok(text) = client.next().await else { return };
            if self.hear(&text).is_err() {
                return;
            }
        }
    }

    /// When it is to be sent, or nothing when it is not.
    fn prepare(&mut self, item: Item) -> anyhow::Result<Option<(Instant, Outgoing)>> {
        let message = match item {
            Item::Message(message) => message,
            Item::Wrong(line, why) => {
                self.progress.clear();
                self.tally.wrong(line, why)?;
                return Ok(None);
            }
            Item::Unreadable(error) => bail!("{error}"),
        };
        let size = message.data.get().len();
        if size > self.most {
            let why = format!("data has {size} bytes, at most {} are allowed", self.most);
            let refusal = Refusal::new(ErrorCode::MessageTooLarge, why);
            self.progress.clear();
            self.tally.refused(message.line, &message.room, &refusal.into())?;
            return Ok(None);
        }
        Ok(Some((self.pace.due(message.time, Instant::now()), message)))
    }

    fn hear(&mut self, text: &str) -> anyhow::Result<()> {
        let Ok((id, frame)) = parse(text) else { return Ok(()) };
        let sent = id.and_then(|id| self.window.answered(id.number()?));
        match (sent, frame) {
            (Some(sent), ServerFrame::Error(error)) => {
                self.progress.clear();
                self.tally.refused(sent.line, &sent.room, &error)
            }
            (Some(sent), ServerFrame::Published(published)) => self.tally.published(sent.line, &published),
            (None, ServerFrame::Error(error)) => {
                self.progress.clear();
                note(error);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn recover(&mut self, client: &mut Client, mut lost: Lost) -> anyhow::Result<()> {
        loop {
            self.progress.clear();
            let Connected { limits, .. } = client.recover(lost).await?;
            self.most = limits.message_bytes;
            let sent = async {
                for frame in self.window.frames() {
                    client.send(frame).await?;
                }
                Ok(())
            };
            match sent.await {
                Ok(()) => return Ok(()),
                Err(again) => lost = again,
            }
        }
    }
}

/// A timer would round up to its next millisecond even what is due already.
async fn until(due: Instant) {
    if due > Instant::now() {
        sleep_until(due).await;
    }
}
