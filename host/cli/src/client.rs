//! A client of the wire protocol: one session over as many connections as it takes. It reconnects and resumes
//! as the close codes ask; its users remember what they have published and received.

mod backoff;
mod connect_args;
mod loss;
mod tls;

pub use connect_args::ConnectArgs;
pub use loss::ConnectionLoss;

use crate::{
    api_key::read_api_key,
    output::{InvalidArguments, note},
};
use anyhow::{anyhow, bail};
use backoff::ReconnectBackoff;
use futures_util::{SinkExt, StreamExt};
use loss::Retry;
use std::time::Duration;
use switchyard_protocol::{
    client::{ClientRequest, ServerError, ServerFrame, parse},
    reply::Connected,
    request::Credentials,
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{
        self, Message, Utf8Bytes,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

/// Limits connecting with the upgrade, and then waiting for the answer to `connect`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After a connection that lasted this long, the reconnect delays begin small again.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// Limits waiting for the server's close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

type ClientSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// One session on a server, on one connection after another.
pub struct WireClient {
    url: String,
    key: String,
    connector: Option<Connector>,
    /// How long to retry after a connection is lost; `None` means forever.
    give_up_after: Option<Duration>,
    session: Option<String>,
    backoff: ReconnectBackoff,
    /// `None` from a loss until [`WireClient::recover`] has connected again.
    connection: Option<ActiveConnection>,
}

/// A connection whose `connect` request was accepted.
struct ActiveConnection {
    socket: ClientSocket,
    since: Instant,
    last_received: Instant,
    /// The server sends pings more often than this, so a longer silence means that it is gone.
    max_silence: Duration,
}

impl WireClient {
    /// Connects to the server. If it cannot be reached, or rejects the key, that is an error at once. If it
    /// asks to wait, as a draining node does, this retries for `give_up_after`.
    pub async fn open(
        args: &ConnectArgs,
        give_up_after: Option<Duration>,
    ) -> anyhow::Result<(Self, Connected<ServerError>)> {
        let key = read_api_key(args.key_file.as_deref())?;
        let connector = match &args.ca {
            Some(_) if !args.url.starts_with("wss:") => {
                let url = without_credentials(&args.url);
                return Err(InvalidArguments(format!("--ca needs a wss:// URL, but --url is {url}")).into());
            }
            Some(file) => Some(Connector::Rustls(tls::trusting_only(file)?)),
            None => {
                tls::install_provider();
                None
            }
        };
        let url = args.url.clone();
        let (session, backoff, connection) = (None, ReconnectBackoff::default(), None);
        let mut client = Self { url, key, connector, give_up_after, session, backoff, connection };
        match client.connect().await {
            Ok(connected) => Ok((client, connected)),
            Err(loss @ (ConnectionLoss::Broken(_) | ConnectionLoss::Permanent(_))) => {
                Err(anyhow!("{}: {loss}", without_credentials(&client.url)))
            }
            Err(loss) => {
                let connected = client.recover(loss).await?;
                Ok((client, connected))
            }
        }
    }

    /// Waits for the next text frame. Cancel safe.
    pub async fn next(&mut self) -> Result<Utf8Bytes, ConnectionLoss> {
        let connection = self.connection()?;
        loop {
            let deadline = connection.last_received + connection.max_silence;
            let Ok(next) = timeout_at(deadline, connection.socket.next()).await else {
                return Err(ConnectionLoss::Silent(connection.max_silence));
            };
            connection.last_received = Instant::now();
            match next {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Close(frame))) => return Err(ConnectionLoss::closed(frame)),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(ConnectionLoss::broken("the connection broke", error)),
                None => {
                    return Err(ConnectionLoss::Broken("the connection ended without a close frame".into()));
                }
            }
        }
    }

    /// Sends a text frame.
    pub async fn send(&mut self, text: impl Into<Utf8Bytes>) -> Result<(), ConnectionLoss> {
        let connection = self.connection()?;
        match connection.socket.send(Message::Text(text.into())).await {
            Ok(()) => Ok(()),
            // The server's close frame says more than this error.
            Err(error) => match timeout(CLOSE_TIMEOUT, self.close_frame()).await {
                Ok(Some(loss)) => Err(loss),
                _ => Err(ConnectionLoss::broken("the connection broke", error)),
            },
        }
    }

    fn connection(&mut self) -> Result<&mut ActiveConnection, ConnectionLoss> {
        self.connection.as_mut().ok_or_else(|| ConnectionLoss::Broken("not connected".into()))
    }

    async fn close_frame(&mut self) -> Option<ConnectionLoss> {
        loop {
            match self.next().await {
                Ok(_) => {}
                Err(loss @ ConnectionLoss::Closed { .. }) => return Some(loss),
                Err(_) => return None,
            }
        }
    }

    /// Connects again, when and if the loss allows it, and resumes the session. Fails if another attempt is
    /// pointless or after `give_up_after`.
    pub async fn recover(&mut self, loss: ConnectionLoss) -> anyhow::Result<Connected<ServerError>> {
        let was_stable =
            self.connection.take().is_some_and(|connection| connection.since.elapsed() > STABLE_AFTER);
        if was_stable {
            self.backoff = ReconnectBackoff::default();
        }
        let began = Instant::now();
        let mut loss = loss;
        loop {
            let delay = match loss.retry() {
                Retry::Never => bail!("{}: {loss}", without_credentials(&self.url)),
                Retry::BackOff => self.backoff.next_delay(),
                Retry::After(delay) => delay,
            };
            if let Some(limit) = self.give_up_after.filter(|limit| began.elapsed() + delay > *limit) {
                bail!("{}: {loss}; gave up after {} s", without_credentials(&self.url), limit.as_secs());
            }
            note(format_args!("{loss}; reconnecting in {:.1} s", delay.as_secs_f64()));
            sleep(delay).await;
            match self.connect().await {
                Ok(connected) => return Ok(connected),
                Err(again) => loss = again,
            }
        }
    }

    /// Opens one connection, and resumes the session if there is one.
    async fn connect(&mut self) -> Result<Connected<ServerError>, ConnectionLoss> {
        let upgrade = connect_async_tls_with_config(&self.url, None, true, self.connector.clone());
        let (mut socket, _) = match timeout(CONNECT_TIMEOUT, upgrade).await {
            Err(_) => {
                let text = format!("the server did not answer within {} s", CONNECT_TIMEOUT.as_secs());
                return Err(ConnectionLoss::Broken(text));
            }
            Ok(Ok(upgraded)) => upgraded,
            Ok(Err(tungstenite::Error::Http(response))) => {
                return Err(ConnectionLoss::upgrade_refused(&response));
            }
            Ok(Err(error)) => {
                return Err(ConnectionLoss::cannot_connect(error, self.url.starts_with("wss:")));
            }
        };
        let credentials = Some(Credentials::ApiKey((&*self.key).into()));
        let request = ClientRequest::Connect { credentials, session: self.session.as_deref() };
        let request = request.encode(Some(0.into()));
        let handshake = timeout(CONNECT_TIMEOUT, async {
            let sent = socket.send(Message::Text(request.into())).await;
            sent.map_err(|error| ConnectionLoss::broken("the connection broke", error))?;
            receive_connected(&mut socket).await
        });
        let Ok(connected) = handshake.await else {
            let text = format!("the server did not answer connect within {} s", CONNECT_TIMEOUT.as_secs());
            return Err(ConnectionLoss::Broken(text));
        };
        let connected = connected?;
        self.session = Some(connected.session.clone());
        let (now, max_silence) = (Instant::now(), connected.heartbeat.max_silence());
        self.connection = Some(ActiveConnection { socket, since: now, last_received: now, max_silence });
        Ok(connected)
    }

    /// Closes the connection, and waits a moment for the server to do the same.
    pub async fn close(mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        let close = async {
            connection.socket.close(Some(frame)).await.ok()?;
            while let Some(Ok(_)) = connection.socket.next().await {}
            Some(())
        };
        timeout(CLOSE_TIMEOUT, close).await.ok();
    }
}

