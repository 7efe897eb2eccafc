//! A node: rooms and their members, the sessions of clients, both listeners, the configuration, and how all of that is put together.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

pub mod admin;
pub mod blocking;
pub mod config;
#[doc(hidden)]
pub mod hot;
pub mod http;
pub mod hub;
pub mod key;
pub mod limits;
pub mod listener;
pub mod metrics;
pub mod node;
pub mod outbox;
pub mod session;
pub mod socket;
pub mod validity;
