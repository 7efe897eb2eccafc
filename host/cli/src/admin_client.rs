//! A client of a node's admin listener, for the commands that manage plugins.

use crate::api_key::read_api_key;
use anyhow::{Context, bail};
use axum::{
    body::{Body, to_bytes},
    http::{Request, Uri, header},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{path::PathBuf, time::Duration};
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

    /// Makes a call without a body and returns the node's answer. If the node refuses, its message is the
    /// error.
    pub(crate) async fn call(&self, method: &str, path: &str) -> anyhow::Result<Value> {
        self.call_within(CALL_TIMEOUT, AdminCall { method, path, signature: None, body: vec![] }).await
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
        let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if (200..300).contains(&status) {
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
        let port = if self.authority.contains(':') { "" } else { ":80" };
        let tcp = TcpStream::connect(format!("{}{port}", self.authority)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
        let connection = tokio::spawn(connection);
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
        let status = response.status().as_u16();
        let bytes = to_bytes(Body::new(response.into_body()), MAX_RESPONSE_BYTES).await?;
        connection.abort();
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }
}
