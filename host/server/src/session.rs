//! One client's conversation, as a state machine without I/O: a frame goes in, a decision comes out. `UnauthenticatedSession`
//! and `SessionState` are different types, so that nothing but `connect` exists before authentication. `ClientSession`
//! carries decisions out against the hub.

mod client_session;
mod pending_join;
mod state;
mod unauthenticated;

pub(crate) use client_session::{Client, ClientFrame, ClientSession, Services};
pub(crate) use state::may_publish;
pub(crate) use unauthenticated::{Rejected, UnauthenticatedSession};

use serde::Deserialize;
use std::time::Duration;
use switchyard_process::unit;

/// `[session]`
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionConfig {
    /// How long a session outlives its connection.
    #[serde(deserialize_with = "unit::duration")]
    pub ttl: Duration,
    /// Bytes that may wait for one connection; beyond, it is closed 4508.
    #[serde(deserialize_with = "unit::size")]
    pub outbox: usize,
    /// Bytes of a message's data.
    #[serde(deserialize_with = "unit::size")]
    pub message: usize,
    /// How long the first frame is awaited, from the end of the upgrade on.
    #[serde(deserialize_with = "unit::duration")]
    pub authenticate: Duration,
    pub heartbeat: Heartbeat,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Heartbeat {
    /// Between two pings.
    #[serde(deserialize_with = "unit::duration")]
    pub interval: Duration,
    /// What a peer may be silent beyond the interval.
    #[serde(deserialize_with = "unit::duration")]
    pub timeout: Duration,
}

impl Heartbeat {
    /// How long a peer may be silent.
    pub fn silence(&self) -> Duration {
        self.interval + self.timeout
    }
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(120),
            outbox: 1 << 20,
            message: 64 << 10,
            authenticate: Duration::from_secs(10),
            heartbeat: Heartbeat::default(),
        }
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { interval: Duration::from_secs(25), timeout: Duration::from_secs(10) }
    }
}
