//! A checker of what clients are told, under schedules of failures that are drawn from a seed: three nodes, one Redis, and a
//! proxy between them. It knows the documents, and nothing of how the nodes work.

mod actor;
mod calm;
mod connection;
mod filter;
mod http;
mod keys;
mod log;
mod oracle;
mod publisher;
mod random;
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
