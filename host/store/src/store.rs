//! A store as the sum of its parts, each of which is a trait in a file of its own. Does not know how they are
//! implemented.

use crate::{
    Broker, GovernanceRegistry, KeyRegistry, PluginRegistry, RemoteStore, RoomDirectory, SessionStore,
    SharedValueStore, denial::DenialRegistry,
};
use std::sync::Arc;

/// A store, in memory or elsewhere. A clone is the same store.
///
/// Every call is answered within [`RESPONSE_TIMEOUT`](crate::RESPONSE_TIMEOUT), except those that transfer
/// the code of plugins.
#[derive(Clone)]
pub struct Store {
    /// The messages of rooms.
    pub broker: Arc<dyn Broker>,
    /// Sessions and their memberships.
    pub sessions: Arc<dyn SessionStore>,
    /// Which rooms there are.
    pub rooms: Arc<dyn RoomDirectory>,
    /// Versions of plugins.
    pub plugins: Arc<dyn PluginRegistry>,
    /// Which plugin governs which rooms.
    pub governance: Arc<dyn GovernanceRegistry>,
    /// Bans and revocations.
    pub denials: Arc<dyn DenialRegistry>,
    /// API keys, if the store keeps any.
    pub keys: Option<Arc<dyn KeyRegistry>>,
    /// The values that plugins share between nodes, if the store keeps any.
    pub shared_values: Option<Arc<dyn SharedValueStore>>,
    /// What only a store outside of this process has.
    pub remote: Option<Arc<dyn RemoteStore>>,
}
