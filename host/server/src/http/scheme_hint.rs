//! Tells the operator once that clients use the wrong scheme, such as `ws://` where a listener has TLS. Does not
//! answer them: they do not understand what this listener would send.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
};

/// Explains to the operator of one listener why handshakes fail. The explanation is logged as a warning the
/// first time only, because such clients try again all the time.
pub(crate) struct SchemeHint {
    explanation: &'static str,
    is_logged: AtomicBool,
}

impl SchemeHint {
    pub(crate) const fn new(explanation: &'static str) -> Self {
        Self { explanation, is_logged: AtomicBool::new(false) }
    }

    /// Logs that this client used the wrong scheme.
    pub(crate) fn log(&self, remote: SocketAddr) {
        match self.is_logged.swap(true, Ordering::Relaxed) {
            false => tracing::warn!(%remote, "{}", self.explanation),
            true => tracing::debug!(%remote, "{}", self.explanation),
        }
    }
}

/// Whether a client of a listener without TLS sent something other than HTTP. That is nearly always TLS.
pub(crate) fn is_not_http(error: &hyper::Error) -> bool {
    error.is_parse() && !error.is_parse_too_large()
}
