//! Several nodes on one Redis, all as real processes.

mod bans;
mod clocks;
mod databases;
mod death;
mod epochs;
mod governance;
mod growth;
mod keys;
mod liquidations;
mod load;
mod loading;
mod one_system;
mod order;
mod outage;
mod passwords;
mod permission;
mod plugins;
mod policies;
mod redis_errors;
mod redis_reads;
mod resources;
mod sessions;
mod shared_state;
mod silence;
mod startup;
mod stored_plugins;
mod topology;

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use switchyard_tests::{Client, Follower, Live, Node, eventually};

/// Publishes numbered messages until told to stop, each repeatedly until it is answered. Returns the answered
/// messages by offset.
struct Publisher {
    task: tokio::task::JoinHandle<Published>,
    stop: tokio::sync::oneshot::Sender<()>,
}

#[derive(Default)]
struct Published {
    /// The number of the message, by offset.
    offsets: Vec<(u64, u64)>,
    /// The number of answers with `store_unavailable`.
    refused: u64,
    slowest: Duration,
}

impl Publisher {
    /// Publishes every `pause`. A retry loses and duplicates nothing, because each message has an idempotency
    /// key.
    async fn start(node: &Node, room: &str, pause: Duration) -> Self {
        let (mut client, room) = (node.client().await, room.to_owned());
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut published = Published::default();
            for n in 0.. {
                loop {
                    let asked = Instant::now();
                    let answer = ask(&mut client, &room, n).await;
                    published.slowest = published.slowest.max(asked.elapsed());
                    if answer["type"] == "published" {
                        published.offsets.push((answer["offset"].as_u64().expect("an offset"), n));
                        break;
                    }
                    assert_eq!(answer["error"]["code"], "store_unavailable", "{answer}");
                    published.refused += 1;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                tokio::select! {
                    _ = &mut stopped => break,
                    () = tokio::time::sleep(pause) => {}
                }
            }
            published
        });
        Self { task, stop }
    }

    async fn stop(self) -> Published {
        self.stop.send(()).ok();
        self.task.await.expect("a publisher")
    }
}

/// Skips other frames, such as those of `*` and the inbox.
async fn ask(client: &mut Client, room: &str, n: u64) -> Value {
    let request = json!({"type": "publish", "id": n, "room": room, "data": n, "key": n.to_string()});
    client.send(request).await;
    loop {
        let frame = client.recv().await;
        if frame["id"] == n {
            return frame;
        }
    }
}

/// Checks that every offset was received once after dropping duplicates, in order, with the data that was
/// published there, and that no loss was reported.
async fn saw_everything(followers: &[Follower], room: &str, published: &Published) {
    let count = published.offsets.len();
    for follower in followers {
        follower.has(room, count, Duration::from_secs(20)).await;
        let seen = follower.received();
        assert!(seen.wrong.is_empty() && seen.losses.is_empty(), "{:?} {:?}", seen.wrong, seen.losses);
        assert!(seen.order[room].iter().copied().eq(1..=count as u64), "{:?}", seen.order[room]);
        for (offset, n) in &published.offsets {
            assert_eq!(seen.messages[&(room.to_owned(), *offset)], *n, "at {offset}");
        }
    }
}

/// Joins rooms, and retries those that a busy machine did not join in time.
async fn join(client: &Live, rooms: &[String]) {
    for some in rooms.chunks(30) {
        eventually("rooms", async || {
            let answer = client.ask(json!({"type": "subscribe", "rooms": some})).await;
            let results = answer["results"].as_array().unwrap_or_else(|| panic!("{answer}"));
            results.iter().all(|result| result["status"] == "subscribed").then_some(())
        })
        .await;
    }
}
