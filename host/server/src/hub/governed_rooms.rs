//! What the shards of one plugin share: whose turn it is to be asked, and what publishers may do. Owns no
//! room.

use super::{
    places::Places,
    quotas::Quotas,
    router::{Router, SlotId},
};
use std::sync::{Arc, Mutex, Weak};
use switchyard_plugin::GovernorGroup;

/// The rooms of a plugin, over all shards.
pub(super) struct GovernedRooms {
    pub slot: SlotId,
    /// The plugin's name in the configuration.
    pub name: Arc<str>,
    /// What its governors share.
    pub governors: Arc<GovernorGroup>,
    /// For requests that have waited for their turn.
    pub router: Weak<Router>,
    /// For the counts that the plugin is told.
    pub places: Places,
    /// What the plugin allows publishers.
    pub quotas: Mutex<Quotas>,
    /// Held while a version is being activated, and while the number of shards changes.
    pub swapping: tokio::sync::Mutex<()>,
}

impl GovernedRooms {
    /// No version is active, so messages must be checked.
    pub(super) fn new(slot: SlotId, name: &str, router: Weak<Router>) -> Self {
        Self {
            slot,
            name: name.into(),
            governors: Arc::default(),
            router,
            places: Places::default(),
            quotas: Mutex::default(),
            swapping: tokio::sync::Mutex::default(),
        }
    }

    /// Whether a shard must check messages before they are stored.
    pub(super) fn wants_publishes(&self) -> bool {
        self.governors.wants_publishes()
    }
}
