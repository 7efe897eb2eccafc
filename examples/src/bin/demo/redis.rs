//! The Redis that the nodes of the demo share: a process and a folder of this run, on a port of its own.

use crate::{LOOK, READY, child::Child, place::Place};
use anyhow::{Context, bail};
use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    process::Command,
    time::{Duration, Instant},
};
use tokio::time::sleep;

const MISSING: &str = "redis-server is not installed, and nodes that are several share one (version 7 or later): \
    apt-get install redis-server, or brew install redis";

/// The process, and the port that it is to listen on.
pub fn start(place: &Place) -> anyhow::Result<(Child, u16)> {
    let port = TcpListener::bind(("127.0.0.1", 0)).context("no port is free")?.local_addr()?.port();
    let mut server = Command::new("redis-server");
    server.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"]).arg(place.fresh("redis")?);
    server.args(["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]);
    // Ctrl-C does not reach it: the nodes need it until they have ended.
    server.process_group(0);
    let started = Child::start("redis-server".to_owned(), server, place.log("redis"));
    match started {
        Err(error) if is_missing(&error) => bail!(MISSING),
        started => Ok((started?, port)),
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

pub async fn ready(server: &mut Child, port: u16) -> anyhow::Result<()> {
    let began = Instant::now();
    while !answers(port) {
        server.alive()?;
        if began.elapsed() > READY {
            bail!("redis-server did not answer within {} s\n{}", READY.as_secs(), server.log());
        }
        sleep(LOOK).await;
    }
    Ok(())
}

fn answers(port: u16) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(b"PING\r\n").ok()?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).ok()?;
        Some(&answer == b"+PONG")
    };
    ask().unwrap_or(false)
}
