//! Reads the body of a call, after the caller was found to have permission for the call. Limits its size, its
//! duration, and the memory of all bodies. Does not know what is in it.

use super::api::{Api, ApiError, Caller};
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

/// Maximum size of all bodies that are held at one time, in bytes.
pub(super) const MAX_TOTAL_BYTES: usize = 256 << 20;
/// How long a body may take, in addition to one second for each [`MIN_BYTES_PER_SECOND`].
const BASE_TIMEOUT: Duration = Duration::from_secs(10);
const MIN_BYTES_PER_SECOND: f64 = 64.0 * 1024.0;

/// A body that has not been read yet.
pub(super) struct UnreadBody {
    content_length: Option<u64>,
    body: Body,
}

impl<S: Sync> FromRequest<S> for UnreadBody {
    type Rejection = Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Infallible> {
        let length = |headers: &HeaderMap| headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
        Ok(Self { content_length: length(request.headers()), body: request.into_body() })
    }
}

/// A whole body. Its memory is charged until it is dropped.
pub(super) struct ReceivedBody {
    bytes: Bytes,
    _charge: BodyCharge,
}

/// The memory of a body, charged both to all bodies and to the node.
struct BodyCharge {
    bodies: MemoryCharge,
    node: MemoryCharge,
}

impl BodyCharge {
    fn new(bodies: &MemoryAccount, share: &Arc<MemoryShare>) -> Self {
        let bodies = bodies.share(share.principal()).charge(MemoryKind::Bodies, 0);
        Self { bodies, node: share.charge(MemoryKind::Bodies, 0) }
    }

    /// Returns false, and charges nothing, if its principal may use no more memory.
    fn grow(&mut self, bytes: usize) -> bool {
        let may_grow = self.bodies.share().may_grow() && self.node.share().may_grow();
        if may_grow {
            self.bodies.grow(bytes);
            self.node.grow(bytes);
        }
        may_grow
    }
}

impl Deref for ReceivedBody {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

impl UnreadBody {
    /// Reads the whole body, which may have at most `max_bytes`. Refuses the call if the caller's key is gone by then, or
    /// its principal is banned.
    pub(super) async fn read<Q>(
        self,
        api: &Api,
        caller: &Caller<Q>,
        max_bytes: usize,
    ) -> Result<ReceivedBody, ApiError> {
        let body = self.read_charged(BodyCharge::new(&api.bodies, &caller.share), max_bytes).await?;
        // While it arrived, the key may have been removed, or have lost what the call needs.
        let key = caller.current_key(api)?;
        caller.scopes().iter().try_for_each(|scope| key.require(*scope, "complete this call"))?;
        Ok(body)
    }

    async fn read_charged(self, mut charge: BodyCharge, max_bytes: usize) -> Result<ReceivedBody, ApiError> {
        let too_large = |size: &str| {
            let message = format!("the body has {size} bytes; at most {max_bytes} are allowed");
            ApiError::from(Refusal::new(ErrorCode::MessageTooLarge, message))
        };
        if let Some(length) = self.content_length.filter(|length| *length > max_bytes as u64) {
            return Err(too_large(&length.to_string()));
        }
        let (mut bytes, start, mut body) = (BytesMut::new(), Instant::now(), self.body.into_data_stream());
        loop {
            let deadline =
                start + BASE_TIMEOUT + Duration::from_secs_f64(bytes.len() as f64 / MIN_BYTES_PER_SECOND);
            let Ok(part) = timeout_at(deadline, body.next()).await else {
                let message = format!(
                    "the body arrives too slowly: {} bytes in {} s; expected at least 64 KiB per second after the first 10 s",
                    bytes.len(),
                    start.elapsed().as_secs()
                );
                return Err(Refusal::invalid(message).into());
            };
            let Some(part) = part else { break };
            let part = part.map_err(|error| Refusal::invalid(format!("the body cannot be read: {error}")))?;
            if bytes.len() + part.len() > max_bytes {
                return Err(too_large(&format!("more than {}", bytes.len())));
            }
            if !charge.grow(part.len()) {
                let message = "the request bodies of this principal take too much memory; try again";
                return Err(Refusal::retry(ErrorCode::Overloaded, message, 1000).into());
            }
            bytes.extend_from_slice(&part);
        }
        Ok(ReceivedBody { bytes: bytes.freeze(), _charge: charge })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::io;

    fn charge(bodies: &MemoryAccount) -> BodyCharge {
        BodyCharge::new(bodies, &MemoryAccount::unlimited().share(&"acme".into()))
    }

    fn unread(parts: impl futures_util::Stream<Item = &'static str> + Send + 'static) -> UnreadBody {
        UnreadBody { content_length: None, body: Body::from_stream(parts.map(Ok::<_, io::Error>)) }
    }

    async fn status(reading: impl Future<Output = Result<ReceivedBody, ApiError>>) -> u16 {
        use axum::response::IntoResponse;
        reading.await.err().map_or(200, |error| error.into_response().status().as_u16())
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_is_refused_and_a_long_one_may_take_longer() {
        let drips = stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some(("x", ()))
        });
        let start = Instant::now();
        assert_eq!(
            status(unread(drips).read_charged(charge(&MemoryAccount::new(1 << 20)), 1 << 20)).await,
            400
        );
        assert!(start.elapsed() < BASE_TIMEOUT * 2, "{:?}", start.elapsed());

        const PART: &str = match str::from_utf8(&[b'x'; 1 << 16]) {
            Ok(part) => part,
            Err(_) => panic!(),
        };
        let long = stream::unfold(0, async |n| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            (n < 60).then_some((PART, n + 1))
        });
        let read = unread(long)
            .read_charged(charge(&MemoryAccount::new(64 << 20)), 64 << 20)
            .await
            .ok()
            .expect("a slow body");
        assert_eq!(read.len(), 60 << 16);
    }

    #[tokio::test]
    async fn the_memory_of_all_bodies_is_limited_and_is_released() {
        let bodies = MemoryAccount::new(1000);
        let read =
            |max| unread(stream::iter(["x".repeat(400).leak() as &str])).read_charged(charge(&bodies), max);
        let one = read(500).await.ok().expect("room for it");
        let two = read(500).await.ok().expect("room for it");
        assert_eq!(status(read(500)).await, 503);
        let others = BodyCharge::new(&bodies, &MemoryAccount::unlimited().share(&"zed".into()));
        let body = unread(stream::iter(["x"]));
        assert_eq!(status(body.read_charged(others, 500)).await, 200, "there is room for others");
        drop(one);
        assert_eq!(status(read(500)).await, 200);
        assert_eq!(status(read(300)).await, 413);
        drop(two);
        assert_eq!(bodies.total(), 0);
    }
}
