//! State that outlives instances: token buckets and values, which all instances of the plugin on a node
//! share. It belongs to the plugin's name: traps, reloads, new versions and rollbacks keep it. It ends with
//! the node's process, and each node has its own.
//!
//! The operator bounds it with `budget.state`. Entries count against the principal whose call made them, so
//! that one principal cannot use up the room of all others. If there is no room, full buckets are evicted
//! first, then the values that were not used for longest. A bucket that is not full is never evicted, so
//! nobody resets a limit with a flood of keys.
//!
//! Keys of more than 128 bytes are stored as a hash. Start keys with what they are for, such as `wallet:`.
//!
//! ```
//! use std::time::Duration;
//! use switchyard_sdk::state::{self, Rate, TakeError};
//!
//! // At most one message every ten seconds for each wallet.
//! let rate = Rate { burst: 1, per_minute: 6 };
//! assert_eq!(state::take("wallet:0x1f", 1, rate), Ok(()));
//! assert_eq!(state::take("wallet:0x1f", 1, rate), Err(TakeError::Wait(Duration::from_secs(10))));
//!
//! state::set("last:0x1f", b"1850.5", Some(Duration::from_secs(3600))).unwrap();
//! assert_eq!(state::get("last:0x1f").as_deref(), Some(&b"1850.5"[..]));
//! ```

use crate::host;
use std::fmt;
use std::time::Duration;

/// The size and the rate of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many tokens the bucket holds when it is full.
    pub burst: u32,
    /// How many tokens it gains in a minute. With 0 it never gains any, and is kept as long as the node runs.
    pub per_minute: u32,
}

/// Why nothing was taken from a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeError {
    /// After this time it would succeed, if nobody else takes from the bucket.
    Wait(Duration),
    /// It will not succeed: more was asked for than the bucket holds, it gains nothing, or there is no room
    /// for another bucket.
    Never,
}

/// A value was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetError(String);

/// Takes from the bucket with this key, which is full at first. What was taken stays taken, even if the call
/// fails later. If `rate` differs from that of the last call, the bucket keeps what it holds, up to the new
/// `burst`.
///
/// # Errors
/// The bucket holds less than `amount`, or there is no room for it.
pub fn take(key: &str, amount: u32, rate: Rate) -> Result<(), TakeError> {
    host::take(key, amount, rate.burst, rate.per_minute).map_err(|wait| match wait {
        u64::MAX => TakeError::Never,
        wait => TakeError::Wait(Duration::from_millis(wait)),
    })
}

/// The value with this key, if there is one. Values and buckets have separate keys.
pub fn get(key: &str) -> Option<Vec<u8>> {
    host::get(key)
}

/// Keeps a value of at most 64 KiB in place of the one before, for a time in whole milliseconds, rounded up.
/// `None` means until it is evicted.
///
/// # Errors
/// The value is too large, or there is no room for it.
pub fn set(key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), SetError> {
    let millis = |ttl: Duration| u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1);
    host::set(key, value, ttl.map_or(0, millis)).map_err(SetError)
}

/// Deletes the value with this key. Buckets stay.
pub fn delete(key: &str) {
    host::delete(key);
}

impl fmt::Display for TakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait(time) => write!(f, "the limit is reached; try again in {time:?}"),
            Self::Never => f.write_str("the limit is reached"),
        }
    }
}

impl std::error::Error for TakeError {}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SetError {}
