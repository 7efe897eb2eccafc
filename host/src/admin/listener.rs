//! The operators' listener, from a node's first moment to its last: while the node is on its way it says that it lives and what it waits for,
//! and from then on it serves everything, without a moment in which nobody listens.

use super::{
    api::{self, Api},
    health, metrics, router,
};
use crate::{
    metrics::Metrics,
    protocol::{Code, Refusal, http},
    session::Services,
    vital::Vitals,
};
use axum::{
    Router,
    body::Body,
    http::Request,
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
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;

/// How long the head of a request is awaited.
const HEAD: Duration = Duration::from_secs(10);

/// The listener, serving until it is dropped or ended.
pub struct Admin {
    pub address: SocketAddr,
    pub status: Arc<Status>,
    /// The node's own, of which the listener tells from the beginning.
    pub metrics: Metrics,
    /// The tasks that the node cannot live without, the listener's among them.
    pub vitals: Vitals,
    desk: Arc<Desk>,
    ended: CancellationToken,
    task: JoinHandle<()>,
}

/// What a node says of itself beside what it can do at this moment.
#[derive(Default)]
pub struct Status(Mutex<Said>);

#[derive(Default)]
struct Said {
    /// Until it is ready.
    waits: String,
    /// By what they are about: what was refused and stays as it was.
    refused: BTreeMap<String, String>,
}

impl Status {
    /// What a node that is on its way waits for.
    pub fn waits(&self, what: impl Into<String>) {
        self.said().waits = what.into();
    }

    /// Why this was not taken, or that the last one was. `what` is for people, such as "the certificate".
    pub fn refused(&self, what: &str, why: Option<String>) {
        let mut said = self.said();
        match why {
            Some(why) => said.refused.insert(what.to_owned(), why),
            None => said.refused.remove(what),
        };
    }

    pub(super) fn all_refused(&self) -> Vec<String> {
        self.said().refused.iter().map(|(what, why)| format!("{what} was not taken: {why}")).collect()
    }

    fn waiting(&self) -> String {
        self.said().waits.clone()
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().expect("no code panics while it holds the status")
    }
}

/// What requests are answered with.
struct Desk {
    /// Once the node is ready.
    router: OnceLock<Router>,
    status: Arc<Status>,
    metrics: Metrics,
}

impl Admin {
    /// Serves from now on.
    pub fn start(listener: TcpListener, vitals: Vitals) -> io::Result<Self> {
        let (address, metrics) = (listener.local_addr()?, Metrics::default());
        let (status, ended) = (Arc::new(Status::default()), CancellationToken::new());
        status.waits("it is starting");
        let desk = Desk { router: OnceLock::new(), status: status.clone(), metrics: metrics.clone() };
        let desk = Arc::new(desk);
        let task = vitals.task("the operators' listener", accept(listener, desk.clone(), ended.clone()));
        Ok(Self { address, status, metrics, vitals, desk, ended, task })
    }

    /// Serves everything from now on; `draining` shows in readiness.
    pub fn open(&self, services: Services, draining: CancellationToken) {
        let api = Api { services, draining, status: self.status.clone() };
        self.desk.router.set(router(Arc::new(api))).ok();
    }

    pub async fn end(self) {
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
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ended.cancelled() => return,
        };
        let Ok((tcp, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (desk, ended) = (desk.clone(), ended.clone());
        tasks.spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                let desk = desk.clone();
                async move { desk.answer(request.map(Body::new)).await }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(tcp), service);
            tokio::select! {
                _ = served => {}
                () = ended.cancelled() => {}
            }
        });
    }
}

impl Desk {
    async fn answer(&self, request: Request<Body>) -> Result<Response, std::convert::Infallible> {
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
                http::refuse(&Refusal::retry(Code::StoreUnavailable, message, 1000))
            }
        }
    }
}
