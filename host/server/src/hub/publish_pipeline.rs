//! Messages that are being published: first the plugin checks them, then the store keeps them. Messages of
//! one publisher overlap. Each step handles them in the order of the requests, so they have the same order in
//! each room, and so have their answers. Knows no frames.

use super::{
    Hub, Publisher, Ungoverned,
    command::PolicyRequest,
    memory_exhausted, policy,
    refusals::outdated_governance,
    room_policies::Offered,
    router::{PublishPermit, PublishRoute},
    stopping, unavailable,
};
use crate::key::{Key, Keys};
use arc_swap::ArcSwap;
use futures_util::FutureExt;
use std::{
    borrow::Cow,
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};
use switchyard_plugin::{PublishRequest, Via};
use switchyard_process::memory::{MemoryCharge, MemoryKind, MemoryShare, SteppedCharge};
use switchyard_protocol::{
    ErrorCode, Position, Refusal, reply,
    request::Publish,
    room::{RoomKind, RoomName},
};
use switchyard_store::{Message, PageLimit, PendingPublish, Reader, grant::Verb};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

/// Maximum number of messages of one publisher in flight. Beyond it, one must be answered before another may
/// begin. It is more than enough to keep a plugin and the store busy.
const MAX_IN_FLIGHT: usize = 64;
/// The same limit for the bytes of their requests.
const MAX_IN_FLIGHT_BYTES: usize = 256 << 10;
/// Memory of a message in flight in addition to its request, in bytes.
const IN_FLIGHT_OVERHEAD: usize = 256;
/// Maximum capacity of an empty pipeline, in messages.
const RETAINED_CAPACITY: usize = 8;

/// The answer to a publish.
pub(crate) type PublishOutcome = Result<reply::Published, Refusal>;

/// A message to publish, from a client that may publish to this room.
pub(crate) struct Proposal<'a> {
    pub room: RoomName,
    pub message: Publish<'a>,
    /// Length of the whole request, in bytes.
    pub bytes: usize,
}

/// A message that the room's plugin must check before it is stored.
pub(crate) struct UncheckedMessage {
    pub room: RoomName,
    pub key: Arc<Key>,
    pub via: Via,
    pub event: Option<String>,
    pub data: String,
    pub idempotency_key: Option<String>,
    /// Accounts for the memory of the message while it waits.
    pub charge: MemoryCharge,
}

/// A message that the room's plugin has accepted, as it is to be stored.
pub(crate) struct CheckedMessage {
    /// The canonical name of the room.
    pub room: RoomName,
    pub event: Option<String>,
    pub outcome: CheckOutcome,
    pub charge: MemoryCharge,
}

/// What becomes of a message that was checked.
pub(crate) enum CheckOutcome {
    /// It is stored with this data.
    Accepted(String),
    /// The plugin discarded it.
    Discarded,
    /// It is known to be stored at this position: a repetition, about which the plugin was not asked.
    Repeated(Position),
}

/// What the store needs in addition to a checked message.
struct StoreParameters {
    share: Arc<MemoryShare>,
    /// The idempotency key.
    key: Option<String>,
    keys: Arc<ArcSwap<Keys>>,
    /// What the publisher may do.
    publisher: Arc<Key>,
    /// Taken when the message is passed to the store.
    route: Option<PublishRoute>,
}

/// A message that the store has not confirmed yet.
struct StoringMessage {
    room: RoomName,
    pending: PendingPublish,
    _permit: PublishPermit,
}

/// How far a message has come.
enum PublishStep {
    /// The plugin checks it.
    Checking(oneshot::Receiver<Result<CheckedMessage, Refusal>>, StoreParameters),
    /// It needs no check, but waits for earlier messages that do.
    Waiting(Option<CheckedMessage>, StoreParameters),
    Storing(StoringMessage),
    /// The plugin discarded it. Once all earlier messages are stored, the store is asked for the room's
    /// newest offset.
    Discarded(RoomName, Option<AbortOnDropHandle<PublishOutcome>>),
    Done(Option<PublishOutcome>),
}

/// A message whose request has not been answered.
struct InFlight<T> {
    tag: T,
    bytes: usize,
    step: PublishStep,
}

/// The messages of one publisher that are in flight. `T` comes back with each answer.
pub(crate) struct PublishPipeline<T> {
    messages: VecDeque<InFlight<T>>,
    /// How many messages at the front need no plugin any more.
    checked: usize,
    bytes: usize,
    charge: Option<SteppedCharge>,
}

