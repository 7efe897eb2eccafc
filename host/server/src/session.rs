//! One client's session. Its core is a state machine without I/O that turns each request into a decision.
//! `UnauthenticatedSession` and `SessionState` are different types, so that only `connect` exists before
//! authentication. `ClientSession` carries the decisions out. Knows no sockets.

mod authenticator;
mod client_session;
mod pending_join;
mod state;
mod unauthenticated;

pub(crate) use authenticator::Authenticator;
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
    /// How long a session without a connection can be resumed.
    #[serde(deserialize_with = "unit::duration")]
    pub ttl: Duration,
    /// Maximum number of bytes that wait for one connection. Beyond it, the connection is closed with 4508.
    #[serde(deserialize_with = "unit::size")]
    pub outbox: usize,
    /// Maximum size of the data of a message, in bytes.
    #[serde(deserialize_with = "unit::size")]
    pub message: usize,
    /// How long a client may take to send its first frame, from the end of the upgrade.
    #[serde(deserialize_with = "unit::duration")]
    pub authenticate: Duration,
    /// How the server notices peers that are gone.
    pub heartbeat: Heartbeat,
}

/// `session.heartbeat`
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Heartbeat {
    /// Time between two pings.
    #[serde(deserialize_with = "unit::duration")]
    pub interval: Duration,
    /// How much longer than the interval a peer may be silent.
    #[serde(deserialize_with = "unit::duration")]
    pub timeout: Duration,
}

impl Heartbeat {
    /// How long a peer may be silent before it is considered dead.
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