/// Waits for `connected`. If the server closes instead, the loss combines its error frame with the close code.
async fn receive_connected(socket: &mut ClientSocket) -> Result<Connected<ServerError>, ConnectionLoss> {
    let mut error_text = None;
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => match parse(&text) {
                Ok((_, ServerFrame::Connected(connected))) => return Ok(connected),
                Ok((_, ServerFrame::Error(error))) => error_text = Some(error.to_string()),
                Err(error) if error.kind.as_deref() == Some("connected") => {
                    return Err(ConnectionLoss::Permanent(error.to_string()));
                }
                _ => {
                    return Err(ConnectionLoss::Permanent(
                        "the server does not speak the Switchyard protocol".into(),
                    ));
                }
            },
            Some(Ok(Message::Close(frame))) => {
                return Err(ConnectionLoss::closed(frame).with_error(error_text));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) if error_text.is_none() => {
                return Err(ConnectionLoss::broken("the connection broke", error));
            }
            _ => {
                let text = error_text.unwrap_or("the connection ended before the server accepted it".into());
                return Err(ConnectionLoss::Broken(text));
            }
        }
    }
}

/// The URL without user and password. They mean nothing here, but may be valid elsewhere.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://…{}", &rest[at..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_user_and_password() {
        assert_eq!(without_credentials("wss://user:secret@x:1/v2/@realtime"), "wss://…@x:1/v2/@realtime");
        assert_eq!(without_credentials("ws://x/v2/@realtime"), "ws://x/v2/@realtime");
    }
}