impl<T> Default for PublishPipeline<T> {
    fn default() -> Self {
        Self { messages: VecDeque::new(), checked: 0, bytes: 0, charge: None }
    }
}

impl<T> PublishPipeline<T> {
    /// Whether a message must be answered before another one may begin. If memory is short, messages do not
    /// overlap.
    pub(crate) fn is_full(&self, share: &MemoryShare) -> bool {
        let has_room = self.messages.len() < MAX_IN_FLIGHT && self.bytes < MAX_IN_FLIGHT_BYTES;
        !self.messages.is_empty() && (!has_room || !share.may_grow())
    }

    /// Begins to publish a message. When this returns, its place in the order of messages is fixed.
    pub(crate) fn begin(&mut self, hub: &Hub, publisher: Publisher<'_>, proposal: Proposal<'_>, tag: T) {
        let (bytes, share) = (proposal.bytes, publisher.share);
        let must_wait = self.checked < self.messages.len();
        let step = hub.propose(publisher, proposal, must_wait);
        self.push(share, InFlight { tag, bytes, step: step.unwrap_or_else(PublishStep::refused) });
    }

    /// Adds a request that was refused, so that it is answered in order. `bytes` is its length.
    pub(crate) fn refuse(&mut self, share: &Arc<MemoryShare>, refusal: Refusal, bytes: usize, tag: T) {
        self.push(share, InFlight { tag, bytes, step: PublishStep::refused(refusal) });
    }

    fn push(&mut self, share: &Arc<MemoryShare>, message: InFlight<T>) {
        self.bytes += message.bytes + IN_FLIGHT_OVERHEAD;
        self.messages.push_back(message);
        self.skip_checked();
        let new = || SteppedCharge::new(share.charge(MemoryKind::Publishes, 0));
        self.charge.get_or_insert_with(new).set(self.bytes);
    }

    fn skip_checked(&mut self) {
        let is_unchecked = |message: &InFlight<T>| {
            matches!(message.step, PublishStep::Checking(..) | PublishStep::Waiting(..))
        };
        while self.messages.get(self.checked).is_some_and(|message| !is_unchecked(message)) {
            self.checked += 1;
        }
    }

    /// The next answer, in the order of the requests, or `None` if nothing is in flight. Cancel-safe.
    pub(crate) async fn next(&mut self, hub: &Hub) -> Option<(T, PublishOutcome)> {
        poll_fn(|cx| self.poll_next(hub, cx)).await
    }

    /// The next answer, if it is ready.
    pub(crate) fn next_ready(&mut self, hub: &Hub) -> Option<(T, PublishOutcome)> {
        self.next(hub).now_or_never().flatten()
    }

    /// [`next`](Self::next), for one poll.
    pub(crate) fn poll_next(&mut self, hub: &Hub, cx: &mut Context<'_>) -> Poll<Option<(T, PublishOutcome)>> {
        while let Some(message) = self.messages.get_mut(self.checked) {
            let Poll::Ready(next) = message.step.poll_checked(hub, cx) else { break };
            message.step = next;
            self.skip_checked();
        }
        let Some(first) = self.messages.front_mut() else { return Poll::Ready(None) };
        let published = ready!(first.step.poll_published(hub, cx));
        let InFlight { tag, bytes, .. } = self.messages.pop_front().expect("there is a first message");
        (self.checked, self.bytes) = (self.checked - 1, self.bytes - bytes - IN_FLIGHT_OVERHEAD);
        self.charge.as_mut().expect("set with the first message").set(self.bytes);
        if self.messages.is_empty() && self.messages.capacity() > RETAINED_CAPACITY {
            self.messages = VecDeque::new();
        }
        Poll::Ready(Some((tag, published)))
    }
}

impl PublishStep {
    fn refused(refusal: Refusal) -> Self {
        Self::Done(Some(Err(refusal)))
    }

