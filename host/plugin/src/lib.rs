//! Sandboxed plugins: compiling, asking, limiting and replacing them. The only module that names wasmtime.
//!
//! An [`Engine`] compiles; a [`Plugin`] is compiled, checked and described; an [`Instance`] runs it; a
//! [`Governor`] is what a shard talks to: it owns one instance, the interned filters, the answers that may
//! be reused and the breaker, and turns every way in which a guest can fail into a [`Refusal`].
//!
//! Instances are caches: everything that must outlive one is kept here, so that a trap, a recycle and a swap
//! are one operation: drop the instance, make another, compile the live filters again.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]
#![warn(unreachable_pub)]

mod answers;
mod backtrace;
mod bindings;
mod breaker;
mod cache;
mod clock;
mod compiler;
mod config;
mod contract;
mod deadline;
mod deliver;
mod engine;
mod extent;
mod failure;
mod filters;
mod governor;
mod holders;
mod hooks;
mod imports;
mod instance;
mod load;
mod log;
mod meters;
mod rooms;
mod shadow;
mod signature;
mod status;
mod suspects;

pub use answers::{
    Connecting, Counts, Grant, Granted, Limits, Principal, Refusal, RefusalCode, RoomVerdict, Verdict,
};
pub use cache::{Cache, CacheConfig};
pub use compiler::{COMMAND, Compilation, Compiler, compile_for_parent};
pub use config::{PluginConfig, Source, Unloadable, read_signature, signature_file};
pub use deliver::{Bits, Reads};
pub use engine::{Budget, Engine, EngineError};
pub use failure::{Call, Failure, FailureKind};
pub use filters::{FilterId, Plan};
pub use governor::{Duty, Governor, OnFailure};
pub use instance::Instance;
pub use load::{Hooks, Info, LoadError, LoadFault, Plugin, digest};
pub use meters::{BOUNDS, Meter, MeterKind, Reading};
pub use shadow::{Mirror, Shadow, Tally};
pub use signature::{PublicKey, SecretKey, Trust};
pub use status::{State, Stats, Status};
