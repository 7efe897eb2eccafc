//! A client of the wire protocol: one session over as many connections as it takes. Says when to come back and does
//! it; what was published or heard is its users' to remember.

mod backoff;
mod lost;
mod trust;

pub use lost::Lost;

use anyhow::{Context, anyhow, bail};
use backoff::Backoff;
use futures_util::{SinkExt, StreamExt};
use lost::Advice;
use std::{
    env::VarError,
    path::{Path, PathBuf},
    time::Duration,
};
use switchyard_process::file::read_input;
use switchyard_protocol::{
    client::{ClientRequest, ServerError, ServerFrame, parse},
    reply,
};
use switchyard_server::config::is_open;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{
        self, Message, Utf8Bytes,
        http::Uri,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

/// What the server says when it lets the client in.
pub type Connected = reply::Connected<ServerError>;

/// Connecting and the upgrade; then again, the answer to `connect`.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection that lived so long shows that the server takes us: the next wait begins small again.
const SETTLED: Duration = Duration::from_secs(10);
/// How long the server may take to answer a close.
const GOODBYE: Duration = Duration::from_secs(2);

/// Where to, and as whom.
#[derive(clap::Args, Clone, Debug)]
pub struct Connect {
    /// The WebSocket, such as ws://127.0.0.1:8080/v2/realtime
    #[arg(long, value_name = "URL", value_parser = websocket_url)]
    pub url: String,
    /// A file that holds the key; without it the key is in SWITCHYARD_KEY
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// PEM certificates to trust instead of the public ones: an authority's, or a server's own
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

fn websocket_url(text: &str) -> Result<String, String> {
    let good = text.parse::<Uri>().is_ok_and(|url| {
        matches!(url.scheme_str(), Some("ws" | "wss")) && url.host().is_some_and(|host| !host.is_empty())
    });
    match good {
        true => Ok(text.to_owned()),
        false => Err("not a WebSocket's URL, such as ws://127.0.0.1:8080/v2/realtime".to_owned()),
    }
}

impl Connect {
    fn key(&self) -> anyhow::Result<String> {
        key_of(self.key_file.as_deref())
    }
}

/// The key of a file, or of the environment. It is never an argument, because everyone on a machine sees those.
pub fn key_of(file: Option<&Path>) -> anyhow::Result<String> {
    let (key, place) = match file {
        Some(file) => {
            if is_open(file) {
                let name = file.display();
                note(format_args!(
                    "every user of this machine may read {name}, which holds a key: `chmod o= {name}`"
                ));
            }
            let key = read_input(file).with_context(|| file.display().to_string())?;
            (key, file.display().to_string())
        }
        None => match std::env::var("SWITCHYARD_KEY") {
            Ok(key) => (key, "SWITCHYARD_KEY".to_owned()),
            Err(VarError::NotUnicode(_)) => bail!("SWITCHYARD_KEY is not text in UTF-8, as every key is"),
            Err(VarError::NotPresent) => {
                bail!("no key: set SWITCHYARD_KEY or name a file that holds it with --key-file")
            }
        },
    };
    match key.trim() {
        "" => bail!("{place} holds no key"),
        key => Ok(key.to_owned()),
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub struct Client {
    url: String,
    key: String,
    connector: Option<Connector>,
    /// How long to go on trying when the connection is lost; `None` is for ever.
    give_up: Option<Duration>,
    session: Option<String>,
    backoff: Backoff,
    /// Only between [`Client::open`] and the first loss, or between a recovery and the next.
    link: Option<Link>,
}

/// A connection that was let in.
struct Link {
    socket: Socket,
    since: Instant,
    heard: Instant,
    /// The server pings within this time, or it is gone.
    silence: Duration,
}

impl Client {
    /// Connects. A server that is not there is an error at once; one that asks to wait is waited for.
    pub async fn open(connect: &Connect, give_up: Option<Duration>) -> anyhow::Result<(Self, Connected)> {
        let key = connect.key()?;
        let connector = match &connect.ca {
            Some(_) if !connect.url.starts_with("wss:") => {
                bail!("--ca is for a wss:// URL, '{}' is none", shown(&connect.url))
            }
            Some(file) => Some(Connector::Rustls(trust::only(file)?)),
            None => {
                trust::install_provider();
                None
            }
        };
        let url = connect.url.clone();
        let (session, backoff, link) = (None, Backoff::default(), None);
        let mut client = Self { url, key, connector, give_up, session, backoff, link };
        match client.attempt().await {
            Ok(connected) => Ok((client, connected)),
            Err(lost @ (Lost::Broken(_) | Lost::Final(_))) => Err(anyhow!("{}: {lost}", shown(&client.url))),
            Err(lost) => {
                let connected = client.recover(lost).await?;
                Ok((client, connected))
            }
        }
    }

    /// The next text frame. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Utf8Bytes, Lost> {
        let Some(link) = &mut self.link else { return Err(Lost::Broken("not connected".into())) };
        loop {
            let Ok(next) = timeout_at(link.heard + link.silence, link.socket.next()).await else {
                return Err(Lost::Silent(link.silence));
            };
            link.heard = Instant::now();
            match next {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Close(frame))) => return Err(Lost::closed(frame)),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Lost::broken("the connection broke", error)),
                None => return Err(Lost::Broken("the connection ended without a close".into())),
            }
        }
    }

    pub async fn send(&mut self, text: impl Into<Utf8Bytes>) -> Result<(), Lost> {
        let Some(link) = &mut self.link else { return Err(Lost::Broken("not connected".into())) };
        match link.socket.send(Message::Text(text.into())).await {
            Ok(()) => Ok(()),
            // The server's close says more than that writing failed.
            Err(error) => match timeout(GOODBYE, self.last_words()).await {
                Ok(Some(lost)) => Err(lost),
                _ => Err(Lost::broken("the connection broke", error)),
            },
        }
    }

    async fn last_words(&mut self) -> Option<Lost> {
        loop {
            match self.next().await {
                Ok(_) => {}
                Err(lost @ Lost::Closed { .. }) => return Some(lost),
                Err(_) => return None,
            }
        }
    }

    /// Connects again as the loss asks for, and resumes the session. Fails when there is no point in trying.
    pub async fn recover(&mut self, lost: Lost) -> anyhow::Result<Connected> {
        let settled = self.link.take().is_some_and(|link| link.since.elapsed() > SETTLED);
        if settled {
            self.backoff = Backoff::default();
        }
        let began = Instant::now();
        let mut lost = lost;
        loop {
            let wait = match lost.advice() {
                Advice::Stop => bail!("{}: {lost}", shown(&self.url)),
                Advice::BackOff => self.backoff.next(),
                Advice::After(wait) => wait,
            };
            if let Some(most) = self.give_up.filter(|most| began.elapsed() + wait > *most) {
                bail!("{}: {lost}; gave up after {} s", shown(&self.url), most.as_secs());
            }
            note(format_args!("{lost}; connecting again in {:.1} s", wait.as_secs_f64()));
            sleep(wait).await;
            match self.attempt().await {
                Ok(connected) => return Ok(connected),
                Err(error) => lost = error,
            }
        }
    }

    async fn attempt(&mut self) -> Result<Connected, Lost> {
        let upgrade = connect_async_tls_with_config(&self.url, None, true, self.connector.clone());
        let (mut socket, _) = match timeout(PATIENCE, upgrade).await {
            Err(_) => return Err(Lost::Broken(format!("no answer within {} s", PATIENCE.as_secs()))),
            Ok(Ok(upgraded)) => upgraded,
            Ok(Err(tungstenite::Error::Http(answer))) => return Err(Lost::answered(&answer)),
            Ok(Err(error)) => return Err(Lost::broken("cannot connect", error)),
        };
        let frame = ClientRequest::Connect { api_key: Some(&self.key), session: self.session.as_deref() };
        let frame = frame.encode(Some(0.into()));
        let greeted = timeout(PATIENCE, async {
            let sent = socket.send(Message::Text(frame.into())).await;
            sent.map_err(|error| Lost::broken("the connection broke", error))?;
            greeting(&mut socket).await
        });
        let Ok(connected) = greeted.await else {
            return Err(Lost::Broken(format!("no answer to connect within {} s", PATIENCE.as_secs())));
        };
        let connected = connected?;
        self.session = Some(connected.session.clone());
        let (now, silence) = (Instant::now(), connected.heartbeat.max_silence());
        self.link = Some(Link { socket, since: now, heard: now, silence });
        Ok(connected)
    }

    /// Says goodbye; a server that does not answer is left.
    pub async fn close(mut self) {
        let Some(mut link) = self.link.take() else { return };
        let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        let goodbye = async {
            link.socket.close(Some(frame)).await.ok()?;
            while let Some(Ok(_)) = link.socket.next().await {}
            Some(())
        };
        timeout(GOODBYE, goodbye).await.ok();
    }
}

