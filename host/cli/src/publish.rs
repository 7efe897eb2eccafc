//! `switchyard publish`: publishes one message, or a recorded feed at its original pace. Messages are sent in
//! order, up to [`window::MAX_UNANSWERED`] before the first is answered, each with an idempotency key. If the
//! connection is lost, the unanswered ones are sent again on the next, and the server ignores those that it
//! already has.

pub(crate) mod feed;
pub(crate) mod pace;
mod progress;
mod tally;
mod window;

use crate::{
    client::{ConnectArgs, ConnectionLoss, WireClient},
    count::{counted, grouped},
    json_argument::parse_data,
    output::note,
    signals::StopSignals,
};
use anyhow::{Context, anyhow, bail};
use feed::{FeedItem, FeedMessage, FeedReceiver};
use pace::{Pacer, Speed};
use progress::ProgressLine;
use serde_json::value::RawValue;
use std::{io::Read, path::PathBuf, time::Duration};
use switchyard_protocol::{
    ErrorCode, Refusal,
    client::{ServerFrame, parse},
};
use tally::Tally;
use tokio::time::{Instant, sleep_until, timeout};
use window::Window;

/// How long to retry after a connection is lost. The server remembers idempotency keys for 5 min, so retrying
/// for longer could publish a message twice.
const GIVE_UP_AFTER: Duration = Duration::from_secs(4 * 60);

/// How long to wait for answers after the command was interrupted.
const FINAL_ANSWERS_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The room to publish to; with --from, the room of lines that have none
    #[arg(long, required_unless_present = "from")]
    room: Option<String>,
    /// The event of the message; with --from, the event of lines that have none
    #[arg(long)]
    event: Option<String>,
    /// Publish only once, however often the command is repeated with this key within 5 min
    #[arg(long, value_name = "KEY", conflicts_with = "from")]
    idempotency_key: Option<String>,
    /// The message: any JSON value, or - to read it from standard input
    #[arg(required_unless_present = "from", allow_negative_numbers = true, value_parser = MessageData::parse)]
    data: Option<MessageData>,
    /// A file with one message per line, {"time":ms,"room":"…","event":"…","data":…}, or - for standard input
    #[arg(long, value_name = "FILE.ndjson", conflicts_with = "data")]
    from: Option<PathBuf>,
    /// Publish faster or slower than the feed was recorded: 10x, 0.5x, or max for no pauses
    #[arg(long, requires = "from", default_value = "1x")]
    speed: Speed,
    /// Print one JSON object per message, for programs
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: PublishArgs) -> anyhow::Result<()> {
    let (feed, total) = match &args.from {
        Some(file) => feed::open(file, args.room.clone(), args.event.clone(), args.speed)?,
        None => (feed::single(single_message(&args)?), None),
    };
    let mut signals = StopSignals::catch()?;
    let interrupted = || anyhow::anyhow!("interrupted");
    let (mut client, connected) = tokio::select! {
        opened = WireClient::open(&args.connect, Some(GIVE_UP_AFTER)) => opened?,
        () = signals.received() => return Err(interrupted()),
    };
    let mut publisher = FeedPublisher {
        max_message_bytes: connected.limits.message_bytes,
        window: Window::new(args.idempotency_key),
        pacer: Pacer::new(args.speed),
        tally: Tally::new(args.json),
        progress: ProgressLine::new(total),
    };
    let result = tokio::select! {
        result = publisher.publish(&mut client, feed) => result,
        () = signals.received() => Err(interrupted()),
    };
    if result.is_err() {
        // The server most likely stores what was sent already. The output should say so.
        timeout(FINAL_ANSWERS_TIMEOUT, publisher.receive_remaining_answers(&mut client)).await.ok();
    }
    publisher.progress.clear();
    client.close().await;
    let FeedPublisher { tally, progress, window, .. } = publisher;
    if args.from.is_some() && !args.json {
        note(tally.summary(progress.elapsed(), window.len()));
    }
    result?;
    match tally.failed() {
        0 => Ok(()),
        1 if args.from.is_none() => bail!("{}", tally.first_failure().unwrap_or("the message was refused")),
        failed => {
            let were = if failed == 1 { "was" } else { "were" };
            bail!("{} of {} {were} not published", grouped(failed), counted(tally.all(), "message"))
        }
    }
}

/// The message on the command line.
#[derive(Clone, Debug)]
enum MessageData {
    Json(Box<RawValue>),
    Stdin,
}

