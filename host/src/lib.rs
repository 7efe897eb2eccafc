//! Switchyard: a WebSocket routing engine whose policy is sandboxed Wasm.

pub mod close;
pub mod key;
pub mod outbox;
pub mod protocol;
pub mod room;
pub mod store;
pub mod unit;
