//! The test double for the host's state. It behaves as the host's does, by the clock that the test drives,
//! but has no budget: a test says when there is no room. Everything is per thread.

use super::host::unix_ms;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

/// Maximum size of a value, in bytes.
const MAX_VALUE_BYTES: usize = 64 << 10;

/// What a bucket holds is counted in these parts of a token, of which it gains `per_minute` a millisecond.
const PARTS_PER_TOKEN: u64 = 60_000;

struct Bucket {
    parts: u64,
    at: u64,
    burst: u32,
    per_minute: u32,
}

thread_local! {
    static BUCKETS: RefCell<HashMap<String, Bucket>> = RefCell::default();
    /// Values, with the time at which they expire.
    static VALUES: RefCell<HashMap<String, (Vec<u8>, u64)>> = RefCell::default();
    static IS_FULL: Cell<bool> = const { Cell::new(false) };
}

fn parts(tokens: u32) -> u64 {
    u64::from(tokens) * PARTS_PER_TOKEN
}

pub(crate) fn take(key: &str, amount: u32, burst: u32, per_minute: u32) -> Result<(), u64> {
    if amount > burst {
        return Err(u64::MAX);
    }
    let now = unix_ms();
    BUCKETS.with_borrow_mut(|buckets| {
        if !buckets.contains_key(key) {
            if amount == 0 {
                return Ok(());
            }
            if IS_FULL.get() {
                return Err(u64::MAX);
            }
        }
        let new = || Bucket { parts: parts(burst), at: now, burst, per_minute };
        let bucket = buckets.entry(key.to_owned()).or_insert_with(new);
        // What it gained until now, it gained at the old rate.
        let gained = now.saturating_sub(bucket.at).saturating_mul(bucket.per_minute.into());
        let held = bucket.parts.saturating_add(gained).min(parts(bucket.burst)).min(parts(burst));
        *bucket = Bucket { parts: held, at: bucket.at.max(now), burst, per_minute };
        match parts(amount).checked_sub(held) {
            None | Some(0) => {
                bucket.parts -= parts(amount);
                Ok(())
            }
            Some(_) if per_minute == 0 => Err(u64::MAX),
            Some(missing) => Err(missing.div_ceil(per_minute.into())),
        }
    })
}

pub(crate) fn get(key: &str) -> Option<Vec<u8>> {
    VALUES.with_borrow(|values| {
        values.get(key).filter(|(_, expires)| *expires > unix_ms()).map(|(value, _)| value.clone())
    })
}

pub(crate) fn set(key: &str, value: &[u8], ttl_ms: u64) -> Result<(), String> {
    if value.len() > MAX_VALUE_BYTES {
        let bytes = value.len();
        return Err(format!("the value has {bytes} bytes, at most {MAX_VALUE_BYTES} are allowed"));
    }
    if IS_FULL.get() {
        return Err("there is no room for it".to_owned());
    }
    let expires = if ttl_ms == 0 { u64::MAX } else { unix_ms().saturating_add(ttl_ms) };
    VALUES.with_borrow_mut(|values| values.insert(key.to_owned(), (value.to_vec(), expires)));
    Ok(())
}

pub(crate) fn delete(key: &str) {
    VALUES.with_borrow_mut(|values| values.remove(key));
}

/// Resets everything. Each new [`super::Harness`] calls this.
pub(crate) fn reset() {
    BUCKETS.take();
    VALUES.take();
    IS_FULL.set(false);
}

/// Whether the plugin's `budget.state` is used up: then a new bucket and any value are refused. A new
/// harness has room.
pub fn set_state_full(is_full: bool) {
    IS_FULL.set(is_full);
}
