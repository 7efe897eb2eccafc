//! Messages on their way into rooms: the plugin's consent first, then the store. They overlap, and each of the two is asked for them in
//! the order in which they came, so that this is their order in each room; so are they answered.

use super::{
    Hub, full,
    policy::{self, Checked, Publishing},
    stopping, unavailable,
};
use crate::{
    hub::{BACKLOG, Publisher, Ungoverned, command::Command},
    key::Keys,
    memory::Charge,
    protocol::{Code, Position, Refusal, reply},
    room::{Kind, RoomName},
    store::{Message, PageLimit, Reader, Storing},
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
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

/// Messages of one publisher that are on their way, and bytes of their data: beyond, one has to be answered first. A plugin and the
/// store are kept busy by fewer.
const MOST: usize = 64;
const MOST_BYTES: usize = 256 << 10;
/// What a message takes beside its data while it waits for a plugin.
const WAITING: usize = 256;

/// As room for little is kept where nothing is on its way.
const ROOM: usize = 8;

pub type Published = Result<reply::Published, Refusal>;

/// One message to be published, as somebody asks for it.
pub struct Wanted<'a> {
    pub room: RoomName,
    pub event: Option<&'a str>,
    pub data: &'a str,
    /// Within the principal and the room the same message has the same.
    pub key: Option<&'a str>,
}

/// A message that may be stored.
pub struct Permitted {
    pub room: RoomName,
    pub event: Option<String>,
    /// `None`: the plugin drops it.
    pub data: Option<String>,
    pub charge: Charge,
}

impl Permitted {
    pub fn new(asked: Publishing, room: RoomName, checked: Checked) -> Self {
        let Publishing { event, data, charge, .. } = asked;
        let data = match checked {
            Checked::Pass => Some(data),
            Checked::Replace(data) => Some(data),
            Checked::Discard => None,
        };
        Self { room, event, data, charge }
    }
}

/// What is kept of a message for the time after its plugin's consent.
struct Rest {
    who: Arc<str>,
    key: Option<String>,
    keys: Arc<Keys>,
}

enum Step {
    /// Its plugin is asked.
    Asked(oneshot::Receiver<Result<Permitted, Refusal>>, Rest),
    /// It waits for those before it, of which plugins are asked.
    Behind(Option<Permitted>, Rest),
    Storing(RoomName, Storing),
    Discarded(AbortOnDropHandle<Published>),
    Done(Option<Published>),
}

/// Messages of one publisher, each with what its answer is sent with.
pub struct Publishes<T> {
    steps: VecDeque<(T, usize, Step)>,
    /// The first of them, which have their plugin's consent.
    permitted: usize,
    bytes: usize,
}

impl<T> Default for Publishes<T> {
    fn default() -> Self {
        Self { steps: VecDeque::new(), permitted: 0, bytes: 0 }
    }
}

impl<T> Publishes<T> {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// One is to be answered before another is begun. Nothing overlaps where the node keeps as much as it may.
    pub fn is_full(&self, hub: &Hub) -> bool {
        let has_room = self.steps.len() < MOST && self.bytes < MOST_BYTES;
        !self.is_empty() && (!has_room || hub.memory.is_full())
    }

    /// Begins to publish a message: its order among all is settled when this returns.
    pub fn begin(&mut self, hub: &Hub, publisher: Publisher<'_>, wanted: Wanted<'_>, tag: T) {
        let bytes = wanted.data.len();
        let step = hub.propose(publisher, wanted, self.permitted < self.steps.len());
        self.push(tag, bytes, step.unwrap_or_else(|refusal| Step::Done(Some(Err(refusal)))));
    }

    /// One that is refused already is answered in its turn.
    pub fn refuse(&mut self, refusal: Refusal, tag: T) {
        self.push(tag, 0, Step::Done(Some(Err(refusal))));
    }

    fn push(&mut self, tag: T, bytes: usize, step: Step) {
        self.bytes += bytes;
        self.steps.push_back((tag, bytes, step));
        self.skip();
    }

    /// Counts those that wait for no consent.
    fn skip(&mut self) {
        let permitted =
            |(_, _, step): &&(T, usize, Step)| !matches!(step, Step::Asked(..) | Step::Behind(..));
        self.permitted += self.steps.iter().skip(self.permitted).take_while(permitted).count();
    }

    /// The next answer, in the order in which they were begun; `None` where nothing is on its way. Nothing is lost if nobody waits for it
    /// to the end.
    pub async fn next(&mut self, hub: &Hub) -> Option<(T, Published)> {
        poll_fn(|cx| self.poll_next(hub, cx)).await
    }

    /// The same, where it is there.
    pub fn next_ready(&mut self, hub: &Hub) -> Option<(T, Published)> {
        self.next(hub).now_or_never().flatten()
    }

