//! Messages on their way into rooms: the plugin's consent first, then the store. They overlap, and each of the two is asked for them in
//! the order in which they came, so that this is their order in each room; so are they answered.

use super::{
    Hub, full,
    policy::{self, Checked, Publishing},
    routes::{Governed, Route},
    stopping, unavailable,
};
use crate::{
    hub::{BACKLOG, Publisher, Ungoverned, command::Command},
    key::Keys,
};
use futures_util::FutureExt;
use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Instant,
};
use switchyard_process::memory::{self, MemoryCharge, MemoryShare, SteppedCharge};
use switchyard_protocol::{
    ErrorCode, Position, Refusal, reply,
    room::{RoomKind, RoomName},
};
use switchyard_store::{Message, PageLimit, Reader, Storing};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

/// Messages of one publisher that are on their way, and bytes of the requests for them: beyond, one is answered before another is
/// taken. A plugin and the store are kept busy by fewer.
const MAX_IN_FLIGHT: usize = 64;
const MAX_IN_FLIGHT_BYTES: usize = 256 << 10;
/// What a message takes on its way, beside the request for it.
const OVERHEAD: usize = 256;
/// A queue that is empty keeps room for no more.
const RETAINED: usize = 8;

pub(crate) type Published = Result<reply::Published, Refusal>;

/// One message to be published, as somebody asks for it.
pub(crate) struct Proposal<'a> {
    pub room: RoomName,
    pub event: Option<&'a str>,
    pub data: &'a str,
    /// Within the principal and the room the same message has the same.
    pub key: Option<&'a str>,
    /// Of the whole request.
    pub bytes: usize,
}

/// A message that may be stored.
pub(crate) struct Permitted {
    pub room: RoomName,
    pub event: Option<String>,
    /// `None`: the plugin drops it.
    pub data: Option<String>,
    pub charge: MemoryCharge,
}

impl Permitted {
    pub(crate) fn new(asked: Publishing, room: RoomName, checked: Checked) -> Self {
        let Publishing { event, data, mut charge, .. } = asked;
        let data = match checked {
            Checked::Pass => Some(data),
            Checked::Replace(data) => {
                charge.grow(data.len());
                Some(data)
            }
            Checked::Discard => None,
        };
        Self { room, event, data, charge }
    }
}

/// What is kept of a message for the time after its plugin's consent.
struct Rest {
    share: Arc<MemoryShare>,
    key: Option<String>,
    keys: Arc<Keys>,
}

enum Step {
    /// Its plugin is asked.
    Asked(oneshot::Receiver<Result<Permitted, Refusal>>, Rest),
    /// It waits for those before it, of which plugins are asked.
    Behind(Option<Permitted>, Rest),
    Storing(RoomName, Storing),
    /// The room's newest message is asked for when all before it is stored.
    Discarded(RoomName, Option<AbortOnDropHandle<Published>>),
    Done(Option<Published>),
}

/// One message, with what its answer is sent with.
struct InFlight<T> {
    tag: T,
    bytes: usize,
    step: Step,
}

/// The messages of one publisher.
pub(crate) struct Publishes<T> {
    steps: VecDeque<InFlight<T>>,
    /// So many of them, the first, wait for no plugin.
    permitted: usize,
    bytes: usize,
    counted: Option<SteppedCharge>,
}

impl<T> Default for Publishes<T> {
    fn default() -> Self {
        Self { steps: VecDeque::new(), permitted: 0, bytes: 0, counted: None }
    }
}

impl<T> Publishes<T> {
    /// One is to be answered before another is begun. Nothing overlaps where no more may be kept for the publisher.
    pub(crate) fn is_full(&self, share: &MemoryShare) -> bool {
        let has_room = self.steps.len() < MAX_IN_FLIGHT && self.bytes < MAX_IN_FLIGHT_BYTES;
        !self.steps.is_empty() && (!has_room || !share.may_grow())
    }

    /// Begins to publish a message: its order among all is settled when this returns.
    pub(crate) fn begin(&mut self, hub: &Hub, publisher: Publisher<'_>, proposal: Proposal<'_>, tag: T) {
        let (bytes, share) = (proposal.bytes, publisher.share);
        let step = hub.propose(publisher, proposal, self.permitted < self.steps.len());
        self.push(share, InFlight { tag, bytes, step: step.unwrap_or_else(Step::refused) });
    }

