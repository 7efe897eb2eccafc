//! One connection through the proxy. Passes requests to Redis, and replies back in the order of the requests,
//! whenever each is executed. Decides nothing.

use super::{
    Shared,
    resp::{self, Command, Values},
    rule::Action,
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// The replies that the client waits for.
#[derive(Default)]
struct Replies {
    /// In the order of the client's requests.
    slots: VecDeque<Slot>,
    /// The slots of the requests that were sent to Redis, in that order.
    sent: VecDeque<u64>,
    next: u64,
    /// Redis has closed the connection.
    ended: bool,
}

struct Slot {
    id: u64,
    /// The number of values that are missing.
    missing: usize,
    bytes: Vec<u8>,
    end: End,
}

/// What happens to a complete reply.
#[derive(Clone)]
enum End {
    Given,
    GivenAfter(CancellationToken),
    Closes,
}

impl Replies {
    fn push(&mut self, missing: usize, bytes: &[u8], end: End) -> u64 {
        self.next += 1;
        self.slots.push_back(Slot { id: self.next, missing, bytes: bytes.to_vec(), end });
        self.next
    }

    /// Handles a value from Redis: a part of the next missing answer, or an unsolicited message.
    fn fill(&mut self, value: Vec<u8>) {
        let first = self.sent.front().and_then(|id| self.slots.iter().position(|slot| slot.id == *id));
        match first {
            Some(at) if !resp::is_message(&value) => {
                let slot = &mut self.slots[at];
                slot.bytes.extend(value);
                slot.missing -= 1;
                if slot.missing == 0 {
                    self.sent.pop_front();
                }
            }
            // After everything that came before it, and never between the parts of one answer in the same slot.
            first => {
                self.next += 1;
                let slot = Slot { id: self.next, missing: 0, bytes: value, end: End::Given };
                self.slots.insert(first.unwrap_or(self.slots.len()), slot);
            }
        }
    }
}

type Sent = mpsc::UnboundedSender<(u64, Command)>;

/// Runs until Redis or a rule closes the connection. What a client sent is executed even if it has
/// disconnected.
pub async fn serve(mut client: TcpStream, mut upstream: TcpStream, shared: &Shared) {
    let silent = shared.audible.lock().expect("no panic").clone();
    client.set_nodelay(true).ok();
    upstream.set_nodelay(true).ok();
    let (from_client, to_client) = client.split();
    let (from_redis, to_redis) = upstream.split();
    let (replies, changed) = (Arc::new(Mutex::new(Replies::default())), Notify::new());
    let (sender, commands) = mpsc::unbounded_channel();
    let onward = async {
        tokio::join!(
            requests(Values::new(from_client), sender, &replies, &changed, shared, &silent),
            forward(commands, to_redis, &replies, shared),
            collect(Values::new(from_redis), &replies, &changed),
        );
        // The other direction ends the connection, once it has delivered everything.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = onward => {}
        () = answer(to_client, &replies, &changed, shared, &silent) => {}
    }
}

async fn requests(
    mut client: Values<impl AsyncRead + Unpin>,
    sent: Sent,
    replies: &Mutex<Replies>,
    changed: &Notify,
    shared: &Shared,
    silent: &CancellationToken,
) {
    // Ends what the connection holds together with it.
    let mut detained = JoinSet::new();
    let push = |missing, bytes: &[u8], end| {
        let id = replies.lock().expect("no panic").push(missing, bytes, end);
        changed.notify_one();
        id
    };
    while let Some(command) = client.command().await {
        flowing(shared, silent).await;
        let missing = command.replies();
        match shared.decide(&command) {
            None => drop(sent.send((push(missing, &[], End::Given), command))),
            Some((Action::Hold, released)) => {
                released.cancelled().await;
                sent.send((push(missing, &[], End::Given), command)).ok();
            }
            Some((Action::Delay, released)) => {
                let (id, sent) = (push(missing, &[], End::Given), sent.clone());
                detained.spawn(async move {
                    released.cancelled().await;
                    sent.send((id, command)).ok();
                });
            }
            Some((Action::HoldAnswer, released)) => {
                sent.send((push(missing, &[], End::GivenAfter(released)), command)).ok();
            }
            Some((Action::LoseAnswer, _)) => drop(sent.send((push(missing, &[], End::Closes), command))),
            Some((Action::Drop, _)) => {
                push(0, &[], End::Closes);
                break;
            }
            Some((Action::Fail, _)) => drop(push(0, b"-ERR made up\r\n", End::Given)),
        }
    }
    drop(sent);
    while detained.join_next().await.is_some() {}
}

/// In the order in which requests are to be executed.
async fn forward(
    mut commands: mpsc::UnboundedReceiver<(u64, Command)>,
    mut redis: impl AsyncWrite + Unpin,
    replies: &Mutex<Replies>,
    shared: &Shared,
) {
    while let Some((id, command)) = commands.recv().await {
        replies.lock().expect("no panic").sent.push_back(id);
        shared.carry(command.bytes.len()).await;
        shared.count(&command);
        if redis.write_all(&command.bytes).await.is_err() {
            return;
        }
    }
    redis.shutdown().await.ok();
}

async fn collect(mut redis: Values<impl AsyncRead + Unpin>, replies: &Mutex<Replies>, changed: &Notify) {
    while let Some(value) = redis.next().await {
        replies.lock().expect("no panic").fill(value);
        changed.notify_one();
    }
    replies.lock().expect("no panic").ended = true;
    changed.notify_one();
}

async fn answer(
    mut client: impl AsyncWrite + Unpin,
    replies: &Mutex<Replies>,
    changed: &Notify,
    shared: &Shared,
    silent: &CancellationToken,
) {
    loop {
        let (end, ended) = {
            let replies = replies.lock().expect("no panic");
            let first = replies.slots.front().filter(|slot| slot.missing == 0);
            (first.map(|slot| slot.end.clone()), replies.ended)
        };
        match end {
            None if ended => return,
            None => {
                changed.notified().await;
                continue;
            }
            Some(End::Closes) => return,
            Some(End::Given) => {}
            Some(End::GivenAfter(released)) => released.cancelled().await,
        }
        flowing(shared, silent).await;
        let slot = replies.lock().expect("no panic").slots.pop_front().expect("seen above");
        shared.carry(slot.bytes.len()).await;
        // A client that has disconnected misses it.
        client.write_all(&slot.bytes).await.ok();
    }
}

async fn flowing(shared: &Shared, silent: &CancellationToken) {
    shared.flowing.subscribe().wait_for(|flowing| *flowing).await.ok();
    if silent.is_cancelled() {
        std::future::pending::<()>().await;
    }
}
