//! Calls to nodes that may be dead, stopped or slow: a missing answer is not an error.

use serde_json::Value;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Makes a call, and returns the status and the body.
pub async fn call(url: &str, method: &str, path: &str, key: &str, body: &str) -> Option<(u16, String)> {
    timeout(CALL_TIMEOUT, exchange(url, method, path, key, body)).await.ok()?
}

async fn exchange(url: &str, method: &str, path: &str, key: &str, body: &str) -> Option<(u16, String)> {
    let address = url.strip_prefix("http://")?;
    let mut tcp = TcpStream::connect(address).await.ok()?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    tcp.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Makes a GET request, and returns the answer if it succeeds.
pub async fn get(url: &str, path: &str, key: &str) -> Option<Value> {
    let (status, body) = call(url, "GET", path, key, "").await?;
    serde_json::from_str(&body).ok().filter(|_| status == 200)
}