    /// A request of so many bytes that is refused already is answered in its turn.
    pub(crate) fn refuse(&mut self, share: &Arc<MemoryShare>, refusal: Refusal, bytes: usize, tag: T) {
        self.push(share, InFlight { tag, bytes, step: Step::refused(refusal) });
    }

    fn push(&mut self, share: &Arc<MemoryShare>, message: InFlight<T>) {
        self.bytes += message.bytes + OVERHEAD;
        self.steps.push_back(message);
        self.skip();
        let new = || SteppedCharge::new(share.charge(memory::MemoryKind::Publishes, 0));
        self.counted.get_or_insert_with(new).set(self.bytes);
    }

    /// Passes over those that wait for no plugin.
    fn skip(&mut self) {
        let is_asked = |message: &InFlight<T>| matches!(message.step, Step::Asked(..) | Step::Behind(..));
        while self.steps.get(self.permitted).is_some_and(|message| !is_asked(message)) {
            self.permitted += 1;
        }
    }

    /// The next answer, in the order in which they were begun; `None` where nothing is on its way. Nothing is lost if nobody waits for it
    /// to the end.
    pub(crate) async fn next(&mut self, hub: &Hub) -> Option<(T, Published)> {
        poll_fn(|cx| self.poll_next(hub, cx)).await
    }

    /// The same, where it is there.
    pub(crate) fn next_ready(&mut self, hub: &Hub) -> Option<(T, Published)> {
        self.next(hub).now_or_never().flatten()
    }

    fn poll_next(&mut self, hub: &Hub, cx: &mut Context<'_>) -> Poll<Option<(T, Published)>> {
        while let Some(message) = self.steps.get_mut(self.permitted) {
            let Poll::Ready(next) = message.step.poll_permitted(hub, cx) else { break };
            message.step = next;
            self.skip();
        }
        let Some(first) = self.steps.front_mut() else { return Poll::Ready(None) };
        let published = ready!(first.step.poll_published(hub, cx));
        let InFlight { tag, bytes, .. } = self.steps.pop_front().expect("it was looked at");
        (self.permitted, self.bytes) = (self.permitted - 1, self.bytes - bytes - OVERHEAD);
        self.counted.as_mut().expect("it was made with the first").set(self.bytes);
        if self.steps.is_empty() && self.steps.capacity() > RETAINED {
            self.steps = VecDeque::new();
        }
        Poll::Ready(Some((tag, published)))
    }
}

impl Step {
    fn refused(refusal: Refusal) -> Self {
        Self::Done(Some(Err(refusal)))
    }

    /// What follows the plugin's consent.
    fn poll_permitted(&mut self, hub: &Hub, cx: &mut Context<'_>) -> Poll<Step> {
        let (permitted, rest) = match self {
            Step::Asked(answer, rest) => {
                let answer = ready!(Pin::new(answer).poll(cx));
                (answer.unwrap_or_else(|_| Err(stopping())), rest)
            }
            Step::Behind(permitted, rest) => (Ok(permitted.take().expect("it is asked once")), rest),
            Step::Storing(..) | Step::Discarded(..) | Step::Done(_) => return Poll::Pending,
        };
        let next = permitted.and_then(|permitted| {
            let Permitted { room, event, data, charge: _charge } = permitted;
            let Some(data) = data else { return Ok(Step::Discarded(room, None)) };
            let (event, key) = (event.as_deref(), rest.key.as_deref());
            hub.store(&rest.keys, &rest.share, Proposal { room, event, data: &data, key, bytes: 0 })
        });
        Poll::Ready(next.unwrap_or_else(Step::refused))
    }

