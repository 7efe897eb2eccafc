//! The filters of one instance, under the host's numbers.

use crate::reject::shortened;
use crate::{Deliver, Message, Plan, Plugin, Reject, json};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A plugin's filters, without naming their types.
pub trait FilterTable<P> {
    /// The one spelling of a filter.
    fn canonical(&self, plugin: &P, filter: &str) -> Result<String, Reject>;
    fn compile(&mut self, plugin: &P, id: u32, filter: &str) -> Result<Plan, String>;
    fn release(&mut self, plugin: &P, ids: &[u32]);
    /// Bit `i % 64` of word `i / 64` answers for `ids[i]`.
    fn matches(&self, plugin: &P, message: Message<'_>, ids: &[u32]) -> Vec<u64>;
}

/// The table of a plugin with the hook `deliver`.
pub struct Filters<P: Deliver>(HashMap<u32, P::Filter, BuildHasherDefault<NumberHasher>>);

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
        // Whatever stood under the number is gone, even when the new one fails.
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
                // A number never seen matches nothing: a filter is a boundary, not a convenience.
                if self.0.get(id).is_some_and(|filter| plugin.matches(filter, &parsed)) {
                    words[index / 64] |= 1 << (index % 64);
                }
            }
        }
        words
    }
}

fn parsed<P: Deliver>(plugin: &P, filter: &str) -> Result<P::Filter, String> {
    json::typed("filter", filter.as_bytes())
        .and_then(|filter| plugin.normalize(filter).map_err(|error| format!("filter: {error}")))
        .map_err(shortened)
}

/// The table of a plugin without the hook `deliver`.
pub(crate) struct NoFilters;

const NO_FILTERS: &str = "this room takes no filter: subscribe to it without one";

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

/// The numbers are the host's, so nobody can choose them to collide and one multiplication is enough.
#[derive(Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        // hashbrown takes the bucket from the low bits and the tag from the high ones.
        self.0 ^ (self.0 >> 32)
    }
}
