//! The client's side of the wire: the requests that a client sends, and a reader for what the server sends.
//! Owns no connection: any WebSocket library carries the texts.
//!
//! ```
//! use switchyard_protocol::{client::{ClientRequest, ServerFrame, SubscribeEntry, parse}, request::Credentials};
//!
//! let connect = ClientRequest::Connect { credentials: Some(Credentials::ApiKey("sk_1".into())), session: None };
//! assert_eq!(connect.encode(Some(1.into())), r#"{"type":"connect","id":1,"auth":{"apiKey":"sk_1"}}"#);
//!
//! let rooms = [SubscribeEntry { room: "prices", filter: None, since: None }];
//! let subscribe = ClientRequest::Subscribe { rooms: &rooms };
//! assert_eq!(subscribe.encode(None), r#"{"type":"subscribe","rooms":[{"room":"prices"}]}"#);
//!
//! let text = r#"{"type":"message","room":"prices","offset":42,"time":1760000000123,"data":{"usd":3150}}"#;
//! let (id, frame) = parse(text)?;
//! let ServerFrame::Message(delivery) = frame else { panic!("not a delivery") };
//! assert_eq!((id, &*delivery.room, delivery.data.get()), (None, "prices", r#"{"usd":3150}"#));
//!
//! let text = r#"{"type":"error","id":1,"error":{"code":"rate_limited","message":"wait","retryAfter":250}}"#;
//! let (id, frame) = parse(text)?;
//! let ServerFrame::Error(error) = frame else { panic!("not an error") };
//! assert_eq!((id, error.retry_after), (Some(1.into()), Some(250)));
//! # Ok::<(), switchyard_protocol::client::InvalidFrame>(())
//! ```

mod error;
mod request;
mod server_frame;

pub use error::{ReceivedCode, ServerError, parse_http_error};
pub use request::{ClientRequest, RequestId, SubscribeEntry};
pub use server_frame::{Delivery, Gap, HistoryPage, InvalidFrame, ServerFrame, parse};

#[cfg(test)]
mod tests;
