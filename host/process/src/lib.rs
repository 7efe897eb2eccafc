//! What all parts of a Switchyard process share, and which knows none of them: the memory account, the tasks
//! that a node cannot live without, the log, reading files, and the durations and sizes of the configuration.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`memory`] | how much memory the process keeps for whom, and how much it may keep |
//! | [`vital`] | tasks and threads whose panic stops the node |
//! | [`log`] | the queue and the thread that write the log |
//! | [`escape`] | how untrusted text is shown on a terminal or in a log |
//! | [`file`](mod@file) | how a file is read whole while others write it |
//! | [`lock`] | locking a mutex that is never poisoned |
//! | [`unit`](mod@unit) | durations, sizes and addresses as the configuration spells them |
//! | [`fair_queue`] | a queue in which principals take turns |

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]
#![warn(missing_docs, unreachable_pub)]

pub mod escape;
pub mod fair_queue;
pub mod file;
pub mod lock;
pub mod log;
pub mod memory;
pub mod unit;
pub mod vital;
