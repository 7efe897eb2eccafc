//! The operators' listener, from a node's first moment to its last: while the node is on its way it says that it lives and what it waits for,
//! and from then on it serves everything, without a moment in which nobody listens.

use super::{
    api::{self, Api},
    body,
    callers::Callers,
    coming::{AtWork, Coming},
    health, hosts, metrics,
    paced::Paced,
    router,
};
use crate::{
    http,
    limits::{Failures, Files, Full, Group, Limits, Slot, Slots},
    metrics::{Limited, Listener, Metrics},
    session::Services,
    validity::Validity,
};
use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::Duration,
};
use switchyard_process::{memory::MemoryAccount, vital::VitalTasks};
use switchyard_protocol::{ErrorCode, Refusal, unix_ms};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;

/// How long the head of a request is awaited, also behind another one.
const HEAD: Duration = Duration::from_secs(10);
/// Bytes of a head, and of a body that are read at once.
const READ_BUFFER: usize = 64 << 10;
/// How long a connection that serves nobody is left alone when others wait.
const GRACE: Duration = Duration::from_millis(100);
/// Connections beyond those there may be, that have to go and are not gone yet; beyond it they are waited for.
const OVERLAP: usize = 8;
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// After the system gave no connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The listener, serving until it is dropped or ended.
pub struct Admin {
    pub address: SocketAddr,
    pub(crate) status: Arc<Status>,
    /// The node's own, of which the listener tells from the beginning.
    pub(crate) metrics: Metrics,
    /// The tasks that the node cannot live without, the listener's among them.
    pub(crate) vitals: VitalTasks,
    desk: Arc<Desk>,
    ended: CancellationToken,
    task: JoinHandle<()>,
}

/// What a node says of itself beside what it can do at this moment.
#[derive(Default)]
pub(crate) struct Status(Mutex<Said>);

#[derive(Default)]
struct Said {
    /// Until it is ready.
    waits: String,
    /// By what they are about: what was refused and stays as it was.
    refused: BTreeMap<String, String>,
    /// When the certificate is good.
    certificate: Option<Validity>,
}

impl Status {
    /// What a node that is on its way waits for.
    pub(crate) fn waits(&self, what: impl Into<String>) {
        self.said().waits = what.into();
    }

    /// Why this was not taken, or that the last one was. `what` is for people, such as "the certificate".
    pub(crate) fn refused(&self, what: &str, why: Option<String>) {
        let mut said = self.said();
        match why {
            Some(why) => said.refused.insert(what.to_owned(), why),
            None => said.refused.remove(what),
        };
    }

    /// The certificate that is shown from now on.
    pub(crate) fn shows(&self, certificate: Validity) {
        self.said().certificate = Some(certificate);
    }

    /// What of a node that is ready is not as it should be.
    pub(super) fn all_wrong(&self) -> Vec<String> {
        let said = self.said();
        let refused = said.refused.iter().map(|(what, why)| format!("{what} was not taken: {why}"));
        refused.chain(said.certificate.and_then(|certificate| certificate.wrong(unix_s()))).collect()
    }

    /// Seconds until the certificate expires.
    pub(super) fn certificate_left(&self) -> Option<i64> {
        self.said().certificate.map(|certificate| certificate.until - unix_s())
    }

    fn waiting(&self) -> String {
        self.said().waits.clone()
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().expect("no code panics while it holds the status")
    }
}

fn unix_s() -> i64 {
    (unix_ms() / 1000) as i64
}

/// What requests are answered with.
struct Desk {
    /// Once the node is ready.
    router: OnceLock<Router>,
    /// By which names it may be asked for, as soon as the configuration says.
    hosts: OnceLock<Vec<String>>,
    status: Arc<Status>,
    metrics: Metrics,
    failures: Failures,
    /// Connections at a time.
    most: usize,
    slots: Arc<Slots>,
}

impl Admin {
    /// Serves from now on.
    pub fn start(listener: TcpListener, vitals: VitalTasks) -> io::Result<Self> {
        let (address, metrics) = (listener.local_addr()?, Metrics::default());
        let (status, ended) = (Arc::new(Status::default()), CancellationToken::new());
        status.waits("it is starting");
        let most = Files::of_process().operators;
        let desk = Arc::new(Desk {
            router: OnceLock::new(),
            hosts: OnceLock::new(),
            status: status.clone(),
            metrics: metrics.clone(),
            // Operators are slowed down, but never shut out.
            failures: Failures::new(None, Listener::Operators, metrics.clone()),
            most,
            slots: Slots::new(most, None, GRACE),
        });
        let task = vitals.spawn("the operators' listener", accept(listener, desk.clone(), ended.clone()));
        Ok(Self { address, status, metrics, vitals, desk, ended, task })
    }

