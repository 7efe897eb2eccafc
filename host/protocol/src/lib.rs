//! The wire protocol of Switchyard, version 1: the frames that a client and a server exchange, their
//! encoding, and the names, codes and limits in them. It owns no connection and keeps no state.
//!
//! # The protocol in short
//!
//! A client opens a WebSocket and sends requests. The server answers them in order, and in between delivers
//! the messages of the rooms that the client is in. Each frame is one JSON object in one text message. Its
//! field `type` names the kind of frame:
//!
//! | the client sends | the server answers | to |
//! | --- | --- | --- |
//! | `connect` | `connected` | authenticate; must be the first frame; may resume a session |
//! | `subscribe` | `subscribed` | join rooms, with a filter or from a position in their history |
//! | `unsubscribe` | `unsubscribed` | leave rooms |
//! | `publish` | `published` | send a message to a room |
//! | `ack` | nothing, unless it is wrong and has an `id` | say which messages are handled, so that a resume skips them |
//! | `members` | `members` | list who is in a room |
//! | `history` | `history` | read stored messages of a room |
//! | `ping` | `pong` | check that the connection is alive |
//!
//! The server answers `error` to a request that it refuses. Without being asked it sends `message`, a
//! delivery; and `gap`, which says that messages were lost to this connection.
//!
//! A request may carry an `id`, a string or a number, which the answer repeats. Offsets are integers from 0
//! to 2^53 - 1, times are Unix milliseconds, durations are milliseconds and sizes are bytes. Both sides
//! ignore fields that they do not know, and a client ignores frames whose `type` it does not know.
//!
//! ```json
//! {"type":"connect","id":1,"auth":{"apiKey":"sk_…"}}
//! {"type":"connected","id":1,"connection":"c_…","session":"s_…","resumed":false,
//!  "principal":{"id":"acme","tier":"default"},"heartbeat":{"interval":25000,"timeout":10000},
//!  "limits":{"rooms":100,"messageBytes":65536},"rooms":[]}
//! {"type":"subscribe","id":2,"rooms":["prices",{"room":"trades","filter":{"chain":"base"}}]}
//! {"type":"subscribed","id":2,"results":[
//!  {"room":"prices","status":"subscribed","epoch":"k3f9","offset":41},
//!  {"room":"trades","status":"rejected","error":{"code":"room_rejected","message":"…"}}]}
//! {"type":"message","room":"prices","offset":42,"event":"price","time":1760000000123,"data":{"usd":3150}}
//! {"type":"ack","offsets":{"prices":{"epoch":"k3f9","offset":42}}}
//! ```
//!
//! A [`Position`] in a room is an epoch and an offset. Within an epoch, offsets rise by one with each message
//! that is stored; when they can no longer be relied on, for example because the store has lost data, the
//! room begins a new epoch. Positions of different epochs cannot be compared.
//!
//! The server ends a connection with a [`Close`] code, whose first two digits say whether the client should
//! come back: 44xx not before something has changed, 45xx with backoff, 46xx without backoff.
//!
//! `docs/protocol.md` in the repository is the complete specification, with a conversation for each rule.
//!
//! # Where things are
//!
//! | to | use |
//! | --- | --- |
//! | write a client | [`client`]: [`client::ClientRequest::encode`] and [`client::parse`] |
//! | write a server | [`request::parse`], [`reply`] and [`Publication`] |
//! | look up codes | [`ErrorCode`], [`Close`] |
//! | check names | [`room::RoomName`], [`room::RoomPattern`] |
//!
//! Both sides share the types of what they exchange, such as [`Position`], [`request::Publish`] and
//! [`reply::RoomResult`].

#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]
#![warn(missing_docs, unreachable_pub)]

pub mod client;
mod close;
mod envelope;
mod error;
mod frame;
pub mod json;
mod position;
mod publication;
pub mod reply;
pub mod request;
pub mod room;

pub use close::Close;
pub use error::{ErrorCode, Refusal};
pub use frame::Frame;
pub use position::Position;
pub use publication::Publication;
pub use request::{Id, Request};

/// The current time in Unix milliseconds; 0 if the system clock is before 1970.
pub fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| elapsed.as_millis() as u64)
}
