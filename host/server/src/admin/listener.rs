//! The listener for operators. It serves from the first moment of a node to its last: while the node is
//! starting, only its health and metrics, and then all calls. Does not know what the calls do.

use super::{
    Status,
    api::{self, Api, PeerAddress},
    body,
    call_limiter::CallLimiter,
    health, hosts,
    incoming_body::{BusyGuard, IncomingBody},
    metrics,
    reload_requests::ReloadHandle,
    router,
    timed_stream::TimedStream,
};
use crate::{
    http::{self, SchemeHint, is_not_http},
    limits::{AddressRange, ClientLimits, FileBudget, KeyFailures, LimitMode, NoSlot, Slot, Slots},
    metrics::{LimitKind, ListenerKind, Metrics},
    rollout::Rollout,
    session::Services,
};
use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};
use switchyard_process::{memory::MemoryAccount, vital::VitalTasks};
use switchyard_protocol::{ErrorCode, Refusal};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;

/// How long the head of a request is awaited, on a new connection or after the previous request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of the head of a request, and of the part of a body that is read at once, in bytes.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// How long a new connection is not closed to make room for another.
const GRACE_PERIOD: Duration = Duration::from_millis(100);
/// How many connections may exist beyond the limit, because they were told to end and have not yet.
const MAX_ENDING_CONNECTIONS: usize = 8;
/// How often it is checked whether they have ended.
const ENDING_CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// How long to wait after the system could not accept a connection.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// When a call to a node that is starting may be tried again, in milliseconds.
const STARTING_RETRY_AFTER_MS: u64 = 1000;
/// Logged when a client uses `https://`.
const TLS_CLIENT: &str =
    "a client of admin.listen sent something other than HTTP, probably TLS: use http://, not https://";

/// The listener for operators. It serves until it is dropped, or until the node that runs with it has stopped.
pub struct AdminListener {
    /// The address that it listens on.
    pub address: SocketAddr,
    pub(crate) status: Arc<Status>,
    /// The metrics of the node, which the listener serves from the start.
    pub(crate) metrics: Metrics,
    /// The vital tasks of the node, which include the listener.
    pub(crate) vitals: VitalTasks,
    handler: Arc<RequestHandler>,
    stopped: CancellationToken,
    task: JoinHandle<()>,
}

/// Admits connections, and answers their requests.
struct RequestHandler {
    /// Set when the node is ready.
    router: OnceLock<Router>,
    /// `admin.hosts`. Set when the configuration is known.
    hosts: OnceLock<Vec<String>>,
    status: Arc<Status>,
    metrics: Metrics,
    failures: KeyFailures,
    /// Maximum number of connections at a time.
    max_connections: usize,
    slots: Arc<Slots>,
    scheme_hint: SchemeHint,
}

impl AdminListener {
    /// Starts to serve the health and the metrics of a node that is starting. Must be called within a Tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// Fails if the address of the listener cannot be determined.
    pub fn start(listener: TcpListener, vitals: VitalTasks) -> io::Result<Self> {
        let (address, metrics) = (listener.local_addr()?, Metrics::default());
        let (status, stopped) = (Arc::new(Status::default()), CancellationToken::new());
        status.set_waiting_for("starting");
        let max_connections = FileBudget::of_process().operators;
        let handler = Arc::new(RequestHandler {
            router: OnceLock::new(),
            hosts: OnceLock::new(),
            status: status.clone(),
            metrics: metrics.clone(),
            // Without a rate: operators are slowed down, but never locked out.
            failures: KeyFailures::new(None, ListenerKind::Operators, metrics.clone()),
            max_connections,
            slots: Slots::new(max_connections, None, GRACE_PERIOD),
            scheme_hint: SchemeHint::new(TLS_CLIENT),
        });
        let accepting = accept(listener, handler.clone(), stopped.clone());
        let task = vitals.spawn("the listener for operators", accepting);
        Ok(Self { address, status, metrics, vitals, handler, stopped, task })
    }

    /// Accepts requests to these host names from now on.
    pub(crate) fn set_hosts(&self, hosts: Vec<String>) {
        self.handler.hosts.set(hosts).ok();
    }

    /// Serves all calls from now on. The node is not ready any more once `stopping` is cancelled.
    pub(crate) fn open(
        &self,
        services: Services,
        rollout: Arc<Rollout>,
        limits: Arc<ClientLimits>,
        stopping: CancellationToken,
        reload: ReloadHandle,
    ) {
        let bodies = MemoryAccount::new(body::MAX_TOTAL_BYTES);
        let calls = CallLimiter::new(self.handler.max_connections);
        let status = self.status.clone();
        let api = Api { services, rollout, limits, bodies, calls, stopping, status, reload };
        self.handler.router.set(router(Arc::new(api))).ok();
    }