    /// Passes a message to the store once its plugin has checked it. Ready with the next step.
    fn poll_checked(&mut self, hub: &Hub, cx: &mut Context<'_>) -> Poll<PublishStep> {
        let (message, parameters) = match self {
            PublishStep::Checking(answer, parameters) => {
                let answer = ready!(Pin::new(answer).poll(cx));
                (answer.unwrap_or_else(|_| Err(stopping())), parameters)
            }
            PublishStep::Waiting(message, parameters) => {
                (Ok(message.take().expect("polled once")), parameters)
            }
            PublishStep::Storing(_) | PublishStep::Discarded(..) | PublishStep::Done(_) => {
                return Poll::Pending;
            }
        };
        let next = message.and_then(|CheckedMessage { room, event, outcome, charge: _charge }| {
            let data = match outcome {
                CheckOutcome::Accepted(data) => data,
                CheckOutcome::Discarded => return Ok(PublishStep::Discarded(room, None)),
                CheckOutcome::Repeated(Position { epoch, offset }) => {
                    let room = room.shared();
                    let published =
                        reply::Published { room, epoch, offset, duplicate: true, discarded: false };
                    return Ok(PublishStep::Done(Some(Ok(published))));
                }
            };
            let StoreParameters { share, key, keys, publisher, route } = parameters;
            let (route, keys) = (route.take().expect("polled once"), keys.load());
            // The key may have changed while the message was waiting for its plugin, or its principal was banned.
            keys.renewed(publisher)?.require_in(Verb::Publish, &room)?;
            hub.denials.check_principal(share.principal())?;
            hub.denials.check_token(publisher)?;
            hub.router.check_route(&route, &room)?;
            // Stopped meanwhile, perhaps: it may have another governor by now.
            if !hub.gate.is_open() {
                return Err(outdated_governance(&room));
            }
            hub.require_capacity_for(share)?;
            let policy = hub.policies.of(&room);
            let offered = Offered { room: &room, principal: share.principal(), bytes: data.len() };
            hub.policies.take_rate(&policy, &offered, &hub.metrics, Instant::now())?;
            let message = Message {
                room: &room,
                event: event.as_deref(),
                data: &data,
                principal: share.principal(),
                idempotency_key: key.as_deref(),
                needs_member: needs_member(&keys, &room),
                names_publisher: route.governed.is_some(),
                shows_sender: policy.sender,
            };
            Ok(hub.store(message, route))
        });
        Poll::Ready(next.unwrap_or_else(PublishStep::refused))
    }

    fn poll_published(&mut self, hub: &Hub, cx: &mut Context<'_>) -> Poll<PublishOutcome> {
        match self {
            PublishStep::Checking(..) | PublishStep::Waiting(..) => Poll::Pending,
            PublishStep::Discarded(room, newest) => {
                let newest = newest.get_or_insert_with(|| hub.newest(room.clone()));
                Pin::new(newest).poll(cx).map(|newest| newest.unwrap_or_else(|_| Err(stopping())))
            }
            PublishStep::Done(published) => Poll::Ready(published.take().expect("polled once")),
            PublishStep::Storing(StoringMessage { room, pending, .. }) => {
                let stored = ready!(Pin::new(pending).poll(cx));
                let is_delivered = matches!(&stored, Ok(Some(stored)) if !stored.duplicate);
                let Some(stored) = stored.map_err(unavailable)? else {
                    return Poll::Ready(Err(no_such_inbox(room)));
                };
                if is_delivered {
                    hub.metrics.published.inc();
                }
                let Position { epoch, offset } = stored.position;
                let (room, duplicate) = (room.shared(), stored.duplicate);
                Poll::Ready(Ok(reply::Published { room, epoch, offset, duplicate, discarded: false }))
            }
        }
    }
}

impl Hub {
    /// Publishes one message, and waits for the answer. An inbox takes a message if its principal has a key,
    /// or a session, connected or resumable.
    pub(crate) async fn publish(&self, publisher: Publisher<'_>, proposal: Proposal<'_>) -> PublishOutcome {
        let mut pipeline = PublishPipeline::default();
        pipeline.begin(self, publisher, proposal, ());
        let ((), published) = pipeline.next(self).await.expect("one message is in flight");
        published
    }

