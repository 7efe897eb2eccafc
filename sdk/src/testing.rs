//! Plugins tested natively: a stand-in for the host's functions, and a [`Harness`] that calls the hooks as
//! the host would. Both belong to the test's thread.

mod harness;
pub(crate) mod host;

pub use harness::Harness;
pub use host::{advance_clock, counted, logged, observed, set_clock, set_seed};