    fn poll_next(&mut self, hub: &Hub, cx: &mut Context<'_>) -> Poll<Option<(T, Published)>> {
        while let Some((_, _, step)) = self.steps.get_mut(self.permitted) {
            let Poll::Ready(next) = step.poll_permitted(hub, cx) else { break };
            *step = next;
            self.skip();
        }
        let Some((_, _, step)) = self.steps.front_mut() else { return Poll::Ready(None) };
        let published = ready!(step.poll_published(hub, cx));
        let (tag, bytes, _) = self.steps.pop_front().expect("it was looked at");
        (self.permitted, self.bytes) = (self.permitted - 1, self.bytes - bytes);
        if self.steps.is_empty() && self.steps.capacity() > ROOM {
            self.steps = VecDeque::new();
        }
        Poll::Ready(Some((tag, published)))
    }
}

impl Step {
    /// What follows the plugin's consent.
    fn poll_permitted(&mut self, hub: &Hub, cx: &mut Context<'_>) -> Poll<Step> {
        let (permitted, rest) = match self {
            Step::Asked(answer, rest) => {
                let answer = ready!(Pin::new(answer).poll(cx));
                (answer.unwrap_or_else(|_| Err(stopping())), rest)
            }
            Step::Behind(permitted, rest) => (Ok(permitted.take().expect("it is asked once")), rest),
            Step::Storing(..) | Step::Discarded(_) | Step::Done(_) => return Poll::Pending,
        };
        let next = permitted.and_then(|permitted| {
            let Permitted { room, event, data, charge: _charge } = permitted;
            let Some(data) = data else { return Ok(hub.discard(room)) };
            let wanted = Wanted { room, event: event.as_deref(), data: &data, key: rest.key.as_deref() };
            hub.store(&rest.keys, &rest.who, wanted)
        });
        Poll::Ready(next.unwrap_or_else(|refusal| Step::Done(Some(Err(refusal)))))
    }

    fn poll_published(&mut self, hub: &Hub, cx: &mut Context<'_>) -> Poll<Published> {
        match self {
            Step::Asked(..) | Step::Behind(..) => Poll::Pending,
            Step::Discarded(discarded) => {
                Pin::new(discarded).poll(cx).map(|discarded| discarded.unwrap_or_else(|_| Err(stopping())))
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
    pub async fn publish(&self, publisher: Publisher<'_>, wanted: Wanted<'_>) -> Published {
        let mut publishes = Publishes::default();
        publishes.begin(self, publisher, wanted, ());
        let ((), published) = publishes.next(self).await.expect("one is on its way");
        published
    }

    /// `waits`: there are messages before it that wait for a plugin's consent.
    fn propose(&self, publisher: Publisher<'_>, wanted: Wanted<'_>, waits: bool) -> Result<Step, Refusal> {
        let Publisher { keys, principal: who, tier } = publisher;
        self.allowances.take(who, wanted.data.len(), Instant::now())?;
        let shard = self.routes.shard(&wanted.room);
        if self.shards[shard].backlog.load(Ordering::Relaxed) >= BACKLOG {
            let room = &*wanted.room;
            let message = format!("room '{room}' has {BACKLOG} messages waiting to be routed; slow down");
            return Err(Refusal::retry(Code::Overloaded, message, 1000));
        }
        let is_governed = self.routes.governor(&wanted.room).is_some();
        if !is_governed && self.ungoverned == Ungoverned::Closed && wanted.room.kind() == Kind::Ordinary {
            return Err(policy::closed(&wanted.room));
        }
        if !is_governed && !waits {
            return self.store(&keys, who, wanted);
        }
        let Wanted { room, event, data, key } = wanted;
        let charge = self.memory.charge(crate::memory::Kind::Publishes, data.len() + WAITING);
        let (event, data) = (event.map(str::to_owned), data.to_owned());
        let rest = Rest { who: who.clone(), key: key.map(str::to_owned), keys };
        if !is_governed {
            return Ok(Step::Behind(Some(Permitted { room, event, data: Some(data), charge }), rest));
        }
        let (reply, permitted) = oneshot::channel();
        let publishing = Publishing { room, who: who.clone(), tier: tier.clone(), event, data, charge };
        self.send(shard, Command::Check { publishing, reply });
        Ok(Step::Asked(permitted, rest))
    }

    fn store(&self, keys: &Keys, who: &Arc<str>, wanted: Wanted<'_>) -> Result<Step, Refusal> {
        let Wanted { room, event, data, key } = wanted;
        if self.memory.is_full() && !self.store.relieve() {
            return Err(full("messages"));
        }
        let needs_member = room.inbox_of().is_some_and(|principal| !keys.name(principal));
        let message = Message { room: &room, event, data, key: key.map(|key| (&**who, key)), needs_member };
        let storing = self.store.publish(message);
        Ok(Step::Storing(room, storing))
    }

    /// The answer names the room's newest message.
    fn discard(&self, room: RoomName) -> Step {
        let store = self.store.clone();
        let discarded = async move {
            let history = store.history(&room, None, PageLimit::NONE, Reader::Other).await;
            let Position { epoch, offset } = history.map_err(unavailable)?.newest;
            let room = room.shared();
            Ok(reply::Published { room, epoch, offset, duplicate: false, discarded: true })
        };
        Step::Discarded(AbortOnDropHandle::new(tokio::spawn(discarded)))
    }
}

fn nobodys(room: &RoomName) -> Refusal {
    let message = format!("room '{}' is nobody's inbox: no key and no session has this principal", &**room);
    Refusal::new(Code::RoomInvalid, message)
}
