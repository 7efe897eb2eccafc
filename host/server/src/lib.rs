//! A Switchyard node: rooms and their members, the sessions of clients, the listeners for clients and for
//! operators, and the configuration. The command line is in another crate, and so are the store, plugins and
//! the wire protocol.
//!
//! A program creates a [`ConfigSource`] and loads its [`Config`](config::Config), starts an
//! [`AdminListener`], then a [`Node`], and runs it until it is told to stop.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]
#![warn(missing_docs, unreachable_pub)]

mod admin;
mod audit;
mod blocking;
pub mod config;
#[doc(hidden)]
pub mod hot;
mod http;
mod hub;
mod key;
mod limit_mode;
mod limits;
mod listener;
mod metrics;
mod node;
mod outbox;
mod rate;
mod rollout;
mod session;
mod socket;
mod tier;
mod token;
mod validity;

pub use admin::AdminListener;
pub use audit::{AuditConfig, AuditFileError};
pub use key::{DEFAULT_TIER, generate_key};
pub use limits::raise_file_limit;
pub use listener::Tls;
pub use node::{ConfigSource, FileReader, Listeners, Node, NodeError, ReadError};
