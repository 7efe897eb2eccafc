//! The errors of commands that Redis did not answer, or executed too late. How long a command may take is
//! [`RESPONSE_TIMEOUT`](crate::RESPONSE_TIMEOUT).

use crate::Unavailable;

pub(super) const NO_ANSWER: &str = "Redis does not answer";

/// Redis has not answered in time. It may still execute the command.
pub(super) fn no_answer() -> Unavailable {
    Unavailable(NO_ANSWER.to_owned())
}

/// The deadline of a command had passed when Redis received it, so nothing was written; or nobody waits for the
/// outcome any more.
pub(super) fn too_late() -> Unavailable {
    Unavailable("the command was not completed in time".to_owned())
}
