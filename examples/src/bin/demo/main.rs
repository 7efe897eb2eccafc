//! Runs a node with three plugins and a live feed on loopback until Ctrl-C, or with `--nodes` several nodes
//! that share a Redis. `cargo xtask demo` builds what it needs.

mod child;
mod files;
mod guide;
mod node;
mod redis;

use child::ChildProcess;
use clap::Parser;
use files::DemoFiles;
use guide::Guide;
use std::{
    iter::{once, repeat},
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

/// How long a process may take to become ready. In the unoptimized build of `cargo xtask demo`, compiling three plugins
/// takes some seconds of processor time.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// How often processes are checked.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Run a node with three plugins and a live feed
#[derive(Parser)]
struct Args {
    /// End this many seconds after everything has started
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Run 2 to 8 nodes that share a Redis, which is started too
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=8))]
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
    // Handled from the start, so that no child process outlives an early signal.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut children = Children::default();
    let result = tokio::select! {
        // Ctrl-C in a terminal reaches the child processes too. Their exit is not a failure then, so signals
        // come first.
        biased;
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        result = demo(&args, &mut children) => result,
    };
    children.stop();
    result
}

/// The processes of the demo.
#[derive(Default)]
struct Children {
    redis: Option<ChildProcess>,
    nodes: Vec<ChildProcess>,
    feed: Option<ChildProcess>,
}

impl Children {
    /// Stops the feed first, then the nodes and Redis, so that no process loses another that it needs.
    fn stop(&mut self) {
        let Self { redis, nodes, feed } = self;
        feed.iter_mut().chain(nodes.iter_mut().rev()).chain(redis).for_each(ChildProcess::stop);
    }

    /// Fails if a process has exited without which the demo cannot continue. A node may exit while there are
    /// others: the user killed it to see how these continue.
    fn check(&mut self) -> anyhow::Result<()> {
        self.redis.iter_mut().chain(&mut self.feed).try_for_each(ChildProcess::ensure_running)?;
        if let [last] = &mut self.nodes[..] {
            return last.ensure_running();
        }
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if let Some(status) = node.exit_status()? {
                println!("{} (pid {}) ended with {status}; the others continue", node.name(), node.id());
                self.nodes.remove(index);
                break;
            }
        }
        Ok(())
    }
}

/// Starts everything, and runs until the time is over or a process exits without which the demo cannot continue.
async fn demo(args: &Args, children: &mut Children) -> anyhow::Result<()> {
    let nodes = args.nodes;
    let files = DemoFiles::find()?;
    let keys = files.write_config()?;
    let mut redis_port = None;
    if nodes.is_some() {
        let (redis, port) = redis::start(&files)?;
        redis_port = Some(port);
        redis::wait_until_ready(children.redis.insert(redis), port).await?;
    }
    let store = redis_port.map(|port| format!("redis://127.0.0.1:{port}/0"));
    let mut addresses = vec![];
    for number in 1..=nodes.unwrap_or(1) {
        children.nodes.push(node::start(&files, number, store.as_deref())?);
        if let Some(node) = children.nodes.last_mut() {
            addresses.push(node::wait_until_ready(node).await?);
        }
    }

    let mut feed = files.program("feed");
    for (option, node) in once("--url").chain(repeat("--or")).zip(&addresses) {
        feed.args([option, &node.url]);
    }
    feed.env("SWITCHYARD_KEY", &keys.feed);
    children.feed = Some(ChildProcess::start("the feed".to_owned(), feed, files.log("feed"))?);

    let guide = Guide { files: &files, keys: &keys, nodes: &addresses };
    match redis_port {
        None => guide.print_for_one_node(),
        Some(port) => guide.print_for_several_nodes(&children.nodes, port),
    }
    let started = Instant::now();
    while args.seconds.is_none_or(|seconds| started.elapsed() < Duration::from_secs(seconds)) {
        children.check()?;
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}