impl MessageData {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "-" => Ok(Self::Stdin),
            text => parse_data(text).map(Self::Json),
        }
    }

    fn read(&self) -> anyhow::Result<Box<RawValue>> {
        match self {
            Self::Json(data) => Ok(data.clone()),
            Self::Stdin => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
                let text = text.trim_start_matches('\u{feff}');
                parse_data(text).map_err(|error| anyhow!("standard input: {error}"))
            }
        }
    }
}

fn single_message(args: &PublishArgs) -> anyhow::Result<FeedMessage> {
    let data = args.data.as_ref().expect("clap requires it without --from").read()?;
    let room = args.room.clone().expect("clap requires it");
    Ok(FeedMessage { line: None, time: None, room, event: args.event.clone(), data })
}

struct FeedPublisher {
    /// The server's limit for the data of a message. A larger frame would close the connection, and again
    /// after each reconnect.
    max_message_bytes: usize,
    window: Window,
    pacer: Pacer,
    tally: Tally,
    progress: ProgressLine,
}

impl FeedPublisher {
    /// Publishes the whole feed and waits for all answers.
    async fn publish(&mut self, client: &mut WireClient, mut feed: FeedReceiver) -> anyhow::Result<()> {
        let (mut next, mut at_end) = (None, false);
        while !(at_end && next.is_none() && self.window.is_empty()) {
            let due = next.as_ref().map_or_else(Instant::now, |(due, _)| *due);
            let loss = tokio::select! {
                received = client.next() => match received {
                    Ok(text) => {
                        self.handle_frame(&text)?;
                        None
                    }
                    Err(loss) => Some(loss),
                },
                item = feed.recv(), if next.is_none() && !at_end => {
                    match item {
                        None => at_end = true,
                        Some(item) => next = self.schedule(item)?,
                    }
                    None
                }
                () = wait_until(due), if next.is_some() && self.window.has_room() => {
                    let (_, message) = next.take().expect("the branch requires it");
                    client.send(self.window.push(&message)).await.err()
                }
                () = self.progress.tick() => {
                    self.progress.show(&self.tally);
                    None
                }
            };
            if let Some(loss) = loss {
                self.recover(client, loss).await?;
            }
        }
        Ok(())
    }

    async fn receive_remaining_answers(&mut self, client: &mut WireClient) {
        while !self.window.is_empty() {
            let Ok(text) = client.next().await else { return };
            if self.handle_frame(&text).is_err() {
                return;
            }
        }
    }

    /// Returns the message and when to send it, or `None` if it cannot be sent.
    fn schedule(&mut self, item: FeedItem) -> anyhow::Result<Option<(Instant, FeedMessage)>> {
        let message = match item {
            FeedItem::Message(message) => message,
            FeedItem::InvalidLine(invalid) => {
                self.progress.clear();
                self.tally.invalid_line(invalid)?;
                return Ok(None);
            }
            FeedItem::Unreadable(error) => bail!("{error}"),
        };
        let size = message.data.get().len();
        if size > self.max_message_bytes {
            let reason = format!("data has {size} bytes, but at most {} are allowed", self.max_message_bytes);
            let refusal = Refusal::new(ErrorCode::MessageTooLarge, reason);
            self.progress.clear();
            self.tally.refused(message.line, &message.room, &refusal.into())?;
            return Ok(None);
        }
        Ok(Some((self.pacer.due(message.time, Instant::now()), message)))
    }

    fn handle_frame(&mut self, text: &str) -> anyhow::Result<()> {
        let Ok((id, frame)) = parse(text) else { return Ok(()) };
        let answered = id.and_then(|id| self.window.take(id.number()?));
        match (answered, frame) {
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

    async fn recover(&mut self, client: &mut WireClient, mut loss: ConnectionLoss) -> anyhow::Result<()> {
        loop {
            self.progress.clear();
            self.max_message_bytes = client.recover(loss).await?.limits.message_bytes;
            let sent = async {
                for frame in self.window.frames() {
                    client.send(frame).await?;
                }
                Ok(())
            };
            match sent.await {
                Ok(()) => return Ok(()),
                Err(again) => loss = again,
            }
        }
    }
}

/// Returns at once if the time has come. A timer would round up to its next millisecond.
async fn wait_until(due: Instant) {
    if due > Instant::now() {
        sleep_until(due).await;
    }
}