/// `connected`, or why not: the sentence of the error frame with the code of the close that follows.
async fn greeting(socket: &mut Socket) -> Result<Connected, Lost> {
    let mut said = None;
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => match parse(&text) {
                Ok((_, ServerFrame::Connected(connected))) => return Ok(connected),
                Ok((_, ServerFrame::Error(error))) => said = Some(error.to_string()),
                Err(error) if error.kind.as_deref() == Some("connected") => {
                    return Err(Lost::Final(error.to_string()));
                }
                _ => return Err(Lost::Final("what answers there is no switchyard".into())),
            },
            Some(Ok(Message::Close(frame))) => return Err(Lost::closed(frame).because(said)),
            Some(Ok(_)) => {}
            Some(Err(error)) if said.is_none() => return Err(Lost::broken("the connection broke", error)),
            _ => {
                return Err(Lost::Broken(
                    said.unwrap_or("the connection ended before connected came".into()),
                ));
            }
        }
    }
}

/// A URL without its user and password, which mean nothing here and may be good elsewhere.
fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://…{}", &rest[at..]),
        None => url.to_owned(),
    }
}

/// What a person should know while work goes on.
pub fn note(text: impl std::fmt::Display) {
    crate::output::remark(format_args!("switchyard: {text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_user_and_password() {
        assert_eq!(shown("wss://user:secret@x:1/v2/@realtime"), "wss://…@x:1/v2/@realtime");
        assert_eq!(shown("ws://x/v2/@realtime"), "ws://x/v2/@realtime");
    }

    #[test]
    fn only_a_websockets_url_is_taken() {
        for good in ["ws://127.0.0.1:8080/v2/realtime", "wss://example.org", "ws://[::1]:8080/"] {
            assert_eq!(websocket_url(good).unwrap(), good);
        }
        for bad in ["http://127.0.0.1:8080/", "127.0.0.1:8080", "ws://", ""] {
            assert!(websocket_url(bad).unwrap_err().contains("such as ws://"), "{bad}");
        }
    }

    #[test]
    fn a_key_comes_from_a_file_without_its_line_end() {
        let file = std::env::temp_dir().join(format!("switchyard-key-{}", std::process::id()));
        let mut connect = Connect { url: "ws://x/".into(), key_file: Some(file.clone()), ca: None };
        std::fs::write(&file, "sk_1\n").unwrap();
        assert_eq!(connect.key().unwrap(), "sk_1");
        std::fs::write(&file, "\u{feff}sk_1\r\n").unwrap();
        assert_eq!(connect.key().unwrap(), "sk_1");
        std::fs::write(&file, "\n").unwrap();
        assert!(connect.key().unwrap_err().to_string().ends_with("holds no key"));
        std::fs::remove_file(&file).unwrap();
        connect.key_file = Some(file.clone());
        assert!(connect.key().unwrap_err().to_string().contains(&file.display().to_string()));
    }
}
