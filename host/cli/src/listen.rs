//! `switchyard listen`: prints each message of some rooms once. It acknowledges what it has printed, so that
//! it can continue there after a lost connection, and reports on standard error which messages are lost.

mod printer;
mod received;

use crate::{
    client::{ConnectArgs, ConnectionLoss, WireClient},
    json_argument::parse_filter,
    output::{InvalidArguments, OutputError, note},
    signals::StopSignals,
};
use anyhow::bail;
use printer::MessagePrinter;
use received::ReceivedOffsets;
use serde_json::value::RawValue;
use std::{collections::HashSet, convert::Infallible, time::Duration};
use switchyard_protocol::{
    Position,
    client::{ClientRequest, ServerError, ServerFrame, SubscribeEntry, parse},
    reply::{Connected, RoomResult, RoomResults},
};
use tokio::time::{MissedTickBehavior, interval};

const ACKNOWLEDGE_INTERVAL: Duration = Duration::from_secs(1);
/// The id of the subscribe request.
const SUBSCRIBE_ID: u64 = 1;

#[derive(clap::Args)]
pub(crate) struct ListenArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The rooms to join; messages to `*` and to the key's own inbox are always received
    #[arg(value_name = "ROOM", required = true)]
    rooms: Vec<String>,
    /// A filter for all these rooms: a JSON object that their plugin understands
    #[arg(long, value_name = "JSON", value_parser = parse_filter)]
    filter: Option<Box<RawValue>>,
    /// Start with the message after this position; only with a single room
    #[arg(long, value_name = "EPOCH:OFFSET", value_parser = parse_position)]
    since: Option<Position>,
    /// Exit after this many messages
    #[arg(long, value_name = "N", value_parser = parse_count)]
    count: Option<u64>,
    /// Print each message as JSON, exactly as it was received, one per line
    #[arg(long)]
    json: bool,
}

fn parse_count(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("expected a whole number of at least 1".to_owned()),
    }
}

fn parse_position(text: &str) -> Result<Position, String> {
    let (epoch, offset) = text.split_once(':').unwrap_or_default();
    match offset.parse() {
        Ok(offset) if !epoch.is_empty() => Ok(Position { epoch: epoch.into(), offset }),
        _ => Err("expected EPOCH:OFFSET such as k3f9:17".to_owned()),
    }
}

pub(crate) async fn run(args: ListenArgs) -> anyhow::Result<()> {
    if args.since.is_some() && args.rooms.len() > 1 {
        let message =
            format!("--since is a position in a single room, but {} rooms are given", args.rooms.len());
        return Err(InvalidArguments(message).into());
    }
    let mut signals = StopSignals::catch()?;
    let (mut client, connected) = tokio::select! {
        opened = WireClient::open(&args.connect, None) => opened?,
        () = signals.received() => return Ok(()),
    };
    let mut listener = RoomListener {
        received: ReceivedOffsets::default(),
        removed: HashSet::new(),
        printer: MessagePrinter::new(args.json),
        args,
    };
    let result = tokio::select! {
        result = listener.listen(&mut client, connected) => result,
        () = signals.received() => Ok(()),
    };
    // Fails if the connection is lost. That does no harm, because the session ends anyway.
    listener.acknowledge(&mut client).await.ok();
    client.close().await;
    result
}

struct RoomListener {
    args: ListenArgs,
    /// The canonical names of the rooms that were refused, or that the server has removed the client from.
    removed: HashSet<String>,
    received: ReceivedOffsets,
    printer: MessagePrinter,
}

/// Why listening on a connection stopped.
enum Stop {
    /// `--count` messages were printed.
    Done,
    Lost(ConnectionLoss),
    Failed(anyhow::Error),
}

