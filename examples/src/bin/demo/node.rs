//! One node of the demo: starts it, and waits until it is ready.

use crate::{POLL_INTERVAL, READY_TIMEOUT, child::ChildProcess, files::DemoFiles};
use anyhow::{Context, bail};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// The addresses of a node, as it prints them.
pub struct NodeAddresses {
    /// The WebSocket URL for clients.
    pub url: String,
    /// The HTTP URL for operators.
    pub admin: String,
}

/// Starts node `number`, counted from 1. `store` is the URL of the store that several nodes share.
pub fn start(files: &DemoFiles, number: u16, store: Option<&str>) -> anyhow::Result<ChildProcess> {
    let mut serve = files.program("switchyard");
    serve.args(["serve", "--json", "--config"]).arg(files.config());
    serve.env("SWITCHYARD_SERVER__LISTEN", free_address(8079 + number)?);
    serve.env("SWITCHYARD_ADMIN__LISTEN", free_address(9089 + number)?);
    match store {
        None => ChildProcess::start("the node".to_owned(), serve, files.log("node")),
        Some(store) => {
            serve.env("SWITCHYARD_STORE__URL", store);
            ChildProcess::start(format!("node {number}"), serve, files.log(&format!("node-{number}")))
        }
    }
}

/// An address with this port, or with any free port if it is taken.
fn free_address(port: u16) -> anyhow::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", port)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    Ok(listener.context("no free port on 127.0.0.1")?.local_addr()?.to_string())
}

/// Waits until the node has printed its addresses and is ready.
pub async fn wait_until_ready(node: &mut ChildProcess) -> anyhow::Result<NodeAddresses> {
    let began = Instant::now();
    let mut admin_url = None;
    while began.elapsed() < READY_TIMEOUT {
        node.ensure_running()?;
        if let Some(line) = node.first_json_line()? {
            let addresses = parse_addresses(&line)?;
            if is_ready(&addresses.admin) {
                return Ok(addresses);
            }
            admin_url = Some(addresses.admin);
        }
        sleep(POLL_INTERVAL).await;
    }
    let (seconds, log) = (READY_TIMEOUT.as_secs(), node.log_tail());
    match admin_url {
        Some(admin) => bail!("{admin}/readyz did not answer 200 within {seconds} s\n{log}"),
        None => bail!("the node did not print its addresses within {seconds} s\n{log}"),
    }
}

fn parse_addresses(line: &str) -> anyhow::Result<NodeAddresses> {
    let json: serde_json::Value =
        serde_json::from_str(line).with_context(|| format!("the node printed invalid JSON: {line}"))?;
    let text = |field: &str| json[field].as_str().map(str::to_owned);
    match (text("url"), text("admin")) {
        (Some(url), Some(admin)) => Ok(NodeAddresses { url, admin }),
        _ => bail!("the node printed a line without addresses: {line}"),
    }
}

fn is_ready(admin: &str) -> bool {
    let request = || {
        let host = admin.strip_prefix("http://")?;
        let mut stream = TcpStream::connect(host).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        write!(stream, "GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).ok()?;
        Some(&status == b"HTTP/1.1 200")
    };
    request().unwrap_or(false)
}
