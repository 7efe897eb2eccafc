//! The Redis that the nodes of the demo share: starts it on a free port with an empty folder, and waits until
//! it is ready.

use crate::{POLL_INTERVAL, READY_TIMEOUT, child::ChildProcess, files::DemoFiles};
use anyhow::{Context, bail};
use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    process::Command,
    time::{Duration, Instant},
};
use tokio::time::sleep;

const NOT_INSTALLED: &str = "--nodes: redis-server is not installed, and several nodes need one to share (version 7 or \
    later): apt-get install redis-server, or brew install redis";

/// Starts Redis and returns its port.
pub fn start(files: &DemoFiles) -> anyhow::Result<(ChildProcess, u16)> {
    let port = TcpListener::bind(("127.0.0.1", 0)).context("no free port on 127.0.0.1")?.local_addr()?.port();
    let mut server = Command::new("redis-server");
    server
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"])
        .arg(files.create_empty_folder("redis")?);
    server.args(["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]);
    // In a process group of its own, so that Ctrl-C does not end it before the nodes, which need it until
    // they have ended.
    server.process_group(0);
    let started = ChildProcess::start("redis-server".to_owned(), server, files.log("redis"));
    match started {
        Err(error) if is_not_found(&error) => bail!(NOT_INSTALLED),
        started => Ok((started?, port)),
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

pub async fn wait_until_ready(server: &mut ChildProcess, port: u16) -> anyhow::Result<()> {
    let began = Instant::now();
    while !answers(port) {
        server.ensure_running()?;
        if began.elapsed() > READY_TIMEOUT {
            bail!("redis-server did not answer within {} s\n{}", READY_TIMEOUT.as_secs(), server.log_tail());
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

fn answers(port: u16) -> bool {
    let request = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(b"PING\r\n").ok()?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).ok()?;
        Some(&answer == b"+PONG")
    };
    request().unwrap_or(false)
}
