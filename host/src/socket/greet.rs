//! From a WebSocket to a conversation: who it is, and whether it is let in.

use super::{
    Socket, Welcome,
    ending::{LINGER, farewell, linger, violation},
};
use crate::{
    close::Close,
    hub::Permit,
    key::Key,
    limits::Unauthenticated,
    protocol::Code,
    session::{Client, Conversation, Greeting, Rejected, Services},
};
use futures_util::{SinkExt, StreamExt};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

/// A peer whose upgrade was good.
pub struct Peer {
    pub client: Client,
    /// The key that came with the upgrade.
    pub presented: Option<(Arc<Key>, Permit)>,
    /// Why it is to be turned away with a close code that a browser can see.
    pub rejected: Option<Rejected>,
    pub unauthenticated: Arc<Unauthenticated>,
}

/// Awaits the first frame; `None`: the peer was turned away. `draining` ends that; later, connections are closed through their
/// outbox.
pub async fn greet(
    mut socket: Box<Socket>,
    peer: Peer,
    services: Services,
    draining: CancellationToken,
) -> Option<Welcome> {
    let Peer { client, presented, rejected, unauthenticated } = peer;
    let (hub, heartbeat) = (services.hub.clone(), services.config.heartbeat);
    let greeted = match rejected {
        Some(rejected) => Err(Some(rejected)),
        None => tokio::select! {
            greeted = first(&mut socket, services, client, presented, &unauthenticated) => greeted,
            () = draining.cancelled() => {
                Err(Some(Rejected { code: None, frame: String::new(), close: Close::Draining(0) }))
            }
        },
    };
    match greeted {
        Ok(conversation) => {
            return Some(Welcome { socket, conversation: Box::new(conversation), heartbeat, hub });
        }
        Err(None) => farewell(socket).await,
        Err(Some(Rejected { code, frame, close })) => {
            if let Some(code) = code {
                hub.metrics.error(code);
            }
            if let Some(code @ (Code::InvalidKey | Code::ExpiredKey)) = code {
                unauthenticated.refused(code).await;
            }
            if !frame.is_empty() {
                timeout(LINGER, socket.send(Message::text(frame))).await.ok();
            }
            hub.metrics.close(close);
            linger(socket, close).await;
        }
    }
    None
}

/// In which what has come is read.
const UNREAD: Duration = Duration::from_millis(100);

/// The first frame. `Err(None)`: the peer is gone.
async fn first(
    socket: &mut Socket,
    services: Services,
    client: Client,
    presented: Option<(Arc<Key>, Permit)>,
    unauthenticated: &Unauthenticated,
) -> Result<Conversation, Option<Rejected>> {
    let patience = services.config.authenticate;
    let first = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Binary(_))) => return Err(Some(Greeting::binary())),
                Some(Ok(Message::Close(_))) | None => return Err(None),
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    let broken = |close| Rejected { code: None, frame: String::new(), close };
                    return Err(violation(error).map(broken));
                }
            }
        }
    };
    tokio::pin!(first);
    let mut came = timeout(patience, &mut first).await;
    if came.is_err() {
        // It may have come in time and wait to be read: the process may have been stopped.
        came = timeout(UNREAD, first).await;
    }
    let Ok(first) = came else {
        return Err(Some(Greeting::timeout(patience.as_millis())));
    };
    let text = first?;
    let pipe = socket.get_ref().wire().clone();
    let (key, permit) = presented.unzip();
    let keys = services.keys.load_full();
    let greeted = Greeting::new(key).frame(&text, &keys)?;
    unauthenticated.authenticated();
    // Boxed, so that nobody who says nothing yet has room for it.
    Ok(Box::pin(Conversation::open(services, greeted, client, permit, pipe)).await?)
}
