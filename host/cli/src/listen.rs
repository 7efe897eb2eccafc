//! `switchyard listen`: prints what rooms hear, once each. Acknowledges what was printed, so that a lost connection
//! goes on after it; tells on standard error what can no longer be told.

mod screen;
mod seen;

use super::client::{Client, Connect, Connected, Lost, note};
use super::signals::Signals;
use crate::output::OutputError;
use anyhow::bail;
use screen::Screen;
use seen::Seen;
use serde_json::value::RawValue;
use std::time::Duration;
use switchyard_protocol::{
    Position,
    client::{ClientRequest, ServerError, ServerFrame, SubscribeEntry, parse},
    reply::{RoomResult, RoomResults},
};
use tokio::time::{MissedTickBehavior, interval};

/// How often what was printed is acknowledged.
const ACKNOWLEDGE: Duration = Duration::from_secs(1);
/// The id of a subscribe.
const SUBSCRIBE: u64 = 1;

#[derive(clap::Args)]
pub(crate) struct ListenArgs {
    #[command(flatten)]
    connect: Connect,
    /// What to hear; `*` and the own inbox are heard in any case
    #[arg(value_name = "ROOM", required = true)]
    rooms: Vec<String>,
    /// A JSON object that the rooms' plugin understands
    #[arg(long, value_name = "JSON", value_parser = filter)]
    filter: Option<Box<RawValue>>,
    /// Begin with what came after this position; for a single room
    #[arg(long, value_name = "EPOCH:OFFSET", value_parser = position)]
    since: Option<Position>,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// For programs: the deliveries as they came, one a line
    #[arg(long)]
    json: bool,
}

