//! A checker that runs three nodes, one Redis and a proxy between them under random failures, drawn from a
//! seed, and verifies what clients are told. It knows the documentation, and nothing about how the nodes
//! work.

mod actor;
mod connection;
mod filter;
mod http;
mod keys;
mod log;
mod oracle;
mod publisher;
mod random;
mod recovery;
mod run;
mod schedule;
mod shrink;
mod step;
mod transcript;
mod world;

pub use oracle::Violation;
pub use run::{Outcome, run};
pub use schedule::{Options, draw};
pub use shrink::shrink;
pub use step::Step;
