//! What the tests share: a node on free ports, and a client that speaks the wire and trusts nothing.

mod client;
mod guests;
mod server;

pub use client::{Client, Closed};
pub use guests::{binary, guest};
pub use server::Server;

use std::time::Duration;

/// How long anything that should happen at once may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A key with every scope, of the principal `acme`.
pub const KEY: &str = "sk_all";
/// A key of `zed`, which may only subscribe.
pub const READER: &str = "sk_reader";
