#![doc = include_str!("../README.md")]
#![warn(missing_docs, unreachable_pub)]
#![allow(clippy::test_attr_in_doctest, reason = "tests/first_plugin.rs runs the test in the README")]

mod connect;
mod decimal;
mod deliver;
mod export;
mod filters;
mod host;
mod instance;
mod json;
mod limits;
mod message;
mod plugin;
mod principal;
mod publish;
mod reject;
mod room;
mod schema;
mod seeded;
mod subscribe;

pub mod clock;
pub mod log;
pub mod metrics;
pub mod state;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use connect::{Connect, Request};
pub use decimal::Decimal;
pub use deliver::{Deliver, Plan};
pub use limits::Limits;
pub use message::Message;
pub use plugin::{NoConfig, Plugin};
pub use principal::Principal;
pub use publish::{Publication, Publish, Verdict, Via};
pub use reject::{Code, Reject};
pub use room::{Room, RoomVerdict};
pub use schema::schema_of;
pub use seeded::{SeededMap, SeededState, seed};
pub use subscribe::{Counts, Grant, Scope, Subscribe, Subscription};

/// What `export!` expands to. Not part of the public API: only plugins that test a host, and must violate the
/// contract, use it directly.
#[doc(hidden)]
pub mod internal {
    #[cfg(target_arch = "wasm32")]
    pub use crate::component::{Component, bindings};
    pub use crate::export::{Exports, Hook};
    pub use crate::filters::{FilterTable, Filters};
    pub use crate::instance::Granted;
}

#[cfg(target_arch = "wasm32")]
mod component;
