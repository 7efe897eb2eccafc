//! A node with three plugins and a lively feed, on loopback, until Ctrl-C; with `--nodes`, several that share a Redis.
//! `cargo xtask demo` builds what it needs.

mod child;
mod guide;
mod node;
mod place;
mod redis;

use child::Child;
use clap::Parser;
use guide::Guide;
use place::Place;
use std::{
    future::pending,
    iter::{once, repeat},
    process::ExitCode,
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

/// How long a process may take to be ready. Compiling three plugins takes about a second.
const READY: Duration = Duration::from_secs(30);
/// Between two looks at the children, and at readiness.
const LOOK: Duration = Duration::from_millis(50);

/// Run a node with three plugins and a feed
#[derive(Parser)]
struct Args {
    /// End after so long
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Run 2 to 8 nodes that share a Redis, which is started with them
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..=8))]
    nodes: Option<u16>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    // Listened for from the start, so that no child outlives a signal that comes early.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut children = Children::default();
    let ended = tokio::select! {
        // A terminal's Ctrl-C reaches the children too, and their end is no failure then.
        biased;
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        () = elapsed(args.seconds) => Ok(()),
        ended = demo(args.nodes, &mut children) => ended,
    };
    children.stop();
    ended
}

async fn elapsed(seconds: Option<u64>) {
    match seconds {
        Some(seconds) => sleep(Duration::from_secs(seconds)).await,
        None => pending().await,
    }
}

#[derive(Default)]
struct Children {
    redis: Option<Child>,
    nodes: Vec<Child>,
    feed: Option<Child>,
}

impl Children {
    /// What publishes first, then what it needs, so that none sees another go.
    fn stop(&mut self) {
        let Self { redis, nodes, feed } = self;
        feed.iter_mut().chain(nodes.iter_mut().rev()).chain(redis).for_each(Child::stop);
    }

    /// A node may go as long as there are others; whoever ended it wants to see how these go on.
    fn look(&mut self) -> anyhow::Result<()> {
        self.redis.iter_mut().chain(&mut self.feed).try_for_each(Child::alive)?;
        if let [last] = &mut self.nodes[..] {
            return last.alive();
        }
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if let Some(status) = node.ended()? {
                println!("{} (pid {}) ended with {status}; the others go on", node.name(), node.id());
                self.nodes.remove(index);
                break;
            }
        }
        Ok(())
    }
}

/// Starts everything, then ends when one of the children does without which there is nothing to show.
async fn demo(nodes: Option<u16>, children: &mut Children) -> anyhow::Result<()> {
    let place = Place::find()?;
    let keys = place.write_config()?;
    let mut port = None;
    if nodes.is_some() {
        let (redis, at) = redis::start(&place)?;
        port = Some(at);
        redis::ready(children.redis.insert(redis), at).await?;
    }
    let store = port.map(|port| format!("redis://127.0.0.1:{port}/0"));
    let mut all = vec![];
    for number in 1..=nodes.unwrap_or(1) {
        children.nodes.push(node::start(&place, number, store.as_deref())?);
        if let Some(node) = children.nodes.last_mut() {
            all.push(node::ready(node).await?);
        }
    }

    let mut feed = place.program("feed");
    for (option, node) in once("--url").chain(repeat("--or")).zip(&all) {
        feed.args([option, &node.url]);
    }
    feed.env("SWITCHYARD_KEY", &keys.feed);
    children.feed = Some(Child::start("the feed".to_owned(), feed, place.log("feed"))?);

    let guide = Guide { place: &place, keys: &keys, nodes: &all };
    match port {
        None => guide.of_one_node(),
        Some(port) => guide.of_several(&children.nodes, port),
    }
    loop {
        children.look()?;
        sleep(LOOK).await;
    }
}
