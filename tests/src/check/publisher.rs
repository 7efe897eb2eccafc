//! Publishes numbered messages, repeats each until it is answered, and records the answers.

use super::{
    http,
    log::{Log, Message},
    random::Random,
    schedule::{NODES, ROOMS},
    world::Urls,
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite};
use tokio_util::sync::CancellationToken;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// What all publishers of a run share.
#[derive(Clone)]
pub struct PublisherShared {
    pub key: String,
    pub urls: Urls,
    /// The URLs of the admin listeners.
    pub admins: Urls,
    pub began: Instant,
    pub log: Arc<Mutex<Log>>,
    pub next: Arc<AtomicU64>,
    /// Answers that are violations.
    pub wrong: Arc<Mutex<Vec<String>>>,
    pub stop: CancellationToken,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How to publish: over WebSocket or over HTTP.
pub fn start(shared: PublisherShared, seed: u64, over_http: bool) -> JoinHandle<()> {
    let mut publisher = Publisher { shared, random: Random::new(seed), over_http, socket: None };
    tokio::spawn(async move {
        while !publisher.shared.stop.is_cancelled() {
            publisher.publish().await;
            tokio::time::sleep(Duration::from_millis(publisher.random.between(5, 45))).await;
        }
    })
}

struct Publisher {
    shared: PublisherShared,
    random: Random,
    over_http: bool,
    socket: Option<Socket>,
}

impl Publisher {
    async fn publish(&mut self) {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let room = match self.random.below(40) {
            0 => "*".to_owned(),
            1 => "@acme".to_owned(),
            _ => self.random.pick(&ROOMS).to_owned(),
        };
        let change = self.random.below(10) as u8;
        let data = json!({"n": number, "change": f64::from(change) / 10.0});
        let message = json!({"room": room, "data": data, "key": number.to_string()});
        let requested = self.shared.began.elapsed();
        loop {
            let answer =
                if self.over_http { self.post(&message).await } else { self.ask(&message, number).await };
            match answer {
                Some(answer) if answer["offset"].is_u64() => {
                    let (epoch, offset) = (answer["epoch"].as_str(), answer["offset"].as_u64());
                    let (epoch, offset) = (epoch.expect("an epoch"), offset.expect("seen above"));
                    let mut log = self.shared.log.lock().expect("no panic");
                    return log.add(&room, epoch, offset, Message { number, change, requested });
                }
                Some(answer)
                    if ["store_unavailable", "overloaded"]
                        .map(Value::from)
                        .contains(&answer["error"]["code"]) => {}
                Some(answer) => self.shared.wrong.lock().expect("no panic").push(answer.to_string()),
                None => {}
            }
            tokio::time::sleep(Duration::from_millis(self.random.between(20, 120))).await;
        }
    }

    /// Any node that runs.
    fn any(&mut self, of: &Urls) -> Option<String> {
        let first = self.random.below(NODES);
        let urls = of.lock().expect("no panic");
        (0..NODES).find_map(|n| urls[(first + n) % NODES].clone())
    }

    async fn post(&mut self, message: &Value) -> Option<Value> {
        let url = self.any(&self.shared.admins.clone())?;
        let (_, body) =
            http::call(&url, "POST", "/v1/publish", &self.shared.key, &message.to_string()).await?;
        serde_json::from_str(&body).ok()
    }

    async fn ask(&mut self, message: &Value, number: u64) -> Option<Value> {
        let answer = timeout(ANSWER_TIMEOUT, self.try_ask(message, number)).await.ok().flatten();
        if answer.is_none() {
            self.socket = None;
        }
        answer
    }

    async fn try_ask(&mut self, message: &Value, number: u64) -> Option<Value> {
        if self.socket.is_none() {
            let (mut socket, _) = connect_async(self.any(&self.shared.urls.clone())?).await.ok()?;
            let connect = json!({"type": "connect", "id": "connect", "auth": {"apiKey": self.shared.key}});
            socket.send(tungstenite::Message::text(connect.to_string())).await.ok()?;
            answer(&mut socket, &json!("connect")).await?;
            self.socket = Some(socket);
        }
        let socket = self.socket.as_mut()?;
        let mut request = message.clone();
        (request["type"], request["id"]) = ("publish".into(), number.into());
        socket.send(tungstenite::Message::text(request.to_string())).await.ok()?;
        answer(socket, &json!(number)).await
    }
}

/// Waits for the answer with this id.
async fn answer(socket: &mut Socket, id: &Value) -> Option<Value> {
    loop {
        let tungstenite::Message::Text(text) = socket.next().await?.ok()? else { continue };
        let frame: Value = serde_json::from_str(&text).ok()?;
        if frame["id"] == *id {
            return Some(frame);
        }
    }
}
