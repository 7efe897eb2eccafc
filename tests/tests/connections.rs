//! What the host guarantees about unknown clients: silence, garbage, floods and limits end in a clear close,
//! and nobody else is affected.

mod addresses;
mod drain;
mod floods;
mod heartbeat;
mod limits;
mod proxies;
mod proxy_protocol;
mod slow;
mod unauthenticated;
mod violations;
