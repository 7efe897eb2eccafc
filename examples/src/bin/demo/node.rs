//! One node of the demo: how it is started, and where it says that it listens.

use crate::{LOOK, READY, child::Child, place::Place};
use anyhow::{Context, bail};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// Where a node listens.
pub struct Addresses {
    /// For clients.
    pub url: String,
    /// For operators.
    pub admin: String,
}

/// `number` counts from 1; `store` is a URL for nodes that share it.
pub fn start(place: &Place, number: u16, store: Option<&str>) -> anyhow::Result<Child> {
    let mut serve = place.program("switchyard");
    serve.args(["serve", "--json", "--config"]).arg(place.config());
    serve.env("SWITCHYARD_SERVER__LISTEN", free(8079 + number)?);
    serve.env("SWITCHYARD_ADMIN__LISTEN", free(9089 + number)?);
    match store {
        None => Child::start("the node".to_owned(), serve, place.log("node")),
        Some(store) => {
            serve.env("SWITCHYARD_STORE__URL", store);
            Child::start(format!("node {number}"), serve, place.log(&format!("node-{number}")))
        }
    }
}

/// The usual port, or any when somebody else has it.
fn free(port: u16) -> anyhow::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", port)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    Ok(listener.context("no port is free")?.local_addr()?.to_string())
}

/// The node says where it listens, and then whether it is ready.
pub async fn ready(node: &mut Child) -> anyhow::Result<Addresses> {
    let began = Instant::now();
    let mut said = None;
    while began.elapsed() < READY {
        node.alive()?;
        if let Some(line) = node.first_line()? {
            let addresses = addresses(&line)?;
            if is_ready(&addresses.admin) {
                return Ok(addresses);
            }
            said = Some(addresses.admin);
        }
        sleep(LOOK).await;
    }
    match said {
        Some(admin) => {
            bail!("{admin}/readyz did not answer 200 within {} s\n{}", READY.as_secs(), node.log())
        }
        None => bail!("the node did not say where it listens within {} s\n{}", READY.as_secs(), node.log()),
    }
}

fn addresses(line: &str) -> anyhow::Result<Addresses> {
    let said: serde_json::Value = serde_json::from_str(line).context("what the node said is no JSON")?;
    let text = |field: &str| said[field].as_str().map(str::to_owned);
    match (text("url"), text("admin")) {
        (Some(url), Some(admin)) => Ok(Addresses { url, admin }),
        _ => bail!("the node did not say its addresses: {line}"),
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
