//! One connection of a client. Records each frame that is sent or received. Decides nothing.

use super::{actor::Shared, transcript::Event};
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

pub enum Command {
    Send(Value),
    StopReading,
    ResumeReading,
    Cut,
}

/// Runs the connection from the first byte to the end.
pub async fn run(
    client: Arc<Shared>,
    id: u32,
    url: String,
    connect: Value,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let end = Instant::now() + CONNECT_TIMEOUT;
    let mut socket = match timeout_at(end, connect_async(url)).await {
        Ok(Ok((socket, _))) => socket,
        Ok(Err(_)) => return client.take(id, Event::Closed(None)),
        Err(_) => return client.take(id, Event::Cut),
    };
    client.take(id, Event::Sent(connect.clone()));
    if socket.send(Message::text(connect.to_string())).await.is_err() {
        return client.take(id, Event::Closed(None));
    }
    let (mut is_in, mut reads) = (false, true);
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(Command::Send(frame)) => {
                    client.take(id, Event::Sent(frame.clone()));
                    if socket.send(Message::text(frame.to_string())).await.is_err() {
                        return client.take(id, Event::Closed(None));
                    }
                }
                Some(Command::StopReading) => {
                    reads = false;
                    client.take(id, Event::StoppedReading);
                }
                Some(Command::ResumeReading) => {
                    reads = true;
                    client.take(id, Event::ResumedReading);
                }
                Some(Command::Cut) | None => return client.take(id, Event::Cut),
            },
            message = socket.next(), if reads => match message {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).expect("JSON");
                    is_in |= frame["type"] == "connected";
                    client.take(id, Event::Received(frame));
                }
                Some(Ok(Message::Close(frame))) => {
                    return client.take(id, Event::Closed(frame.map(|frame| frame.code.into())));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return client.take(id, Event::Closed(None)),
            },
            () = tokio::time::sleep_until(end), if !is_in && reads => return client.take(id, Event::Cut),
        }
    }
}
