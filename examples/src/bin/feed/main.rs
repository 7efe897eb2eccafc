//! Publishes a lively synthetic market over one WebSocket, until Ctrl-C. It shows a publisher's duties: a bound on
//! what is unanswered, and coming back as the close codes ask, to another node where there are several.

mod nodes;

use clap::Parser;
use nodes::Nodes;
use std::{process::ExitCode, time::Duration};
use switchyard::client::{Client, Connect, Lost, note};
use switchyard_examples::world::{Event, World};
use switchyard_protocol::{
    client::{ClientRequest, ServerFrame, parse},
    request::Publish,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval},
};

/// Messages on their way before waiting for answers.
const UNANSWERED: usize = 256;

/// Publish a lively synthetic market
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    connect: Connect,
    /// Another node with the same store, to go on at when a connection ends; may be given several times
    #[arg(long = "or", value_name = "URL")]
    others: Vec<String>,
    /// Messages a second
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// The same seed makes the same feed
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
    let mut feed = Feed { world: World::new(args.seed), rate: args.rate, sent: 0, unanswered: 0, refused: 0 };
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = feed.publish_on(&mut nodes, &mut client) => ended?,
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    client.close().await;
    note(format_args!("published {} messages, {} were refused", feed.sent, feed.refused));
    Ok(())
}

struct Feed {
    world: World,
    rate: u32,
    sent: u64,
    unanswered: usize,
    refused: u64,
}

impl Feed {
    async fn publish_on(&mut self, nodes: &mut Nodes, client: &mut Client) -> anyhow::Result<()> {
        loop {
            let Err(lost) = self.publish(client).await;
            nodes.recover(client, lost).await?;
            // What was on its way may be lost, but whole books follow.
            self.world.forget();
            self.unanswered = 0;
        }
    }

    /// One connection. Timers are not finer than a millisecond, so a high rate sends several messages at once.
    async fn publish(&mut self, client: &mut Client) -> Result<std::convert::Infallible, Lost> {
        let mut ticks = interval(Duration::from_secs_f64(1.0 / f64::from(self.rate.min(200))));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (began, mut count) = (Instant::now(), 0u64);
        loop {
            tokio::select! {
                text = client.next() => self.answered(&text?),
                _ = ticks.tick(), if self.unanswered < UNANSWERED => {
                    let due = (began.elapsed().as_secs_f64() * f64::from(self.rate)) as u64;
                    // After a pause the pace goes on; it does not catch up in one burst.
                    let burst = due.saturating_sub(count).min((UNANSWERED - self.unanswered) as u64);
                    count = due;
                    for _ in 0..burst {
                        self.send(client).await?;
                    }
                }
            }
        }
    }

    async fn send(&mut self, client: &mut Client) -> Result<(), Lost> {
        let Event { room, event, data } = self.world.next_event();
        let data = serde_json::value::to_raw_value(&data).expect("data is plain JSON");
        self.sent += 1;
        self.unanswered += 1;
        let publish = Publish { room: room.into(), event: Some(event.into()), data: &data, key: None };
        client.send(ClientRequest::Publish(publish).encode(Some(self.sent.into()))).await
    }

    fn answered(&mut self, text: &str) {
        let Ok((id, frame)) = parse(text) else { return };
        if id.is_some() {
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        if let ServerFrame::Error(error) = frame {
            self.refused += 1;
            if self.refused <= 5 {
                note(error);
            }
        }
    }
}
