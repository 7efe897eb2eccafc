//! The wire contract: what a frame may say, what is answered, and how a delivery is encoded.
//! Owns no connection and no state.

pub mod error;
mod frame;
pub mod http;
pub mod json;
pub mod message;
pub mod reply;
pub mod request;

pub use error::{Code, Refusal};
pub use frame::Frame;
pub use message::Publication;
pub use request::{Id, Position, Request};

/// Unix time in milliseconds.
pub fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| elapsed.as_millis() as u64)
}
