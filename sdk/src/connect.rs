//! The hook `connect`: whether a principal may connect, and with which limits.

use crate::{Limits, Plugin, Principal, Reject};

/// A new connection whose key the host has verified.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The owner of the key.
    pub principal: Principal,
    /// The client's address as `IP:PORT`. Behind a proxy, it is that of the proxy, unless the host is configured to
    /// believe what the proxy says about its clients. The port is 0 if the proxy does not name it.
    pub remote: String,
    /// The `Origin` header, which browsers send; `None` if there was none.
    pub origin: Option<String>,
    /// The headers that the operator lists for this plugin and that the client sent: names in lower case, and
    /// values.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The value of a header. `name` is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// The hook `connect`. List it in [`crate::export!`].
pub trait Connect: Plugin {
    /// Decides whether a client may connect. The host calls this once per connection, before the client can
    /// make any request. See [`Limits`] for what each of the returned limits applies to.
    ///
    /// # Errors
    /// With a reject, the client receives its reason and the connection is closed.
    fn connect(&self, request: &Request) -> Result<Limits, Reject>;
}
