//! The parts of one store, put together. Each is a trait with a file of its own; where they are kept is theirs to know.

use crate::{Broker, KeyRegistry, PluginRegistry, RemoteStore, RoomDirectory, SessionStore};
use std::sync::Arc;

/// One store, in memory or elsewhere. Clones are the same store.
///
/// What its parts are asked is answered within [`PATIENCE`](crate::PATIENCE), but for code of plugins, which is long.
#[derive(Clone)]
pub struct Store {
    pub broker: Arc<dyn Broker>,
    pub sessions: Arc<dyn SessionStore>,
    pub rooms: Arc<dyn RoomDirectory>,
    pub plugins: Arc<dyn PluginRegistry>,
    /// Where the store keeps API keys.
    pub keys: Option<Arc<dyn KeyRegistry>>,
    /// Where the store is outside of this process.
    pub remote: Option<Arc<dyn RemoteStore>>,
}