    /// It may also be asked for by these names.
    pub(crate) fn known_as(&self, hosts: Vec<String>) {
        self.desk.hosts.set(hosts).ok();
    }

    /// Serves everything from now on; `stopping` shows in readiness.
    pub(crate) fn open(&self, services: Services, limits: Arc<Limits>, stopping: CancellationToken) {
        let (bodies, callers) = (MemoryAccount::new(body::ALL), Callers::new(self.desk.most));
        let api = Api { services, limits, bodies, callers, stopping, status: self.status.clone() };
        self.desk.router.set(router(Arc::new(api))).ok();
    }

    pub(crate) async fn end(self) {
        self.ended.cancel();
        let mut this = self;
        (&mut this.task).await.ok();
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

async fn accept(listener: TcpListener, desk: Arc<Desk>, ended: CancellationToken) {
    let tasks = TaskTracker::new();
    loop {
        // Those that made room have files until they are gone.
        while tasks.len() >= desk.most + OVERLAP {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let admitted = async {
            let (tcp, remote) = listener.accept().await?;
            Ok::<_, io::Error>((tcp, remote, desk.admit(Group::of(remote.ip())).await))
        };
        let admitted = tokio::select! {
            admitted = admitted => admitted,
            () = ended.cancelled() => return,
        };
        let Ok((tcp, remote, slot)) = admitted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (desk, ended, slot) = (desk.clone(), ended.clone(), Arc::new(slot));
        tasks.spawn(async move {
            tokio::select! {
                _ = slot.run(desk.serve(tcp, remote, &slot)) => {}
                () = ended.cancelled() => {}
            }
        });
    }
}

impl Desk {
    /// A place for a connection: whoever has been silent longest makes room, so that nobody can keep operators out.
    async fn admit(&self, group: Group) -> Slot {
        loop {
            let freed = self.slots.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let until = match self.slots.take(group, true) {
                Ok((slot, made_room)) => {
                    if made_room {
                        self.metrics.limited(Limited::Operators);
                    }
                    return slot;
                }
                Err(Full::Until(then)) => then,
                Err(Full::Address) => unreachable!("addresses have no limit here"),
            };
            tokio::select! {
                () = freed => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    async fn serve(&self, tcp: TcpStream, remote: SocketAddr, slot: &Arc<Slot>) -> hyper::Result<()> {
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| async move {
            // Nobody has to show a key for anything else.
            let is_call = request.uri().path().starts_with("/v1/");
            let (head, body) = request.into_parts();
            let (body, at_work) = match is_call {
                true => Coming::watch(body, slot),
                false => (Body::new(body), AtWork::default()),
            };
            let mut response = self.answer(Request::from_parts(head, body)).await?;
            drop(at_work);
            if let Some(code @ (ErrorCode::InvalidKey | ErrorCode::ExpiredKey)) =
                response.extensions().get().copied()
            {
                self.failures.refused(remote.ip(), false, code).await;
            }
            if response.status() == StatusCode::UNAUTHORIZED {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(response)
        });
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(READ_BUFFER)
            .serve_connection(TokioIo::new(Paced::new(tcp)), service)
            .await
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response, std::convert::Infallible> {
        let known = self.hosts.get().map_or(&[][..], Vec::as_slice);
        if let Some(host) = hosts::stranger(request.uri(), request.headers(), known) {
            let host = host.escape_debug();
            let message =
                format!("'{host}' is no name of this node; where it is one, put it into admin.hosts");
            return Ok(http::refuse(&Refusal::new(ErrorCode::Forbidden, message)));
        }
        match self.router.get() {
            Some(router) => router.clone().call(request).await,
            None => Ok(self.answer_early(request.uri().path())),
        }
    }

    /// Of a node that is not ready yet.
    fn answer_early(&self, path: &str) -> Response {
        match path {
            "/livez" => health::LIVE.into_response(),
            "/readyz" => health::waiting(self.status.waiting()).into_response(),
            "/metrics" => metrics::text(self.metrics.encode()),
            "/openapi.json" => api::openapi(),
            _ => {
                let message = format!("this node does not serve yet: {}", self.status.waiting());
                http::refuse(&Refusal::retry(ErrorCode::StoreUnavailable, message, 1000))
            }
        }
    }
}