    pub(crate) async fn stop(self) {
        self.stopped.cancel();
        let mut this = self;
        (&mut this.task).await.ok();
    }
}

impl Drop for AdminListener {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

async fn accept(listener: TcpListener, handler: Arc<RequestHandler>, stopped: CancellationToken) {
    let tasks = TaskTracker::new();
    loop {
        // Connections that were told to end keep their files until they have.
        while tasks.len() >= handler.max_connections + MAX_ENDING_CONNECTIONS {
            tokio::time::sleep(ENDING_CHECK_INTERVAL).await;
        }
        let admitted = async {
            let (tcp, remote) = listener.accept().await?;
            Ok::<_, io::Error>((tcp, remote, handler.admit(AddressRange::of(remote.ip())).await))
        };
        let admitted = tokio::select! {
            admitted = admitted => admitted,
            () = stopped.cancelled() => return,
        };
        let Ok((tcp, remote, slot)) = admitted else {
            tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            continue;
        };
        let (handler, stopped, slot) = (handler.clone(), stopped.clone(), Arc::new(slot));
        tasks.spawn(async move {
            tokio::select! {
                _ = slot.run(handler.serve(tcp, remote, &slot)) => {}
                () = stopped.cancelled() => {}
            }
        });
    }
}

impl RequestHandler {
    /// Acquires a slot for a connection. If none is free, the connection that has been idle longest is
    /// closed, so that nobody can lock operators out.
    async fn admit(&self, group: AddressRange) -> Slot {
        loop {
            let freed = self.slots.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let retry_at = match self.slots.acquire(group, true) {
                Ok((slot, made_room)) => {
                    if made_room {
                        self.metrics.count_limited(LimitKind::Operators, LimitMode::Enforce);
                    }
                    return slot;
                }
                Err(NoSlot::RetryAt(retry_at)) => retry_at,
                Err(NoSlot::AddressLimit) => unreachable!("these slots have no limit for an address"),
            };
            tokio::select! {
                () = freed => {}
                () = tokio::time::sleep_until(retry_at) => {}
            }
        }
    }

    async fn serve(&self, tcp: TcpStream, remote: SocketAddr, slot: &Arc<Slot>) -> hyper::Result<()> {
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| async move {
            // All other paths need no key.
            let is_call = request.uri().path().starts_with("/v1/");
            let (mut head, body) = request.into_parts();
            head.extensions.insert(PeerAddress(remote.ip().to_canonical()));
            let (body, busy) = match is_call {
                true => IncomingBody::watch(body, slot),
                false => (Body::new(body), BusyGuard::default()),
            };
            let mut response = self.answer(Request::from_parts(head, body)).await?;
            drop(busy);
            if let Some(code) =
                response.extensions().get().copied().filter(|code: &ErrorCode| code.is_invalid_credential())
            {
                self.failures.refused(remote.ip(), false, code).await;
            }
            if response.status() == StatusCode::UNAUTHORIZED {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(response)
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(READ_BUFFER_BYTES)
            .serve_connection(TokioIo::new(TimedStream::new(tcp)), service)
            .await;
        if served.as_ref().is_err_and(is_not_http) {
            self.scheme_hint.log(remote);
        }
        served
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response, std::convert::Infallible> {
        let known = self.hosts.get().map_or(&[][..], Vec::as_slice);
        if let Some(host) = hosts::unknown_host(request.uri(), request.headers(), known) {
            let host = host.escape_debug();
            let message =
                format!("'{host}' is not a host name of this node; if it should be, add it to admin.hosts");
            return Ok(http::refuse(&Refusal::new(ErrorCode::Forbidden, message)));
        }
        match self.router.get() {
            Some(router) => router.clone().call(request).await,
            None => Ok(self.answer_while_starting(request.uri().path())),
        }
    }

    /// Answers for a node that is starting.
    fn answer_while_starting(&self, path: &str) -> Response {
        match path {
            "/livez" => health::LIVE.into_response(),
            "/readyz" => health::starting(self.status.waiting_for()).into_response(),
            "/metrics" => metrics::response(self.metrics.encode()),
            "/openapi.json" => api::openapi(),
            _ => {
                let message = format!("this node is starting: {}", self.status.waiting_for());
                let code = ErrorCode::StoreUnavailable;
                http::refuse(&Refusal::retry(code, message, STARTING_RETRY_AFTER_MS))
            }
        }
    }
}
