//! Access to the host's functions. In Wasm they are the imports of the contract. Natively they are the test
//! double in `testing`, because bindgen's native imports cannot be called.

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::testing::host::{count, log, observe, seed, unix_ms};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::testing::state::{delete, get, set, take};
#[cfg(target_arch = "wasm32")]
pub(crate) use imports::{count, delete, get, log, observe, seed, set, take, unix_ms};

#[cfg(target_arch = "wasm32")]
mod imports {
    use crate::component::bindings::switchyard::plugin as host;
    use crate::log::Level;

    pub(crate) use host::clock::unix_ms;
    pub(crate) use host::metrics::{count, observe};
    pub(crate) use host::random::seed;
    pub(crate) use host::state::{delete, get, set, take};

    pub(crate) fn log(level: Level, text: &str) {
        let level = match level {
            Level::Trace => host::log::Level::Trace,
            Level::Debug => host::log::Level::Debug,
            Level::Info => host::log::Level::Info,
            Level::Warn => host::log::Level::Warn,
            Level::Error => host::log::Level::Error,
        };
        host::log::write(level, text);
    }
}
