//! Many nodes on one Redis or Valkey: standalone, behind Sentinels, or a Cluster. Nothing outside of here
//! knows of it. What its keys are and how long each lives is in docs/nodes.md.

mod arguments;
mod connecting;
mod context;
mod denials;
mod governance;
mod io_error;
mod keyring;
mod lifetimes;
mod link;
mod log_entry;
mod membership_change;
#[cfg(test)]
pub(crate) mod model;
mod names;
mod nodes;
mod open_error;
mod owned_entry;
mod plugins;
mod pubsub;
mod redis_errors;
mod replies;
mod revision;
mod room_index;
mod rooms;
mod scripts;
mod session_id;
mod session_key;
mod sessions;
mod shared_values;
mod site;
mod store;
mod stored_rooms;
#[cfg(test)]
mod tests;
mod timeouts;
mod url;

pub use keyring::Keyring;
pub use link::Replication;
pub use open_error::{OpenError, SchemaMismatch};
pub use site::Site;
pub use store::RedisStore;
pub use url::{RedisUrl, RedisUrlError};
