//! The wire contract: what a frame may say, what is answered, and how a delivery is encoded.
//! Owns no connection and no state.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]
#![warn(unreachable_pub)]

mod close;
mod error;
mod frame;
pub mod json;
mod message;
pub mod reply;
pub mod request;
pub mod room;

pub use close::Close;
pub use error::{Code, Refusal};
pub use frame::Frame;
pub use message::Publication;
pub use request::{Id, Position, Request};

/// Unix time in milliseconds.
pub fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| elapsed.as_millis() as u64)
}
