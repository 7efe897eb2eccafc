//! A synthetic market feed, which the example programs publish. The same seed produces the same feed.

#![warn(missing_docs, unreachable_pub)]

mod book;
mod defi;
mod random;
mod world;

pub use world::{Event, World};
