//! Why a store in Redis cannot be opened. What may be over later is not here: a node that starts waits for
//! it.

use crate::redis::{connecting::SCHEMA, url::RedisUrlError};

/// Why a store in Redis cannot be opened. Contains no password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `store.url` cannot be used.
    #[error(transparent)]
    Url(#[from] RedisUrlError),
    /// The Redis client does not accept its configuration. Holds its error.
    #[error("cannot create a Redis client: {0}")]
    Client(String),
    /// The server is too old. Holds its version.
    #[error("the store is Redis {0}; it must be Redis 7.0 or later, or Valkey")]
    Version(String),
    /// The keys in Redis are those of another version of Switchyard.
    #[error("{url}: {mismatch}")]
    Schema {
        /// `store.url` without credentials.
        url: String,
        /// What was found there.
        mismatch: SchemaMismatch,
    },
    /// Redis did not answer in time. Holds `store.url` without credentials. Only commands give up; a node
    /// waits.
    #[error("the store {0} does not answer")]
    Timeout(String),
}

/// Keys of another version of Switchyard, whose schema differs from that of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{key}: the keys are of schema {found}, but this version of Switchyard uses schema {SCHEMA}; run the version that wrote \
     them, or choose another store.prefix"
)]
pub struct SchemaMismatch {
    /// The key in Redis that holds the schema.
    pub key: String,
    /// The schema of the keys.
    pub found: String,
}
