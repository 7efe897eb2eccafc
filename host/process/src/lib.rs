//! What all parts of a process share, and what knows none of them: the account of memory, the tasks that a node cannot live without,
//! the log, how files are read, units, turns.

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]
#![warn(unreachable_pub)]

pub mod escape;
pub mod file;
pub mod log;
pub mod memory;
pub mod turns;
pub mod unit;
pub mod vital;
