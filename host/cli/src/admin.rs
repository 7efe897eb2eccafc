//! A client of a node's admin listener.

use super::client::key_of;
use anyhow::{Context, bail};
use axum::{
    body::{Body, to_bytes},
    http::{Request, Uri, header},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{path::PathBuf, time::Duration};
use tokio::{net::TcpStream, time::timeout};

/// A node compiles a plugin before it answers.
const PATIENCE: Duration = Duration::from_secs(60);
const LARGEST: usize = 64 << 20;

/// Where to, and as whom.
#[derive(clap::Args)]
pub(crate) struct AdminArgs {
    /// The node's admin listener
    #[arg(
        long,
        value_name = "URL",
        env = "SWITCHYARD_ADMIN",
        default_value = "http://127.0.0.1:9090",
        value_parser = admin_url
    )]
    admin: Uri,
    /// A file that holds a key with the scope admin; without it the key is in SWITCHYARD_KEY
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

fn admin_url(text: &str) -> Result<Uri, String> {
    match text.parse::<Uri>() {
        Ok(url) if url.scheme_str() == Some("http") && url.authority().is_some() => Ok(url),
        _ => Err("not an admin listener's URL, such as http://127.0.0.1:9090".to_owned()),
    }
}

pub(crate) struct Admin {
    authority: String,
    key: String,
}

impl Admin {
    pub(crate) fn open(args: &AdminArgs) -> anyhow::Result<Self> {
        let authority = args.admin.authority().expect("checked when it was read").to_string();
        Ok(Self { authority, key: key_of(args.key_file.as_deref())? })
    }

    /// What the node answers; its refusal is the error.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Vec<u8>) -> anyhow::Result<Value> {
        self.call_with(method, path, None, body).await
    }

    /// The same with one more header.
    pub(crate) async fn call_with(
        &self,
        method: &str,
        path: &str,
        header: Option<(&str, &str)>,
        body: Vec<u8>,
    ) -> anyhow::Result<Value> {
        let called = timeout(PATIENCE, self.exchange(method, path, header, body)).await;
        let late = || format!("{} does not answer", self.authority);
        let (status, text) = called.with_context(late)?.with_context(|| self.authority.clone())?;
        let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        match answer["error"]["message"].as_str() {
            Some(message) => bail!("{message}"),
            None => bail!("{} answers {status}, which no admin listener does", self.authority),
        }
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        header: Option<(&str, &str)>,
        body: Vec<u8>,
    ) -> anyhow::Result<(u16, String)> {
        let port = if self.authority.contains(':') { "" } else { ":80" };
        let tcp = TcpStream::connect(format!("{}{port}", self.authority)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
        let serving = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let response = sender.send_request(request.body(Body::from(body))?).await?;
        let status = response.status().as_u16();
        let bytes = to_bytes(Body::new(response.into_body()), LARGEST).await?;
        serving.abort();
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }
}
