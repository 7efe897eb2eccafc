//! Sandboxed WebAssembly plugins: compiling, calling, limiting and replacing them. No other crate names
//! wasmtime.
//!
//! - An [`Engine`] compiles plugins and stops calls that exceed their budget.
//! - A [`Plugin`] is one compiled and verified version. It is shared by all its instances.
//! - An [`Instance`] runs a plugin. It is single-threaded, and discarded after any failure.
//! - A [`Governor`] is what a shard talks to. It owns one instance, the filters in use and the cached answers, and
//!   turns every way in which a plugin can fail into a [`Rejection`].
//! - A [`GovernorGroup`] is what the governors of one plugin have in common: the circuit breakers and the quota of
//!   filters.
//!
//! An instance is a cache: what the host must not lose with it is kept in the governor, and what the plugin
//! must not lose in a [`StateTable`], which its versions share. A trap, a recycled
//! instance and a new version are therefore the same operation: drop the instance, start another, compile the
//! live filters on it.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]
#![warn(missing_docs, unreachable_pub)]

mod backtrace;
mod bindings;
mod blame;
mod breaker;
mod cache;
mod clock;
mod compiler;
mod config;
mod contract;
mod copy_budget;
mod counters;
mod deadline;
mod deliver;
mod engine;
mod failure;
mod filter_ledger;
mod filters;
mod governor;
mod governor_group;
mod holders;
mod hook_types;
mod hooks;
mod imports;
mod instance;
mod item_limits;
mod load;
mod log;
mod metrics;
mod mirror;
mod mirrored_call;
mod observed_call;
mod recorded_call;
mod recorder;
mod replayer;
mod room_cache;
mod schema;
mod series;
mod shadow;
mod signature;
mod state;
mod status;
mod ticker;

pub use cache::{Cache, CacheConfig, CacheError};
pub use clock::PluginClock;
pub use compiler::{COMPILE_COMMAND, Compilation, Compiler, MAX_COMPILE_TIME, compile_for_parent};
pub use config::{
    BudgetConfig, InvalidHeader, ListedHeader, PluginConfig, PluginFile, PluginFileError, VersionError,
    read_signature, signature_file,
};
pub use contract::MAX_FILE_BYTES;
pub use copy_budget::CopyBudget;
pub use counters::CallCounts;
pub use deliver::{Audience, FilterResults};
pub use engine::{Budget, Engine, EngineError, MAX_INSTANCES};
pub use failure::{CallFailure, FailureKind, PluginFunction};
pub use filters::{FilterId, Plan};
pub use governor::{Governor, OnFailure, PreparedSwap, SwapError};
pub use governor_group::GovernorGroup;
pub use hook_types::{
    ConnectRequest, Counts, Limits, Principal, PublishRequest, Rejection, RejectionCode, RoomVerdict,
    SubscriptionGrant, UncompiledGrant, Verdict, Via,
};
pub use instance::Instance;
pub use load::{Hooks, LoadError, LoadErrorKind, Plugin, PluginInfo, check_file, digest};
pub use metrics::{HISTOGRAM_BOUNDS, Metric, MetricKind, MetricValue};
pub use mirror::Mirror;
pub use recorded_call::{
    DeliverQuestion, PublishQuestion, Question, RecordedCall, RecordedMessage, RoomQuestion,
    SubscribeQuestion,
};
pub use recorder::Recording;
pub use replayer::Replayer;
pub use schema::find_schema_problems;
pub use series::{PluginSeries, VersionCounts};
pub use shadow::{ComparisonReport, Difference, HookComparison, Shadow};
pub use signature::{KeyError, PublicKey, SecretKey, SignatureError, Trust};
pub use state::{StateChange, StateScope, StateTable, StateTables, StateUsage};
pub use status::{PluginStatus, State, Stats};
