//! SIGTERM and SIGINT, for commands that run until they are told to stop. A handler is also necessary because
//! neither signal has a default action for the first process of a container.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Catches SIGTERM and SIGINT for as long as the process runs.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// From now on neither signal ends the process by itself.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one of them.
    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