impl From<ConnectionLoss> for Stop {
    fn from(loss: ConnectionLoss) -> Self {
        Self::Lost(loss)
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

impl RoomListener {
    async fn listen(
        &mut self,
        client: &mut WireClient,
        mut connected: Connected<ServerError>,
    ) -> anyhow::Result<()> {
        loop {
            let Err(stop) = self.listen_on_connection(client, connected).await;
            connected = match stop {
                Stop::Done => return Ok(()),
                Stop::Failed(error) => return Err(error),
                Stop::Lost(loss) => client.recover(loss).await?,
            };
            match connected.resumed {
                true => note("resumed"),
                false => note("the session has ended; joining the rooms again"),
            }
        }
    }

    async fn listen_on_connection(
        &mut self,
        client: &mut WireClient,
        connected: Connected<ServerError>,
    ) -> Result<Infallible, Stop> {
        connected.rooms.iter().for_each(|room| self.handle_joined(room));
        self.subscribe(client, &connected.rooms).await?;
        let mut ticks = interval(ACKNOWLEDGE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                text = client.next() => self.handle_frame(&text?)?,
                _ = ticks.tick() => self.acknowledge(client).await?,
            }
        }
    }

    /// Subscribes to the rooms in which the session is not a member. In a new session, that is every room.
    async fn subscribe(
        &mut self,
        client: &mut WireClient,
        joined: &[RoomResult<ServerError>],
    ) -> Result<(), Stop> {
        let filter = self.args.filter.as_deref();
        let mut entries = vec![];
        for room in &self.args.rooms {
            // Every session receives `*` and its inbox, and subscribing to them is an error.
            let is_automatic = room == "*" || room.starts_with('@');
            if !is_automatic
                && joined.iter().all(|joined| &*joined.room != self.received.canonical_name(room))
            {
                let since = self.received.position(room).or_else(|| self.args.since.clone());
                entries.push(SubscribeEntry { room, filter, since });
            }
        }
        if !entries.is_empty() {
            let request = ClientRequest::Subscribe { rooms: &entries };
            client.send(request.encode(Some(SUBSCRIBE_ID.into()))).await?;
        }
        Ok(())
    }

    fn handle_frame(&mut self, text: &str) -> Result<(), Stop> {
        let (id, frame) = match parse(text) {
            Ok(parsed) => parsed,
            Err(error) if error.kind.as_deref() == Some("subscribed") => {
                return Err(anyhow::Error::new(error).into());
            }
            Err(_) => return Ok(()),
        };
        match frame {
            ServerFrame::Message(delivery) => {
                if self.received.insert(&delivery.room, delivery.offset) {
                    self.printer.print(text, &delivery)?;
                }
                if self.args.count.is_some_and(|count| self.printer.printed >= count) {
                    return Err(Stop::Done);
                }
            }
            ServerFrame::Gap(gap) => {
                self.received.skip_to(&gap.room, &gap.epoch, gap.offset.saturating_sub(1));
                note(format_args!(
                    "{}: messages before offset {} are lost; the server no longer has them",
                    gap.room, gap.offset
                ));
            }
            ServerFrame::Subscribed(RoomResults { results }) => self.handle_subscribed(&results)?,
            ServerFrame::Unsubscribed(RoomResults { results }) => self.handle_removed(&results)?,
            ServerFrame::Error(error) => {
                if id == Some(SUBSCRIBE_ID.into()) {
                    return Err(anyhow::Error::new(error).into());
                }
                note(error);
            }
            _ => {}
        }
        Ok(())
    }

    fn handle_subscribed(&mut self, results: &[RoomResult<ServerError>]) -> anyhow::Result<()> {
        results.iter().for_each(|room| self.handle_joined(room));
        let refused: Vec<_> =
            results.iter().filter_map(|room| Some((&room.room, room.error.as_ref()?))).collect();
        // If the command also names the inbox or `*`, it can go on without the refused rooms.
        if refused.len() == self.args.rooms.len() {
            let all: Vec<_> = refused.iter().map(|(room, refusal)| format!("{room}: {refusal}")).collect();
            bail!("{}", all.join("; "));
        }
        for (room, refusal) in refused {
            note(format_args!("{room}: {refusal}"));
            self.removed.insert(room.to_string());
        }
        Ok(())
    }

    /// Handles rooms that the server has removed the client from.
    fn handle_removed(&mut self, results: &[RoomResult<ServerError>]) -> anyhow::Result<()> {
        for RoomResult { room, error, .. } in results {
            let reason = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            note(format_args!("{room}: the server has ended the subscription{reason}"));
            self.removed.insert(room.to_string());
        }
        let is_left = |room: &String| !self.removed.contains(self.received.canonical_name(room));
        if !self.args.rooms.iter().any(is_left) {
            bail!("no room is left");
        }
        Ok(())
    }

    /// Handles a room that was subscribed to, or that a resumed session holds.
    fn handle_joined(&mut self, result: &RoomResult<ServerError>) {
        let RoomResult { room, requested, epoch, offset, recovered, .. } = result;
        self.removed.remove(&**room);
        let (Some(epoch), Some(offset)) = (epoch, offset) else {
            // The resumed session can no longer be in this room.
            if let (Some(refusal), Some(_)) = (&result.error, recovered) {
                note(format_args!("{room}: {refusal}"));
            }
            return;
        };
        if let Some(requested) = requested {
            self.received.set_canonical_name(requested, room);
        }
        if *recovered == Some(false) {
            note(format_args!(
                "{room}: missed messages are lost; the server no longer has them. Continuing after offset {offset}"
            ));
        }
        let received_up_to = match (recovered, &self.args.since) {
            // Recovered messages follow, with offsets up to `offset`.
            (Some(true), since) => since.as_ref().map_or(0, |since| since.offset),
            _ => *offset,
        };
        self.received.join(room, epoch, received_up_to, *recovered);
    }

    async fn acknowledge(&mut self, client: &mut WireClient) -> Result<(), ConnectionLoss> {
        let acks = self.received.unacknowledged();
        if acks.is_empty() {
            return Ok(());
        }
        client.send(ClientRequest::Ack { acks: &acks }.encode(None)).await?;
        self.received.mark_acknowledged();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_counts_are_validated() {
        assert_eq!(parse_position("k3f9:17").unwrap(), Position { epoch: "k3f9".into(), offset: 17 });
        for bad in ["17", ":17", "k3f9:", "k3f9:-1", ""] {
            assert!(parse_position(bad).unwrap_err().contains("k3f9:17"), "{bad}");
        }
        assert_eq!(parse_count("7"), Ok(7));
        assert_eq!(parse_count("0").unwrap_err(), "must be at least 1");
        assert!(parse_count("-1").unwrap_err().contains("a whole number of at least 1"));
    }
}
