//! The body of a call: it is read when its caller may make the call, and not if it is too large, too slow, or one of too many.

use super::api::{Api, Caller, Failure};
use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
};
use bytes::BytesMut;
use futures_util::StreamExt;
use std::{convert::Infallible, ops::Deref, sync::Arc, time::Duration};
use switchyard_process::memory::{MemoryAccount, MemoryCharge, MemoryKind, MemoryShare};
use switchyard_protocol::{ErrorCode, Refusal};
use tokio::time::{Instant, timeout_at};

/// Bytes of all bodies that are held at a time.
pub(super) const ALL: usize = 256 << 20;
/// How long a body may take, and how much longer for each so many of its bytes.
const ALLOWANCE: Duration = Duration::from_secs(10);
const PER_SECOND: f64 = 64.0 * 1024.0;

/// A body that has not been read.
pub(super) struct Unread {
    /// What the head says of it.
    length: Option<u64>,
    body: Body,
}

impl<S: Sync> FromRequest<S> for Unread {
    type Rejection = Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Infallible> {
        let length = |headers: &HeaderMap| headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
        Ok(Self { length: length(request.headers()), body: request.into_body() })
    }
}

/// A body, and what is held for it.
pub(super) struct Received {
    bytes: Bytes,
    _held: Room,
}

/// What a body takes of what all bodies may, and of what the node may keep.
struct Room {
    of_bodies: MemoryCharge,
    of_memory: MemoryCharge,
}

impl Room {
    fn new(bodies: &MemoryAccount, share: &Arc<MemoryShare>) -> Self {
        let of_bodies = bodies.share(share.principal()).charge(MemoryKind::Bodies, 0);
        Self { of_bodies, of_memory: share.charge(MemoryKind::Bodies, 0) }
    }

    /// `false`: there is no room for more of its principal.
    fn grow(&mut self, bytes: usize) -> bool {
        let may_grow = self.of_bodies.share().may_grow() && self.of_memory.share().may_grow();
        if may_grow {
            self.of_bodies.grow(bytes);
            self.of_memory.grow(bytes);
        }
        may_grow
    }
}

impl Deref for Received {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

impl Unread {
    /// All of it, at most so many bytes, for which there has to be room among all bodies.
    pub(super) async fn read(self, api: &Api, caller: &Caller, most: usize) -> Result<Received, Failure> {
        self.read_into(Room::new(&api.bodies, &caller.share), most).await
    }

    async fn read_into(self, mut room: Room, most: usize) -> Result<Received, Failure> {
        let too_large = |is: &str| {
            let message = format!("the body has {is} bytes, at most {most} are allowed");
            Failure::from(Refusal::new(ErrorCode::MessageTooLarge, message))
        };
        if let Some(length) = self.length.filter(|length| *length > most as u64) {
            return Err(too_large(&length.to_string()));
        }
        let (mut bytes, began, mut body) = (BytesMut::new(), Instant::now(), self.body.into_data_stream());
        loop {
            let deadline = began + ALLOWANCE + Duration::from_secs_f64(bytes.len() as f64 / PER_SECOND);
            let Ok(part) = timeout_at(deadline, body.next()).await else {
                let message =
                    format!("the body came too slowly: {} bytes in {:?}", bytes.len(), began.elapsed());
                return Err(Refusal::invalid(message).into());
            };
            let Some(part) = part else { break };
            let part = part.map_err(|error| Refusal::invalid(format!("the body cannot be read: {error}")))?;
            if bytes.len() + part.len() > most {
                return Err(too_large(&format!("more than {}", bytes.len())));
            }
            if !room.grow(part.len()) {
                let message = "this node holds as much of this principal's bodies as it can; try again";
                return Err(Refusal::retry(ErrorCode::Overloaded, message, 1000).into());
            }
            bytes.extend_from_slice(&part);
        }
        Ok(Received { bytes: bytes.freeze(), _held: room })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::io;

    fn room(bodies: &MemoryAccount) -> Room {
        Room::new(bodies, &MemoryAccount::unlimited().share(&"acme".into()))
    }

    fn unread(parts: impl futures_util::Stream<Item = &'static str> + Send + 'static) -> Unread {
        Unread { length: None, body: Body::from_stream(parts.map(Ok::<_, io::Error>)) }
    }

    async fn status(reading: impl Future<Output = Result<Received, Failure>>) -> u16 {
        use axum::response::IntoResponse;
        reading.await.err().map_or(200, |failure| failure.into_response().status().as_u16())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_ends_and_one_that_is_long_may_take_its_time() {
        let drips = stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some(("x", ()))
        });
        let began = Instant::now();
        assert_eq!(status(unread(drips).read_into(room(&MemoryAccount::new(1 << 20)), 1 << 20)).await, 400);
        assert!(began.elapsed() < ALLOWANCE * 2, "{:?}", began.elapsed());

        const PART: &str = match str::from_utf8(&[b'x'; 1 << 16]) {
            Ok(part) => part,
            Err(_) => panic!(),
        };
        let long = stream::unfold(0, async |n| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            (n < 60).then_some((PART, n + 1))
        });
        let read = unread(long)
            .read_into(room(&MemoryAccount::new(64 << 20)), 64 << 20)
            .await
            .ok()
            .expect("a slow body");
        assert_eq!(read.len(), 60 << 16);
    }

    #[tokio::test]
    async fn all_bodies_together_have_a_bound_and_what_is_answered_makes_room() {
        let bodies = MemoryAccount::new(1000);
        let read =
            |most| unread(stream::iter(["x".repeat(400).leak() as &str])).read_into(room(&bodies), most);
        let one = read(500).await.ok().expect("room for it");
        let two = read(500).await.ok().expect("room for it");
        assert_eq!(status(read(500)).await, 503);
        let others = Room::new(&bodies, &MemoryAccount::unlimited().share(&"zed".into()));
        let body = unread(stream::iter(["x"]));
        assert_eq!(status(body.read_into(others, 500)).await, 200, "there is room for others");
        drop(one);
        assert_eq!(status(read(500)).await, 200);
        assert_eq!(status(read(300)).await, 413);
        drop(two);
        assert_eq!(bodies.total(), 0);
    }
}
