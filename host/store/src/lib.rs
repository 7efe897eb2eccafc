//! What Switchyard remembers: the messages of rooms and their order, sessions and their memberships, API keys,
//! bans, versions of plugins, and which plugin governs which rooms. Knows neither sockets nor permissions.
//!
//! A [`Store`] consists of traits, each about one thing: [`Broker`] (messages), [`SessionStore`],
//! [`RoomDirectory`], [`PluginRegistry`], [`GovernanceRegistry`] and [`denial::DenialRegistry`], and for a store outside of the process also
//! [`KeyRegistry`], [`SharedValueStore`] and [`RemoteStore`]. There are two stores: [`MemoryStore`], for a single node, and [`RedisStore`], which
//! several nodes share. Both pass the same suite of tests, `contract`.
//!
//! A store reports to its node with [`Event`]s, for example the messages of rooms. They go through the
//! [`EventFeed`] that the store was created with.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]
#![warn(missing_docs, unreachable_pub)]

mod broker;
mod connection_counts;
mod connection_id;
#[cfg(test)]
mod contract;
pub mod denial;
mod event;
mod governance;
pub mod grant;
mod history;
pub mod key;
mod key_registry;
mod membership;
mod memory;
mod message;
mod metrics;
mod pending_publish;
mod permit;
mod plugin_registry;
mod random;
mod redis;
mod registry;
mod remote;
mod retention;
mod room_directory;
mod room_table;
mod session;
mod session_store;
mod session_token;
mod shared_values;
mod store;
mod unavailable;
mod version_history;

pub use broker::Broker;
pub use connection_id::ConnectionId;
pub use event::{Event, EventFeed};
pub use governance::{
    Governance, GovernanceRegistry, GovernedSlot, MAX_RECORD_BYTES, MAX_SETTINGS_BYTES, MAX_SLOTS,
    NodePlugins, Reservation, SlotConflict, StoredSettings, governing_slot,
};
pub use history::{History, PageLimit, Reader};
pub use key_registry::KeyRegistry;
pub use membership::{Join, Membership};
pub use memory::MemoryStore;
pub use message::{Message, Stored};
pub use metrics::StoreMetrics;
pub use pending_publish::PendingPublish;
pub use permit::Permit;
pub use plugin_registry::{HistoryChange, PluginRegistry, StoredPlugins};
pub use redis::{Keyring, OpenError, RedisStore, RedisUrl, RedisUrlError, Replication, SchemaMismatch, Site};
pub use registry::{Revision, StoredKeys};
pub use remote::RemoteStore;
pub use retention::{HistoryConfig, HistoryPolicies, IDEMPOTENCY_KEY_TTL, Retention};
pub use room_directory::{Members, Receipt, RoomDirectory, RoomSummary};
pub use room_table::RoomTable;
pub use session::{ResumeCheck, ResumeResult, ResumedSession, SessionHandle, SlotResult};
pub use session_store::SessionStore;
pub use session_token::SessionToken;
pub use shared_values::{RemovedValues, SharedValueStore, ValueChange, ValueExchange, ValuePosition};
pub use store::Store;
pub use unavailable::{RESPONSE_TIMEOUT, Unavailable};
pub use version_history::{ActivationSource, Release, RollbackReason, VersionHistory};