    fn poll_published(&mut self, hub: &Hub, cx: &mut Context<'_>) -> Poll<Published> {
        match self {
            Step::Asked(..) | Step::Behind(..) => Poll::Pending,
            Step::Discarded(room, asked) => {
                let asked = asked.get_or_insert_with(|| hub.newest(room.clone()));
                Pin::new(asked).poll(cx).map(|newest| newest.unwrap_or_else(|_| Err(stopping())))
            }
            Step::Done(published) => Poll::Ready(published.take().expect("it is asked once")),
            Step::Storing(room, storing) => {
                let stored = ready!(Pin::new(storing).poll(cx)).map_err(unavailable);
                Poll::Ready(stored.and_then(|stored| {
                    let Some(stored) = stored else { return Err(nobodys(room)) };
                    if !stored.duplicate {
                        hub.metrics.published.inc();
                    }
                    let Position { epoch, offset } = stored.position;
                    let (room, duplicate) = (room.shared(), stored.duplicate);
                    Ok(reply::Published { room, epoch, offset, duplicate, discarded: false })
                }))
            }
        }
    }
}

impl Hub {
    /// Asks the room's plugin, stores the message and hands it to routing. An inbox takes it if its principal has a key or a session,
    /// connected or resumable.
    pub(crate) async fn publish(&self, publisher: Publisher<'_>, proposal: Proposal<'_>) -> Published {
        let mut publishes = Publishes::default();
        publishes.begin(self, publisher, proposal, ());
        let ((), published) = publishes.next(self).await.expect("one is on its way");
        published
    }

    /// `waits`: there are messages before it that wait for a plugin's consent.
    fn propose(
        &self,
        publisher: Publisher<'_>,
        proposal: Proposal<'_>,
        waits: bool,
    ) -> Result<Step, Refusal> {
        let Publisher { keys, share, tier } = publisher;
        let who = share.principal();
        self.allowances.take(who, proposal.data.len(), Instant::now())?;
        let Route { shard, governed } = self.routes.find(&proposal.room);
        if self.shards[shard].backlog.load(Ordering::Relaxed) >= BACKLOG {
            let room = &*proposal.room;
            let message = format!("room '{room}' has {BACKLOG} messages waiting to be routed; slow down");
            return Err(Refusal::retry(ErrorCode::Overloaded, message, 1000));
        }
        if governed.is_none()
            && self.ungoverned == Ungoverned::Closed
            && proposal.room.kind() == RoomKind::Ordinary
        {
            return Err(policy::closed(&proposal.room));
        }
        let is_asked = governed.is_some_and(Governed::wants_publishes);
        if let Some(governed) = governed.filter(|_| !is_asked) {
            governed.publishers.note(who, &proposal.room, proposal.event, proposal.data);
        }
        if !is_asked && !waits {
            return self.store(&keys, share, proposal);
        }
        let Proposal { room, event, data, key, .. } = proposal;
        let charge = share.charge(memory::MemoryKind::Publishes, data.len() + OVERHEAD);
        let (event, data) = (event.map(str::to_owned), data.to_owned());
        let rest = Rest { share: share.clone(), key: key.map(str::to_owned), keys };
        if !is_asked {
            return Ok(Step::Behind(Some(Permitted { room, event, data: Some(data), charge }), rest));
        }
        let (reply, permitted) = oneshot::channel();
        let publishing = Publishing { room, who: who.clone(), tier: tier.clone(), event, data, charge };
        self.send(shard, Command::Check { publishing, reply });
        Ok(Step::Asked(permitted, rest))
    }

    fn store(&self, keys: &Keys, share: &MemoryShare, proposal: Proposal<'_>) -> Result<Step, Refusal> {
        let Proposal { room, event, data, key, .. } = proposal;
        if !self.store.broker.has_capacity_for(share) {
            return Err(full("messages"));
        }
        let needs_member = room.inbox_of().is_some_and(|principal| !keys.name(principal));
        let who = share.principal();
        let message = Message { room: &room, event, data, who, key, needs_member };
        let storing = self.store.broker.publish(message);
        Ok(Step::Storing(room, storing))
    }

    /// What is answered to a message that was discarded.
    fn newest(&self, room: RoomName) -> AbortOnDropHandle<Published> {
        let broker = self.store.broker.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let history = broker.history(&room, None, PageLimit::NONE, Reader::Other).await;
            let Position { epoch, offset } = history.map_err(unavailable)?.newest;
            let room = room.shared();
            Ok(reply::Published { room, epoch, offset, duplicate: false, discarded: true })
        }))
    }
}

fn nobodys(room: &RoomName) -> Refusal {
    let message = format!("room '{}' is nobody's inbox: no key and no session has this principal", &**room);
    Refusal::new(ErrorCode::RoomInvalid, message)
}