fn filter(text: &str) -> Result<Box<RawValue>, String> {
    match serde_json::from_str::<Box<RawValue>>(text) {
        Ok(filter) if filter.get().starts_with('{') => Ok(filter),
        Ok(_) => Err(r#"a filter is an object, such as {"minChange":0.05}"#.to_owned()),
        Err(error) => Err(format!(r#"no JSON: {error}; a filter is such as {{"minChange":0.05}}"#)),
    }
}

fn position(text: &str) -> Result<Position, String> {
    let (epoch, offset) = text.split_once(':').unwrap_or_default();
    match offset.parse() {
        Ok(offset) if !epoch.is_empty() => Ok(Position { epoch: epoch.into(), offset }),
        _ => Err("a position is EPOCH:OFFSET, such as k3f9:17".to_owned()),
    }
}

pub(crate) async fn run(args: ListenArgs) -> anyhow::Result<()> {
    if args.since.is_some() && args.rooms.len() > 1 {
        bail!("--since is a position in one room, but {} are named", args.rooms.len());
    }
    let mut signals = Signals::heed()?;
    let (mut client, connected) = tokio::select! {
        opened = Client::open(&args.connect, None) => opened?,
        () = signals.received() => return Ok(()),
    };
    let mut listener = Listener { seen: Seen::default(), screen: Screen::new(args.json), args };
    let ended = tokio::select! {
        ended = listener.listen(&mut client, connected) => ended,
        () = signals.received() => Ok(()),
    };
    // Without a connection, or with one that just went: the session's end forgets what was heard anyway.
    listener.acknowledge(&mut client).await.ok();
    client.close().await;
    ended
}

struct Listener {
    args: ListenArgs,
    seen: Seen,
    screen: Screen,
}

/// Why listening stopped.
enum Stop {
    Done,
    Lost(Lost),
    Failed(anyhow::Error),
}

impl From<Lost> for Stop {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<OutputError> for Stop {
    fn from(error: OutputError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl Listener {
    async fn listen(&mut self, client: &mut Client, mut connected: Connected) -> anyhow::Result<()> {
        loop {
            let Err(stop) = self.hear(client, connected).await;
            connected = match stop {
                Stop::Done => return Ok(()),
                Stop::Failed(error) => return Err(error),
                Stop::Lost(lost) => client.recover(lost).await?,
            };
            match connected.resumed {
                true => note("resumed"),
                false => note("the session was over; joining the rooms again"),
            }
        }
    }

    /// One connection.
    async fn hear(
        &mut self,
        client: &mut Client,
        connected: Connected,
    ) -> Result<std::convert::Infallible, Stop> {
        connected.rooms.iter().for_each(|room| self.joined(room));
        self.join(client, &connected.rooms).await?;
        let mut ticks = interval(ACKNOWLEDGE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                text = client.next() => self.frame(&text?)?,
                _ = ticks.tick() => self.acknowledge(client).await?,
            }
        }
    }

    /// Subscribes to what the session does not hold: everything in a new one.
    async fn join(&mut self, client: &mut Client, held: &[RoomResult<ServerError>]) -> Result<(), Stop> {
        let filter = self.args.filter.as_deref();
        let mut wanted = vec![];
        for room in &self.args.rooms {
            // `*` and inboxes need no subscribing, and refuse it.
            let special = room == "*" || room.starts_with('@');
            if !special && held.iter().all(|held| &*held.room != self.seen.name(room)) {
                let since = self.seen.position(room).or_else(|| self.args.since.clone());
                wanted.push(SubscribeEntry { room, filter, since });
            }
        }
        if !wanted.is_empty() {
            let request = ClientRequest::Subscribe { rooms: &wanted };
            client.send(request.encode(Some(SUBSCRIBE.into()))).await?;
        }
        Ok(())
    }

    fn frame(&mut self, text: &str) -> Result<(), Stop> {
        let (id, frame) = match parse(text) {
            Ok(parsed) => parsed,
            Err(error) if error.kind.as_deref() == Some("subscribed") => {
                return Err(anyhow::Error::new(error).into());
            }
            Err(_) => return Ok(()),
        };
        match frame {
            ServerFrame::Message(delivery) => {
                if self.seen.is_new(&delivery.room, delivery.offset) {
                    self.screen.show(text, &delivery)?;
                }
                if self.args.count.is_some_and(|most| self.screen.shown >= most) {
                    return Err(Stop::Done);
                }
            }
            ServerFrame::Gap(gap) => {
                self.seen.skip(&gap.room, &gap.epoch, gap.offset.saturating_sub(1));
                note(format_args!(
                    "{}: messages before offset {} were lost and are no longer held",
                    gap.room, gap.offset
                ));
            }
            ServerFrame::Subscribed(RoomResults { results }) => self.subscribed(&results)?,
            ServerFrame::Error(error) => {
                if id == Some(SUBSCRIBE.into()) {
                    return Err(anyhow::Error::new(error).into());
                }
                note(error);
            }
            _ => {}
        }
        Ok(())
    }

    fn subscribed(&mut self, results: &[RoomResult<ServerError>]) -> anyhow::Result<()> {
        results.iter().for_each(|room| self.joined(room));
        // A room beside these may still be heard: the inbox, when it was asked for.
        let refused: Vec<_> =
            results.iter().filter_map(|room| Some((&room.room, room.error.as_ref()?))).collect();
        if refused.len() == self.args.rooms.len() {
            let all: Vec<_> = refused.iter().map(|(room, refusal)| format!("{room}: {refusal}")).collect();
            bail!("{}", all.join("; "));
        }
        refused.iter().for_each(|(room, refusal)| note(format_args!("{room}: {refusal}")));
        Ok(())
    }

    fn joined(&mut self, state: &RoomResult<ServerError>) {
        let RoomResult { room, requested, epoch, offset, recovered, .. } = state;
        let (Some(epoch), Some(offset)) = (epoch, offset) else {
            // Of a resumed session: the room is no longer for us.
            if let (Some(refusal), Some(_)) = (&state.error, recovered) {
                note(format_args!("{room}: {refusal}"));
            }
            return;
        };
        if let Some(requested) = requested {
            self.seen.alias(requested, room);
        }
        if *recovered == Some(false) {
            note(format_args!("{room}: what was missed is no longer held; goes on after offset {offset}"));
        }
        let known = match (recovered, &self.args.since) {
            // What is recovered comes before `offset`.
            (Some(true), since) => since.as_ref().map_or(0, |since| since.offset),
            _ => *offset,
        };
        self.seen.join(room, epoch, known, *recovered);
    }

    async fn acknowledge(&mut self, client: &mut Client) -> Result<(), Lost> {
        let acks = self.seen.unacknowledged();
        if acks.is_empty() {
            return Ok(());
        }
        client.send(ClientRequest::Ack { acks: &acks }.encode(None)).await?;
        self.seen.acknowledged();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked_before_anything_is_connected() {
        assert_eq!(position("k3f9:17").unwrap(), Position { epoch: "k3f9".into(), offset: 17 });
        for bad in ["17", ":17", "k3f9:", "k3f9:-1", ""] {
            assert!(position(bad).unwrap_err().contains("k3f9:17"), "{bad}");
        }
        assert_eq!(filter(r#" {"a" : 1} "#).unwrap().get(), r#"{"a" : 1}"#);
        assert!(filter("[1]").unwrap_err().contains("an object"));
        assert!(filter("{a:1}").unwrap_err().contains("no JSON"));
    }
}