    /// Passes a message to the shard of its room to be checked, or to the store if no check is needed.
    /// `must_wait` if earlier messages are still being checked.
    fn propose(
        &self,
        publisher: Publisher<'_>,
        proposal: Proposal<'_>,
        must_wait: bool,
    ) -> Result<PublishStep, Refusal> {
        let Publisher { keys, share, key: publisher, via } = publisher;
        let Proposal { room, message: Publish { event, data, key, .. }, .. } = proposal;
        let (principal, data) = (share.principal(), data.get());
        let now = Instant::now();
        self.allowances.take(principal, data.len(), now)?;
        let route = self.router.publish_route(&room)?;
        if !self.gate.is_open() {
            return Err(outdated_governance(&room));
        }
        if route.governed.is_none()
            && self.ungoverned == Ungoverned::Closed
            && room.kind() == RoomKind::Ordinary
        {
            return Err(policy::ungoverned_closed(&room));
        }
        let needs_check = route.governed.as_ref().is_some_and(|governed| governed.wants_publishes());
        let policy = self.policies.of(&room);
        // Otherwise the plugin gives the canonical name of the room first.
        if !needs_check {
            publisher.require_in(Verb::Publish, &room)?;
            self.require_capacity_for(share)?;
            let offered = Offered { room: &room, principal, bytes: data.len() };
            // What waits may still be refused, so it takes nothing of the rate before it is stored.
            match must_wait {
                true => self.policies.check_rate(&offered, &self.metrics, now)?,
                false => self.policies.take_rate(&policy, &offered, &self.metrics, now)?,
            }
        }
        if !needs_check && self.observers.are_there() {
            let (event, idempotency_key) = (event.as_deref().unwrap_or_default(), key.as_deref());
            let (room, data) = (&*room, data.as_bytes());
            let principal = &publisher.seen_by_plugins;
            let request = PublishRequest { principal, room, event, data, via, idempotency_key };
            self.observers.publishing(&request, None);
        }
        if !needs_check && !must_wait {
            let message = Message {
                room: &room,
                event: event.as_deref(),
                data,
                principal,
                idempotency_key: key.as_deref(),
                needs_member: needs_member(&keys.load(), &room),
                names_publisher: route.governed.is_some(),
                shows_sender: policy.sender,
            };
            return Ok(self.store(message, route));
        }
        let charge = share.charge(MemoryKind::Publishes, data.len() + IN_FLIGHT_OVERHEAD);
        let (event, data) = (event.map(Cow::into_owned), data.to_owned());
        let (share, key, route) = (share.clone(), key.map(Cow::into_owned), Some(route));
        let parameters =
            StoreParameters { share: share.clone(), key, keys, publisher: publisher.clone(), route };
        if !needs_check {
            let message = CheckedMessage { room, event, outcome: CheckOutcome::Accepted(data), charge };
            return Ok(PublishStep::Waiting(Some(message), parameters));
        }
        let (reply, checked) = oneshot::channel();
        let idempotency_key = parameters.key.clone();
        let message = UncheckedMessage { room, key: publisher, via, event, data, idempotency_key, charge };
        let request = PolicyRequest::Check { message, canonical: None, reply };
        self.router.forward(request);
        Ok(PublishStep::Checking(checked, parameters))
    }

    /// Refuses a message for which the store has no memory. To be asked before anything is taken of the rate of its
    /// room, which others share.
    fn require_capacity_for(&self, share: &MemoryShare) -> Result<(), Refusal> {
        let has_capacity = self.store.broker.has_capacity_for(share);
        has_capacity.then_some(()).ok_or_else(|| memory_exhausted("messages"))
    }

    /// Passes a message to the store.
    fn store(&self, message: Message<'_>, route: PublishRoute) -> PublishStep {
        let (room, pending) = (message.room.clone(), self.store.broker.publish(message));
        PublishStep::Storing(StoringMessage { room, pending, _permit: route.permit })
    }

    /// The answer to a message that the plugin discarded.
    fn newest(&self, room: RoomName) -> AbortOnDropHandle<PublishOutcome> {
        let broker = self.store.broker.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let history = broker.history(&room, None, PageLimit::NONE, Reader::Other).await;
            let Position { epoch, offset } = history.map_err(unavailable)?.newest;
            let room = room.shared();
            Ok(reply::Published { room, epoch, offset, duplicate: false, discarded: true })
        }))
    }
}

/// Whether a room is an inbox that may exist only because of a session: no key has its principal.
fn needs_member(keys: &Keys, room: &RoomName) -> bool {
    room.inbox_of().is_some_and(|principal| !keys.has_principal(principal))
}

fn no_such_inbox(room: &RoomName) -> Refusal {
    let message = format!("room '{}' is the inbox of a principal that has no key and no session", &**room);
    Refusal::new(ErrorCode::RoomInvalid, message)
}

#[cfg(test)]
mod tests;
