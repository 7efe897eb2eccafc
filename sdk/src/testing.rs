//! Testing plugins natively: a [`Harness`] that calls the hooks as the host would, and a test double for the
//! host's log, clock, random numbers, metrics and state. Both belong to the test's thread.

mod harness;
pub(crate) mod host;
pub(crate) mod state;

pub use harness::Harness;
pub use host::{advance_clock, counted, logged, observed, set_clock, set_seed};
pub use state::set_state_full;
