//! What the host promises strangers: silence, noise, floods and limits end in a clear close, and nobody else notices.

mod drain;
mod floods;
mod heartbeat;
mod limits;
mod slow;
mod strangers;
mod violations;
