//! The functions on the path of a message, prepared so that they can be called repeatedly: by the benchmarks,
//! and by the tests that limit their allocations.

use crate::guest;
use serde_json::Value;
use std::sync::Arc;
use switchyard_plugin::{
    Audience, Budget, Counts, Engine, FilterId, FilterResults, Governor, OnFailure, Plugin, Principal,
};
pub use switchyard_server::hot::{DATA, FanOut, HistoryReplay, ROOM, RatedPublisher, encode};

/// A plugin with distinct filters, half of which [`DATA`] passes.
pub struct Filters {
    governor: Governor,
    plugin: Arc<Plugin>,
    ids: Vec<FilterId>,
    bits: FilterResults,
}

impl Filters {
    /// With `counts`, instructions are counted, which makes calls slower.
    pub fn new(count: usize, counts: bool) -> Self {
        let engine = if counts { Engine::counting() } else { Engine::new() };
        let file = std::fs::read(guest("threshold_filter")).expect("a guest");
        let engine = engine.expect("a machine that runs plugins");
        let plugin = Plugin::load(&engine, "size", &file, &Value::Null, Budget::default());
        let plugin = Arc::new(plugin.unwrap_or_else(|error| panic!("{error}")));
        let mut governor = Governor::new(plugin.clone(), OnFailure::Deny);
        let who = Principal::new("acme", "0123456789abcdef", "default");
        let join = |n| {
            let filter = format!(r#"{{"minValue":{}}}"#, 100.0 * (n + 1) as f64 / count as f64);
            let grant = governor.authorize(&who, ROOM, Some(&filter), Counts::default());
            grant.expect("a good filter").filter.expect("a filter")
        };
        let ids = (0..count).map(join).collect();
        Self { governor, plugin, ids, bits: FilterResults::default() }
    }

    /// Evaluates all filters on a message, and returns how many it passes.
    pub fn matches(&mut self) -> u32 {
        let reads = Audience::Members(None);
        let result = self.governor.filter(ROOM, "trade", DATA.as_bytes(), &self.ids, reads, &mut self.bits);
        result.expect("a plugin that answers");
        self.bits.passed.iter().map(|word| word.count_ones()).sum()
    }

    /// The number of WebAssembly instructions so far, if they are counted.
    pub fn instructions(&self) -> u64 {
        self.plugin.instructions()
    }
}
