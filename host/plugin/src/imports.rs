//! What a guest may ask of its host, and the limits it runs under: the data of a store.

use super::bindings::{clock, log, metrics, random, types};
use super::deadline::Deadline;
use super::failure::said;
use super::log::LogGate;
use super::meters::Meters;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};
use wasmtime::ResourceLimiter;

/// Elements of a table: functions whose address is taken. A JavaScript engine has 8000, Python 6000.
const TABLE_ELEMENTS: usize = 20_000;

/// Core instances, memories and tables of one component; a Rust guest has 3, 1 and 2, and one in Python, whose
/// libraries are modules of their own, 38, 1 and 2.
const PARTS: usize = 64;

/// What all instances of a plugin share: who it is, its log and its metrics.
pub(crate) struct Voice {
    pub name: String,
    pub version: String,
    pub log: LogGate,
    pub meters: Meters,
    /// Instructions of all calls so far, where the engine counts them.
    pub spent: AtomicU64,
}

/// More memory than the budget was asked for.
#[derive(Debug, thiserror::Error)]
#[error("it wanted {wanted} bytes of memory and may have {limit}")]
pub(crate) struct MemoryRefused {
    wanted: usize,
    limit: usize,
}

/// The data of one instance's store.
pub(crate) struct State {
    pub voice: Arc<Voice>,
    pub deadline: Deadline,
    /// The room of the present call, for log lines; empty for none.
    pub room: String,
    /// The last line logged as an error in the present call.
    pub said: Option<String>,
    /// Bytes of linear memory that the instance has, and may have.
    pub memory: usize,
    pub memory_limit: usize,
}

impl ResourceLimiter for State {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        // All memories of the component together.
        let wanted = self.memory.saturating_sub(current).saturating_add(desired);
        if wanted > self.memory_limit {
            // An error, not `false`: otherwise running out of memory looks like any other abort.
            return Err(MemoryRefused { wanted, limit: self.memory_limit }.into());
        }
        self.memory = wanted;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }

    fn instances(&self) -> usize {
        PARTS
    }

    fn tables(&self) -> usize {
        PARTS
    }

    fn memories(&self) -> usize {
        PARTS
    }
}

impl log::Host for State {
    fn write(&mut self, level: log::Level, text: String) {
        if level == log::Level::Error {
            self.said = Some(said(&text));
        }
        let who = (&*self.voice.name, &*self.voice.version);
        self.voice.log.write(who, &self.room, level, &text);
    }
}

impl clock::Host for State {
    fn unix_ms(&mut self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl random::Host for State {
    fn seed(&mut self) -> wasmtime::Result<u64> {
        Ok(getrandom::u64()?)
    }
}

impl metrics::Host for State {
    fn count(&mut self, id: u32, by: u64) {
        self.voice.meters.count(id, by);
    }

    fn observe(&mut self, id: u32, value: f64) {
        self.voice.meters.observe(id, value);
    }
}

impl types::Host for State {}
