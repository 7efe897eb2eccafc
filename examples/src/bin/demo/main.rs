//! A node with three plugins and a lively feed, on loopback, until Ctrl-C. `cargo xtask demo` builds what it needs.

mod child;
mod place;

use anyhow::{Context, bail};
use child::Child;
use clap::Parser;
use place::Place;
use std::{
    future::pending,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

/// How long the node may take to be ready. Compiling three plugins takes about a second.
const READY: Duration = Duration::from_secs(30);
/// Between two looks at the children, and at readiness.
const LOOK: Duration = Duration::from_millis(50);

/// Run a node with three plugins and a feed
#[derive(Parser)]
struct Args {
    /// End after so long
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
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
    let mut children = vec![];
    let ended = tokio::select! {
        // A terminal's Ctrl-C reaches the children too, and their end is no failure then.
        biased;
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        () = elapsed(args.seconds) => Ok(()),
        ended = demo(&mut children) => ended,
    };
    // The feed first, so that it does not see its node go.
    children.iter_mut().rev().for_each(Child::stop);
    ended
}

async fn elapsed(seconds: Option<u64>) {
    match seconds {
        Some(seconds) => sleep(Duration::from_secs(seconds)).await,
        None => pending().await,
    }
}

/// Starts everything, then ends when one of the children does.
async fn demo(children: &mut Vec<Child>) -> anyhow::Result<()> {
    let place = Place::find()?;
    let keys = place.write_config()?;
    let mut serve = place.program("switchyard");
    serve.args(["serve", "--json", "--config"]).arg(place.config());
    serve.env("SWITCHYARD_SERVER__LISTEN", free(8080)?).env("SWITCHYARD_ADMIN__LISTEN", free(9090)?);
    children.push(Child::start("the node", serve, place.log("node"))?);
    let (url, admin) = ready(&mut children[0]).await?;

    let mut feed = place.program("feed");
    feed.args(["--url", &url]).env("SWITCHYARD_KEY", &keys.feed);
    children.push(Child::start("the feed", feed, place.log("feed"))?);

    let page = place.page(&url, &keys.watcher);
    let listen = place.program("switchyard");
    println!("watch in a browser:   {page}");
    println!(
        "or from a terminal:   SWITCHYARD_KEY={} {} listen --url {url} tvl_changes --filter '{{\"minChange\":0.05}}'",
        keys.watcher,
        listen.get_program().display(),
    );
    println!("metrics:              {admin}/metrics      (Ctrl-C ends everything)");
    loop {
        children.iter_mut().try_for_each(Child::alive)?;
        sleep(LOOK).await;
    }
}

/// The usual port, or any when somebody else has it.
fn free(port: u16) -> anyhow::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", port)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    Ok(listener.context("no port is free")?.local_addr()?.to_string())
}

/// The node says where it listens, and then whether it is ready.
async fn ready(node: &mut Child) -> anyhow::Result<(String, String)> {
    let began = Instant::now();
    let mut addresses = None;
    while began.elapsed() < READY {
        node.alive()?;
        if let Some(line) = node.first_line()? {
            let said: serde_json::Value =
                serde_json::from_str(&line).context("what the node said is no JSON")?;
            let text = |field: &str| said[field].as_str().map(str::to_owned);
            let (Some(url), Some(admin)) = (text("url"), text("admin")) else {
                bail!("the node did not say its addresses: {line}");
            };
            if is_ready(&admin) {
                return Ok((url, admin));
            }
            addresses = Some(admin);
        }
        sleep(LOOK).await;
    }
    match addresses {
        Some(admin) => {
            bail!("{admin}/readyz did not answer 200 within {} s\n{}", READY.as_secs(), node.log())
        }
        None => bail!("the node did not say where it listens within {} s\n{}", READY.as_secs(), node.log()),
    }
}

fn is_ready(admin: &str) -> bool {
    let ask = || {
        let host = admin.strip_prefix("http://")?;
        let mut stream = TcpStream::connect(host).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        write!(stream, "GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).ok()?;
        Some(&status == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}
