//! Switchyard: a WebSocket routing engine whose policy is sandboxed Wasm.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

pub mod admin;
pub mod blocking;
pub mod cli;
pub mod close;
pub mod config;
pub mod escape;
pub mod file;
pub mod hub;
pub mod key;
pub mod limits;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod node;
pub mod outbox;
pub mod output;
pub mod plugin;
pub mod protocol;
pub mod room;
pub mod server;
pub mod session;
pub mod socket;
pub mod store;
pub mod turns;
pub mod unit;
pub mod validity;
pub mod vital;
