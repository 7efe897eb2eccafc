//! One connection of a client. Records each frame that is sent or received. Decides nothing.

use super::{actor::Shared, transcript::What};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// After this time, a client considers a node dead that has not accepted it.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(2500);

pub enum Order {
    Send(Value),
    Deafen,
    Hear,
    Cut,
}

/// Runs the connection from the first byte to the end.
pub async fn run(
    client: Arc<Shared>,
    id: u32,
    url: String,
    hello: Value,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let end = Instant::now() + CONNECT_TIMEOUT;
    let mut socket = match timeout_at(end, connect_async(url)).await {
        Ok(Ok((socket, _))) => socket,
        Ok(Err(_)) => return client.take(id, What::Closed(None)),
        Err(_) => return client.take(id, What::Cut),
    };
    client.take(id, What::Sent(hello.clone()));
    if socket.send(Message::text(hello.to_string())).await.is_err() {
        return client.take(id, What::Closed(None));
    }
    let (mut is_in, mut reads) = (false, true);
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Send(frame)) => {
                    client.take(id, What::Sent(frame.clone()));
                    if socket.send(Message::text(frame.to_string())).await.is_err() {
                        return client.take(id, What::Closed(None));
                    }
                }
                Some(Order::Deafen) => {
                    reads = false;
                    client.take(id, What::Deaf);
                }
                Some(Order::Hear) => {
                    reads = true;
                    client.take(id, What::Hears);
                }
                Some(Order::Cut) | None => return client.take(id, What::Cut),
            },
            message = socket.next(), if reads => match message {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).expect("JSON");
                    is_in |= frame["type"] == "connected";
                    client.take(id, What::Received(frame));
                }
                Some(Ok(Message::Close(frame))) => {
                    return client.take(id, What::Closed(frame.map(|frame| frame.code.into())));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return client.take(id, What::Closed(None)),
            },
            () = tokio::time::sleep_until(end), if !is_in && reads => return client.take(id, What::Cut),
        }
    }
}
