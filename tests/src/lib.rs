//! What the tests share: nodes on free ports, clients of the wire protocol that trust nothing, and Redis
//! processes.

pub mod check;
mod client;
pub mod cpu_time;
pub mod exposition;
mod files;
mod follower;
mod guests;
pub mod hot;
mod issuer;
mod live;
mod node;
mod port;
mod process;
mod proxy;
mod raw;
mod redis;
pub mod report;
mod server;
mod stall;

pub use client::{Client, Closed};
pub use files::{Certificate, replace_file};
pub use follower::{Follower, Received};
pub use guests::{binary, guest, language_guest, plugin};
pub use issuer::{ISSUER, Issuer, KeyServer, key_set, user_token};
pub use live::{End, Live};
pub use node::Node;
pub use port::hold_port;
pub use process::{Process, Starting, command, next_line, run, signal};
pub use proxy::{Pattern, Proxy, Rule};
pub use raw::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Raw, TEXT, framed};
pub use redis::{Cluster, Redis, Sentinel};
pub use server::{Answer, EVERY_ROOM, MORE_KEYS, Server};
pub use stall::{OWN_MOUNTS, Stall};

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// How long anything that should happen at once may take on a busy machine.
pub const EVENT_TIMEOUT: Duration = Duration::from_secs(10);

/// A key with every scope, of the principal `acme`.
pub const KEY: &str = "sk_all";
/// A key of `zed`, which may only subscribe.
pub const READER: &str = "sk_reader";

/// Polls until there is a result, for something that happens soon without a notification.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl FnMut() -> F) -> T {
    eventually_within(EVENT_TIMEOUT, what, ask).await
}

/// Like [`eventually`], with another timeout.
pub async fn eventually_within<T, F: Future<Output = Option<T>>>(
    max_wait: Duration,
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + max_wait;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not happen within {max_wait:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
