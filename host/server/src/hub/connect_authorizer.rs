//! Asks plugins whether a connection may be opened. Has a thread and plugin instances of its own, so that a
//! plugin that is busy with its rooms does not keep clients from connecting.

use super::{
    Hub, cannot_start_thread, conflict,
    fair_semaphore::{QueueFull, QueueLimits},
    refusals::wire_refusal,
    router::SlotId,
    slots::CompiledVersion,
    stopping,
};
use crate::key::Key;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};
use switchyard_plugin::{ConnectRequest, Governor, Limits, Mirror, PluginFunction, SwapError};
use switchyard_process::vital::VitalTasks;
use switchyard_protocol::{ErrorCode, Refusal};
use tokio::sync::{mpsc, oneshot};

/// Maximum number of connections that ask plugins, or wait for their turn to ask, whether they may take a
/// session over. They have no connection slot yet. Each takes about [`CONNECTION_BYTES`](super::CONNECTION_BYTES),
/// so all of them take 128 MiB.
const MAX_WAITING_TAKEOVERS: usize = 16_384;

pub(super) struct ConnectAuthorizer {
    /// The queue of the thread, which is started with the first version that has a connect hook.
    requests: OnceLock<mpsc::UnboundedSender<AuthorizerRequest>>,
    vitals: VitalTasks,
    /// How many plugins have a connect hook.
    governor_count: Arc<AtomicUsize>,
    /// The names of the headers that these plugins see.
    headers: Arc<ArcSwap<Vec<String>>>,
    /// The answer to everybody, while a plugin that must be asked does not run here.
    refusal: ArcSwapOption<Refusal>,
}

enum AuthorizerRequest {
    Authorize(ConnectRequest, oneshot::Sender<Result<Limits, Refusal>>),
    /// Activates a version in a slot, or none. The answer is the governor that was there.
    Swap(SlotId, Option<CompiledVersion>, oneshot::Sender<Result<Option<Box<Governor>>, SwapError>>),
    /// Puts a governor back, with all that it knows, or none.
    Restore(SlotId, Option<Box<Governor>>, oneshot::Sender<()>),
    Mirror(SlotId, Option<Mirror>),
}

/// The governors of the plugins that have a connect hook, by slot.
#[derive(Default)]
struct ConnectGovernors(BTreeMap<SlotId, Box<Governor>>);

impl Hub {
    /// Whether a plugin has a connect hook.
    pub(crate) fn has_connect_hook(&self) -> bool {
        self.connect_authorizer.has_governors() || self.connect_authorizer.refusal.load().is_some()
    }

    /// Answers this to every client that connects, or asks the plugins again. Returns whether this is a change.
    pub(crate) fn refuse_connections(&self, refusal: Option<Refusal>) -> bool {
        let before = self.connect_authorizer.refusal.swap(refusal.clone().map(Arc::new));
        before.as_deref() != refusal.as_ref()
    }

    /// The names of the headers that some plugin's connect hook sees, in lower case.
    pub(crate) fn connect_headers(&self) -> Arc<Vec<String>> {
        let headers = self.connect_authorizer.headers();
        match self.observers.are_there() {
            true => Arc::new(headers.iter().cloned().chain(self.observers.headers()).collect()),
            false => headers,
        }
    }

    /// Does the same as [`authorize_connect`](Self::authorize_connect) for a connection that has no slot yet,
    /// because it wants to take a session over. A principal makes one such call at a time, so however often a
    /// client sends the token of a session, it does not fill the queue of the plugins. At most as many
    /// connections of a principal wait for their turn as its tier allows connections.
    pub(crate) async fn authorize_takeover(
        &self,
        key: &Key,
        connecting: ConnectRequest,
    ) -> Result<Limits, Refusal> {
        let limits =
            QueueLimits { per_principal: key.limits.connections as usize, in_all: MAX_WAITING_TAKEOVERS };
        let permit = self.takeovers.acquire_within(&key.principal, limits).await;
        let _permit = permit.map_err(|full| takeover_queue_full(key, full))?;
        self.authorize_connect(connecting).await
    }

    /// Asks all plugins with a connect hook whether a client may connect. Returns the narrowest of their
    /// limits.
    pub(crate) async fn authorize_connect(&self, connecting: ConnectRequest) -> Result<Limits, Refusal> {
        if !self.observers.are_there() {
            return self.connect_authorizer.authorize(connecting).await;
        }
        let answer = self.connect_authorizer.authorize(connecting.clone()).await;
        self.observers.connecting(&connecting, answer.as_ref().err());
        answer
    }
}

/// The refusal of a connection that would have to wait for its turn to ask plugins.
fn takeover_queue_full(key: &Key, full: QueueFull) -> Refusal {
    let Key { principal, tier, limits, .. } = key;
    let message = match full {
        QueueFull::OfPrincipal => format!(
            "{} connections of principal '{principal}' are already resuming a session, as many as tier '{tier}' \
             allows; try again later",
            limits.connections
        ),
        QueueFull::InAll => format!(
            "{MAX_WAITING_TAKEOVERS} connections are already resuming a session on this node; try again later"
        ),
    };
    Refusal::retry(ErrorCode::Overloaded, message, 1000)
}

impl ConnectAuthorizer {
    pub(super) fn new(vitals: VitalTasks) -> Self {
        Self {
            requests: OnceLock::new(),
            vitals,
            governor_count: Arc::default(),
            headers: Arc::default(),
            refusal: ArcSwapOption::empty(),
        }
    }

