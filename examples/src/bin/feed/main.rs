//! Publishes a synthetic market feed over one WebSocket until Ctrl-C. It shows what a publisher has to do:
//! limit the number of unanswered messages, and reconnect as the close codes ask, to another node if there
//! are several.

mod nodes;

use clap::Parser;
use nodes::Nodes;
use std::{process::ExitCode, time::Duration};
use switchyard::{
    client::{ConnectArgs, ConnectionLoss, WireClient},
    note,
};
use switchyard_examples::{Event, World};
use switchyard_protocol::{
    client::{ClientRequest, ServerFrame, parse},
    request::Publish,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval},
};

/// Maximum number of unanswered messages.
const MAX_UNANSWERED: usize = 256;

/// Only this many refusals are printed.
const MAX_PRINTED_REFUSALS: u64 = 5;

/// Publish a synthetic market feed
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Another node with the same store, to continue on when a connection is lost; can be repeated
    #[arg(long = "or", value_name = "URL")]
    others: Vec<String>,
    /// Messages per second
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// The seed of the random numbers; the same seed produces the same feed
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("feed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let mut nodes = Nodes::new(args.connect, args.others);
    let mut client = nodes.open().await?;
    let mut feed =
        MarketFeed { world: World::new(args.seed), rate: args.rate, sent: 0, unanswered: 0, refused: 0 };
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = feed.publish(&mut nodes, &mut client) => result?,
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    client.close().await;
    note(format_args!("published {} messages, of which {} were refused", feed.sent, feed.refused));
    Ok(())
}

struct MarketFeed {
    world: World,
    rate: u32,
    sent: u64,
    unanswered: usize,
    refused: u64,
}

impl MarketFeed {
    async fn publish(&mut self, nodes: &mut Nodes, client: &mut WireClient) -> anyhow::Result<()> {
        loop {
            let Err(loss) = self.publish_on_connection(client).await;
            nodes.recover(client, loss).await?;
            // Unanswered messages may be lost. Snapshots repair the order books.
            self.world.restart_with_snapshots();
            self.unanswered = 0;
        }
    }

    /// Publishes until the connection is lost. Timers are not finer than a millisecond, so at a high rate
    /// this sends several messages at once.
    async fn publish_on_connection(
        &mut self,
        client: &mut WireClient,
    ) -> Result<std::convert::Infallible, ConnectionLoss> {
        let mut ticks = interval(Duration::from_secs_f64(1.0 / f64::from(self.rate.min(200))));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (began, mut count) = (Instant::now(), 0u64);
        loop {
            tokio::select! {
                text = client.next() => self.handle_frame(&text?),
                _ = ticks.tick(), if self.unanswered < MAX_UNANSWERED => {
                    let due = (began.elapsed().as_secs_f64() * f64::from(self.rate)) as u64;
                    // After a pause the feed continues at its rate, and does not catch up in one burst.
                    let burst = due.saturating_sub(count).min((MAX_UNANSWERED - self.unanswered) as u64);
                    count = due;
                    for _ in 0..burst {
                        self.send(client).await?;
                    }
                }
            }
        }
    }

    async fn send(&mut self, client: &mut WireClient) -> Result<(), ConnectionLoss> {
        let Event { room, event, data } = self.world.next_event();
        let data = serde_json::value::to_raw_value(&data).expect("data is plain JSON");
        self.sent += 1;
        self.unanswered += 1;
        let publish = Publish { room: room.into(), event: Some(event.into()), data: &data, key: None };
        client.send(ClientRequest::Publish(publish).encode(Some(self.sent.into()))).await
    }

    fn handle_frame(&mut self, text: &str) {
        let Ok((id, frame)) = parse(text) else { return };
        if id.is_some() {
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        if let ServerFrame::Error(error) = frame {
            self.refused += 1;
            if self.refused <= MAX_PRINTED_REFUSALS {
                note(error);
            }
        }
    }
}
