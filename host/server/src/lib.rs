//! A node: rooms and their members, the sessions of clients, both listeners, the configuration, and how all of that is put together.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]
#![warn(unreachable_pub)]

mod admin;
mod blocking;
pub mod config;
#[doc(hidden)]
pub mod hot;
mod http;
mod hub;
mod key;
mod limits;
mod listener;
mod metrics;
mod node;
mod outbox;
mod session;
mod socket;
mod validity;

pub use admin::Admin;
pub use key::{DEFAULT_TIER, generate_key};
pub use limits::raise_file_limit;
pub use listener::Tls;
pub use node::{Listeners, Node, Source};
