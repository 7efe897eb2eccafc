//! A client of a node's admin listener, for the commands that manage plugins.

use crate::api_key::read_api_key;
use anyhow::{Context, bail};
use axum::{
    body::{Body, to_bytes},
    http::{Request, Uri, header},
};
use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use switchyard_plugin::MAX_COMPILE_TIME;
use tokio::{net::TcpStream, time::timeout};

/// Limits a call that reads or changes something, without the time to compile a plugin.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Limits a call for which the node compiles a plugin before it answers.
const DEPLOY_TIMEOUT: Duration = MAX_COMPILE_TIME.saturating_add(CALL_TIMEOUT);
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// The options of a command that calls the admin listener.
#[derive(clap::Args)]
pub(crate) struct AdminArgs {
    /// The URL of the node's admin listener
    #[arg(
        long,
        value_name = "URL",
        env = "SWITCHYARD_ADMIN",
        default_value = "http://127.0.0.1:9090",
        value_parser = parse_url
    )]
    admin: Uri,
    /// A file that contains an API key with the scope admin [default: the key in SWITCHYARD_KEY]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_url(text: &str) -> Result<Uri, String> {
    match text.parse::<Uri>() {
        Ok(url) if url.scheme_str() == Some("http") && url.authority().is_some() => Ok(url),
        Ok(url) if url.scheme_str() == Some("https") => {
            Err("the admin listener does not use TLS; write http://, not https://".to_owned())
        }
        _ => Err("expected the URL of an admin listener such as http://127.0.0.1:9090".to_owned()),
    }
}

/// Whether this answer comes from a listener for clients, which has no path but that of its WebSocket.
fn is_client_listener(status: u16, message: &str) -> bool {
    status == 404 && message.contains("the WebSocket is at ")
}

/// A call of the admin API.
pub(crate) struct AdminCall<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// The signature of the plugin in the body.
    pub(crate) signature: Option<&'a str>,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct AdminClient {
    authority: String,
    key: String,
}

impl AdminClient {
    pub(crate) fn new(args: &AdminArgs) -> anyhow::Result<Self> {
        let authority = args.admin.authority().expect("the parser requires it").to_string();
        Ok(Self { authority, key: read_api_key(args.key_file.as_deref())? })
    }

    /// For the node of this process.
    pub(crate) fn local(address: SocketAddr, key: String) -> Self {
        Self { authority: address.to_string(), key }
    }

    /// Makes a call without a body and returns the node's answer. If the node refuses, its message is the
    /// error.
    pub(crate) async fn call(&self, method: &str, path: &str) -> anyhow::Result<Value> {
        self.call_within(CALL_TIMEOUT, AdminCall { method, path, signature: None, body: vec![] }).await
    }

    /// Makes a call whose answer is lines that arrive over time, and passes each on as it arrives. Waits as long
    /// as the node does.
    pub(crate) async fn read_lines(
        &self,
        path: &str,
        mut pass_on: impl FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let failed = || format!("--admin http://{}", self.authority);
        let too_late = || format!("{}: no answer within {} s", failed(), CALL_TIMEOUT.as_secs());
        let call = AdminCall { method: "GET", path, signature: None, body: vec![] };
        let opened = timeout(CALL_TIMEOUT, self.open(call)).await.with_context(too_late)?;
        let (status, body) = opened.with_context(failed)?;
        if status != 200 {
            let text = to_bytes(body, MAX_RESPONSE_BYTES).await.with_context(failed)?;
            return self.check(status, &String::from_utf8_lossy(&text)).map(drop);
        }
        let (mut parts, mut received) = (body.into_data_stream(), Vec::new());
        while let Some(part) = parts.next().await {
            received.extend_from_slice(&part.with_context(failed)?);
            while let Some(end) = received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = received.drain(..=end).collect();
                pass_on(String::from_utf8_lossy(&line[..end]).as_ref())?;
            }
            if received.len() > MAX_RESPONSE_BYTES {
                bail!("{}: a line has more than {MAX_RESPONSE_BYTES} bytes", failed());
            }
        }
        Ok(())
    }

    /// Like [`Self::call`], for a call that may compile a plugin.
    pub(crate) async fn deploy(&self, call: AdminCall<'_>) -> anyhow::Result<Value> {
        self.call_within(DEPLOY_TIMEOUT, call).await
    }

    async fn call_within(&self, limit: Duration, call: AdminCall<'_>) -> anyhow::Result<Value> {
        let response = timeout(limit, self.exchange(call)).await;
        let too_late =
            || format!("--admin http://{}: no answer within {} s", self.authority, limit.as_secs());
        let failed = || format!("--admin http://{}", self.authority);
        let (status, text) = response.with_context(too_late)?.with_context(failed)?;
        self.check(status, &text)
    }

    /// The answer, or the node's message as an error.
    fn check(&self, status: u16, text: &str) -> anyhow::Result<Value> {
        let parsed = serde_json::from_str(text);
        let is_answer = parsed.is_ok() || text.is_empty();
        let answer: Value = parsed.unwrap_or(Value::Null);
        if (200..300).contains(&status) && is_answer {
            return Ok(answer);
        }
        match answer["error"]["message"].as_str() {
            Some(message) if is_client_listener(status, message) => bail!(
                "--admin http://{}: {message}; --admin must be the URL of the admin listener (admin.listen)",
                self.authority
            ),
            Some(message) => bail!("{message}"),
            None => bail!(
                "--admin http://{}: unexpected answer with status {status}; is this an admin listener?",
                self.authority
            ),
        }
    }

    /// Returns the status and the body of the response.
    async fn exchange(&self, call: AdminCall<'_>) -> anyhow::Result<(u16, String)> {
        let (status, body) = self.open(call).await?;
        let bytes = to_bytes(body, MAX_RESPONSE_BYTES).await?;
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Sends the request on a connection of its own. The connection ends with the body.
    async fn open(&self, call: AdminCall<'_>) -> anyhow::Result<(u16, Body)> {
        let port = if self.authority.contains(':') { "" } else { ":80" };
        let tcp = TcpStream::connect(format!("{}{port}", self.authority)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(header::HOST, &self.authority)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key));
        if let Some(signature) = call.signature {
            request = request.header("X-Signature", signature);
        }
        let response = sender.send_request(request.body(Body::from(call.body))?).await;
        let response = match response {
            Err(error) if error.is_parse() => bail!(
                "the answer is not HTTP, so this is probably a port with TLS; --admin must be the URL of the admin \
                 listener (admin.listen), which does not use TLS"
            ),
            response => response?,
        };
        Ok((response.status().as_u16(), Body::new(response.into_body())))
    }
}
