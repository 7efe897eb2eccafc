//! The hook `connect`: may this principal connect, and with which limits.

use crate::{Limits, Plugin, Principal, Reject};

/// A connection whose key was found good.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub principal: Principal,
    /// The peer's address as `IP:PORT`.
    pub remote: String,
    /// The `Origin` header, which browsers send.
    pub origin: Option<String>,
}

pub trait Connect: Plugin {
    /// Asked once a connection; the limits hold for all of it.
    ///
    /// # Errors
    /// A reject closes the connection.
    fn connect(&self, request: &Request) -> Result<Limits, Reject>;
}