    /// Starts the thread. It ends with the last sender.
    fn start_thread(&self) -> io::Result<mpsc::UnboundedSender<AuthorizerRequest>> {
        let (sender, mut requests) = mpsc::unbounded_channel();
        let (mut governors, governor_count) = (ConnectGovernors::default(), self.governor_count.clone());
        let headers = self.headers.clone();
        let publish = move |governors: &ConnectGovernors| {
            headers.store(Arc::new(governors.headers()));
            governor_count.store(governors.0.len(), Ordering::Release);
        };
        let serve = move || {
            while let Some(request) = requests.blocking_recv() {
                match request {
                    // Nobody waits for the answer any more.
                    AuthorizerRequest::Authorize(_, reply) if reply.is_closed() => {}
                    AuthorizerRequest::Authorize(connect, reply) => {
                        reply.send(governors.authorize(&connect)).ok();
                    }
                    AuthorizerRequest::Swap(slot, version, reply) => {
                        let swapped = governors.swap(slot, version);
                        publish(&governors);
                        reply.send(swapped).ok();
                    }
                    AuthorizerRequest::Restore(slot, governor, reply) => {
                        governors.replace(slot, governor);
                        publish(&governors);
                        reply.send(()).ok();
                    }
                    AuthorizerRequest::Mirror(slot, mirror) => governors.set_mirror(slot, mirror),
                }
            }
        };
        self.vitals.spawn_thread("connect authorizer".into(), serve)?;
        Ok(sender)
    }

    /// Whether a plugin has a connect hook.
    pub(super) fn has_governors(&self) -> bool {
        self.governor_count.load(Ordering::Acquire) > 0
    }

    /// The names of the headers that some plugin sees, in lower case.
    pub(super) fn headers(&self) -> Arc<Vec<String>> {
        self.headers.load_full()
    }

    /// Asks all plugins that have a connect hook. Returns the narrowest of their limits.
    pub(super) async fn authorize(&self, connect: ConnectRequest) -> Result<Limits, Refusal> {
        if let Some(refusal) = &*self.refusal.load() {
            return Err(Refusal::clone(refusal));
        }
        if !self.has_governors() {
            return Ok(Limits::default());
        }
        let Some(requests) = self.requests.get() else { return Ok(Limits::default()) };
        let (reply, answer) = oneshot::channel();
        requests.send(AuthorizerRequest::Authorize(connect, reply)).ok();
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Activates a version in a slot, or none, and returns the governor that was there before. A version
    /// without a connect hook counts as none.
    pub(super) async fn swap(
        &self,
        slot: SlotId,
        version: Option<CompiledVersion>,
    ) -> Result<Option<Box<Governor>>, Refusal> {
        let version = version.filter(|version| version.plugin.info().hooks.connect);
        let requests = match self.requests.get() {
            Some(requests) => requests,
            None if version.is_none() => return Ok(None),
            None => {
                let started = self
                    .start_thread()
                    .map_err(|error| cannot_start_thread("that authorizes connections", error))?;
                // If another plugin was faster, this thread ends at once.
                self.requests.get_or_init(|| started)
            }
        };
        let (reply, swapped) = oneshot::channel();
        requests.send(AuthorizerRequest::Swap(slot, version, reply)).ok();
        let swapped = swapped.await.map_err(|_| stopping())?;
        swapped.map_err(|error| conflict(error.to_string()))
    }

    /// Puts the governor back that [`swap`](Self::swap) has returned.
    pub(super) async fn restore(&self, slot: SlotId, governor: Option<Box<Governor>>) {
        let Some(requests) = self.requests.get() else { return };
        let (reply, restored) = oneshot::channel();
        requests.send(AuthorizerRequest::Restore(slot, governor, reply)).ok();
        restored.await.ok();
    }

    pub(super) fn set_mirror(&self, slot: SlotId, mirror: Option<Mirror>) {
        if let Some(requests) = self.requests.get() {
            requests.send(AuthorizerRequest::Mirror(slot, mirror)).ok();
        }
    }
}

impl ConnectGovernors {
    fn swap(
        &mut self,
        slot: SlotId,
        version: Option<CompiledVersion>,
    ) -> Result<Option<Box<Governor>>, SwapError> {
        let start = |CompiledVersion { plugin, on_failure }: CompiledVersion| {
            let mut governor = Governor::for_connections(plugin.clone(), on_failure);
            // Fails if the version does not start.
            governor.swap(plugin, on_failure).map(|()| Box::new(governor))
        };
        let governor = version.map(start).transpose()?;
        Ok(self.replace(slot, governor))
    }

    fn replace(&mut self, slot: SlotId, governor: Option<Box<Governor>>) -> Option<Box<Governor>> {
        match governor {
            Some(governor) => self.0.insert(slot, governor),
            None => self.0.remove(&slot),
        }
    }

    fn headers(&self) -> Vec<String> {
        let names = self.0.values().flat_map(|governor| governor.plugin().headers());
        names.collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }

    fn set_mirror(&mut self, slot: SlotId, mirror: Option<Mirror>) {
        if let Some(governor) = self.0.get_mut(&slot) {
            governor.set_mirror(mirror);
        }
    }

    fn authorize(&mut self, connect: &ConnectRequest) -> Result<Limits, Refusal> {
        let mut narrowest = Limits::default();
        for governor in self.0.values_mut() {
            let limits = governor.connect(connect);
            let limits = limits.map_err(|rejection| wire_refusal(PluginFunction::Connect, rejection))?;
            narrowest.rooms = narrower(narrowest.rooms, limits.rooms);
            narrowest.publishes_per_second =
                narrower(narrowest.publishes_per_second, limits.publishes_per_second);
            narrowest.message_bytes = narrower(narrowest.message_bytes, limits.message_bytes);
        }
        Ok(narrowest)
    }
}

/// The narrower of two limits, each of which may be absent.
fn narrower(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
