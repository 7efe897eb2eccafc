//! A synthetic market: what the example programs publish. The same seed makes the same feed.

pub mod book;
pub mod defi;
pub mod random;
pub mod world;
