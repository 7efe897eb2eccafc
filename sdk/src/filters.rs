//! The filters of one instance, stored under the ids that the host assigns.

use crate::reject::truncated;
use crate::{Deliver, Message, Plan, Plugin, Reject, json};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// The filters of an instance of the plugin `P`. Hides the type of the filters.
pub trait FilterTable<P> {
    /// The canonical form of a filter.
    ///
    /// # Errors
    /// The reject says what is wrong with the filter.
    fn canonical(&self, plugin: &P, filter: &str) -> Result<String, Reject>;
    /// Stores a filter under `id`, replacing any filter under that id.
    ///
    /// # Errors
    /// Says what is wrong with the filter. Then no filter is stored under `id`.
    fn compile(&mut self, plugin: &P, id: u32, filter: &str) -> Result<Plan, String>;
    /// Forgets the filters under `ids`.
    fn release(&mut self, plugin: &P, ids: &[u32]);
    /// Which filters the message passes: bit `i % 64` of word `i / 64` answers for `ids[i]`.
    fn matches(&self, plugin: &P, message: Message<'_>, ids: &[u32]) -> Vec<u64>;
}

/// The filter table of a plugin with the hook `deliver`.
pub struct Filters<P: Deliver>(HashMap<u32, P::Filter, BuildHasherDefault<IdHasher>>);

impl<P: Deliver> Default for Filters<P> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<P: Deliver> FilterTable<P> for Filters<P> {
    fn canonical(&self, plugin: &P, filter: &str) -> Result<String, Reject> {
        let filter = parsed(plugin, filter).map_err(Reject::invalid)?;
        json::canonical(&filter).map_err(Reject::internal)
    }

    fn compile(&mut self, plugin: &P, id: u32, filter: &str) -> Result<Plan, String> {
        // The previous filter under this id must go even if the new one is invalid.
        self.0.remove(&id);
        let filter = parsed(plugin, filter)?;
        let plan = plugin.plan(&filter);
        if plan == Plan::Ask {
            self.0.insert(id, filter);
        }
        Ok(plan)
    }

    fn release(&mut self, _: &P, ids: &[u32]) {
        for id in ids {
            self.0.remove(id);
        }
    }

    fn matches(&self, plugin: &P, message: Message<'_>, ids: &[u32]) -> Vec<u64> {
        let mut words = vec![0; ids.len().div_ceil(64)];
        if let Some(parsed) = plugin.parse(message) {
            for (index, id) in ids.iter().enumerate() {
                // An unknown id matches nothing: a filter decides what a client may receive, so it fails
                // closed.
                if self.0.get(id).is_some_and(|filter| plugin.matches(filter, &parsed)) {
                    words[index / 64] |= 1 << (index % 64);
                }
            }
        }
        words
    }
}

/// Reads and normalizes a filter.
fn parsed<P: Deliver>(plugin: &P, filter: &str) -> Result<P::Filter, String> {
    json::typed("filter", filter.as_bytes())
        .and_then(|filter| plugin.normalize(filter).map_err(|error| format!("filter: {error}")))
        .map_err(truncated)
}

/// The filter table of a plugin without the hook `deliver`. It rejects every filter.
pub(crate) struct NoFilters;

const NO_FILTERS: &str = "this room does not accept filters; subscribe without one";

impl<P: Plugin> FilterTable<P> for NoFilters {
    fn canonical(&self, _: &P, _: &str) -> Result<String, Reject> {
        Err(Reject::invalid(NO_FILTERS))
    }

    fn compile(&mut self, _: &P, _: u32, _: &str) -> Result<Plan, String> {
        Err(NO_FILTERS.to_owned())
    }

    fn release(&mut self, _: &P, _: &[u32]) {}

    fn matches(&self, _: &P, _: Message<'_>, ids: &[u32]) -> Vec<u64> {
        vec![0; ids.len().div_ceil(64)]
    }
}

/// A hasher for filter ids. The host chooses the ids, so no client can make them collide and one
/// multiplication is enough.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        // hashbrown takes the bucket from the low bits and the tag from the high bits.
        self.0 ^ (self.0 >> 32)
    }
}
